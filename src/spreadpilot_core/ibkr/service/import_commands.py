"""`import`: the gateways of a compose file become followers with stored logins.

Everything is read and checked before anything is written: the compose file, the followers that there are, the logins that are stored.
What is there already as it would be made is left alone, so that a second run changes nothing; what is there otherwise is refused.
Followers are made disabled, for the gateways in Compose may still be logged in.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.audit.trail import AuditTrail, actor
from spreadpilot_core.ibkr.credentials.sources.encrypted.sealed_file import StoredEntry
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId, Roster
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.service.compose.gateways import ImportedGateway, gateways_of, in_use_twice
from spreadpilot_core.ibkr.service.compose.places import ComposeError, Findings
from spreadpilot_core.ibkr.service.compose.project import ComposeProject, OtherService
from spreadpilot_core.ibkr.service.credential_commands import open_store
from spreadpilot_core.ibkr.service.follower_commands import followers_file_of
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.state_dir import make_private
from spreadpilot_core.ibkr.store.local import followers_file
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.system.printable import one_line
from spreadpilot_core.ibkr.system.wording import counted


class ImportRefusedError(GatewayManagerError):
    """Something is in the way of an import; nothing was written."""

    def __init__(self, file: Path, problems: Sequence[str]) -> None:
        if len(problems) == 1:
            super().__init__(problems[0], hint="Nothing was written.")
        else:
            super().__init__(f"{file} can't be imported for {len(problems)} reasons.", hint="Nothing was written.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What an import would do."""

    gateways: Sequence[ImportedGateway]
    others: Sequence[OtherService]
    new_followers: Sequence[ImportedGateway]
    new_logins: Sequence[ImportedGateway]
    findings: Findings


class _Importer:
    """One import: the file, and the stores that it goes into."""

    def __init__(self, file: Path, *, env_file: Path | None, services: Sequence[str], prefix: str) -> None:
        self._file = file
        self._env_file = env_file
        self._services = services
        self._prefix = prefix
        self._settings = Settings.read()
        self._followers = followers_file_of(self._settings)
        self._store = open_store(self._settings)

    def plan(self) -> _Plan:
        """Read and check everything. Raises `GatewayManagerError`; of several reasons all are printed before."""
        try:
            plan = self._plan()
        except RecursionError:
            raise ComposeError(str(self._file), "it is nested too deeply") from None
        problems = list(dict.fromkeys(plan.findings.problems))
        if problems:
            if len(problems) > 1:
                for each in problems:
                    print(one_line(each), file=sys.stderr)
            raise ImportRefusedError(self._file, problems)
        return plan

    def write(self, plan: _Plan) -> None:
        """Store what is new: all of it, or nothing."""
        make_private(self._settings.state_dir)
        trail = AuditTrail(self._settings.state_dir)
        trail.ready()
        who = actor("gateway-manager")
        logins = {each.secret_ref: (each.login.user, each.login.password or "") for each in plan.new_logins}
        versions = self._store.add(logins) if logins else ()
        try:
            for ref, version in zip(logins, versions, strict=True):
                trail.append("set", who=who, ref=self._path(ref), version=version.version, source="stored")
            records = [each.record for each in plan.new_followers]
            if records:
                followers_file.add_followers(self._followers, records, ports=self._settings.host_ports)
        except BaseException:
            for ref in logins:
                self._store.remove(ref)
                trail.append("remove", who=who, ref=self._path(ref), source="stored")
            raise

    # ------------------------------------------------------------------ what is there already

    def _plan(self) -> _Plan:
        findings = Findings()
        project = ComposeProject(self._file, env_file=self._env_file, named=self._services)
        ports = self._settings.host_ports
        services = list(project.gateways())
        gateways = [
            each for service in services for each in gateways_of(service, findings, ports=ports, prefix=self._prefix)
        ]
        others = list(project.others())
        if not services:
            raise _no_gateway(self._file, others)
        roster = followers_file.list_followers(self._followers, ports=ports)
        stored = {entry.ref: entry for entry in self._store.list()}
        _leave_out_pinned_ports(gateways, roster, findings)
        new_followers = [each for each in gateways if self._is_new_follower(each, roster, findings)]
        new_logins = [each for each in gateways if self._is_new_login(each, stored, findings)]
        _remark_on_users(gateways, roster, stored, findings, self._path)
        return _Plan(
            gateways=gateways,
            others=others,
            new_followers=new_followers,
            new_logins=new_logins,
            findings=findings,
        )

    def _path(self, ref: str) -> str:
        return canonical_ref(ref, mount=self._settings.vault_mount)

    def _is_new_follower(self, gateway: ImportedGateway, roster: Roster, findings: Findings) -> bool:
        """Whether its record is to be written; one that is there otherwise is a problem."""
        name = gateway.follower_id
        known = roster.usable.get(FollowerId(name))
        wanted = parse_roster([gateway.record], ports=self._settings.host_ports)
        if fault := wanted.faulty.get(name):
            findings.refuse(gateway.place, f"the follower {name} would be no good: {fault.fault}")
        elif known is not None:
            if differences := _differences(known, wanted.usable[FollowerId(name)]):
                findings.refuse(
                    gateway.place,
                    f"there is a follower {name} already, and {differences[0]}: `--prefix` gives other names,"
                    f" `followers remove {shlex.quote(name)}` takes it out.",
                )
        elif name in roster.faulty:
            findings.refuse(gateway.place, f"there is a follower {name} already, which can't be used: mend its record.")
        else:
            return True
        return False

    def _is_new_login(self, gateway: ImportedGateway, stored: Mapping[str, StoredEntry], findings: Findings) -> bool:
        """Whether its login is to be stored; another one under its reference is a problem."""
        login, ref = gateway.login, gateway.secret_ref
        entry = stored.get(self._path(ref))
        set_it = f"`gateway-manager credentials set {shlex.quote(ref)} --username {shlex.quote(login.user)}`"
        if entry is None:
            if login.password is None:
                findings.refuse(
                    login.password_place,
                    f"{login.password_name} can't be read: {login.why_not}. Store the login by {set_it} and import again.",
                )
            return login.password is not None
        is_same = canonical_user(entry.user) == login.canonical and (
            login.password is None or self._store.read(ref).password == login.password
        )
        if not is_same:
            findings.refuse(
                login.password_place,
                f"another login is stored as {ref}: {set_it} replaces it, `--prefix` gives other names.",
            )
        return False


def import_compose(file: Path, *, dry_run: bool, env_file: Path | None, services: Sequence[str], prefix: str) -> None:
    """Make followers of a compose file's gateways, or say what would be made."""
    importer = _Importer(file, env_file=env_file, services=services, prefix=prefix)
    plan = importer.plan()
    if not dry_run and (plan.new_followers or plan.new_logins):
        importer.write(plan)
    for line in _report(plan, file, dry_run=dry_run):
        print(line)


# ---------------------------------------------------------------------------------------------- what is told


def _report(plan: _Plan, file: Path, *, dry_run: bool) -> Iterator[str]:
    for other in plan.others:
        image = f", its image is {one_line(other.image)}" if other.image else ""
        yield f"{other.place}: {other.name} is no gateway{image}; it is left as it is."
    for remark in plan.findings.in_order():
        yield str(remark)
    yield from _needs(plan)
    yield from _written(plan, dry_run=dry_run)
    if _vault_counts():
        yield "VAULT_ADDR is set, so logins are read from Vault: put them there, or set GATEWAY_MANAGER_VAULT_ENABLED=false."
    if dry_run:
        yield "Nothing was written: this was a dry run."
    elif not plan.new_followers and not plan.new_logins:
        yield "Nothing was written: all of it was there."
    if plan.new_followers:
        yield from _next_steps(plan, file)


def _written(plan: _Plan, *, dry_run: bool) -> Iterator[str]:
    if plan.new_followers:
        yield f"\n{'Would be written' if dry_run else 'Written'} to the followers:\n"
        yield followers_file.rendered([each.record for each in plan.new_followers])
    for each in plan.new_logins:
        stored = "would be stored" if dry_run else "is stored"
        yield f"The login of {each.login.user} {stored}, encrypted, as {each.secret_ref} ({each.login.password_place})."
    new = {each.follower_id for each in (*plan.new_followers, *plan.new_logins)}
    for each in plan.gateways:
        if each.follower_id not in new:
            yield f"{each.follower_id} is there already, with its login; nothing changes."


def _next_steps(plan: _Plan, file: Path) -> Iterator[str]:
    """How to go on without a user who is logged in twice."""
    compose = f"docker compose -f {shlex.quote(str(file))}"
    yield "\nIBKR has one session for each user, so the gateway in Compose ends before its follower is enabled:\n"
    for service in dict.fromkeys(each.service for each in plan.new_followers):
        mine = [each for each in plan.new_followers if each.service == service]
        yield f"    {compose} stop {service}"
        if any(each.restarts for each in mine):
            yield f"    {compose} rm --force {service}    # restart: always brings it back with the engine"
        for each in mine:
            yield f"    gateway-manager followers enable {shlex.quote(each.follower_id)}"


def _needs(plan: _Plan) -> Iterator[str]:
    """Other services that bring a gateway back when Compose starts them."""
    services = {each.service for each in plan.gateways}
    for other in plan.others:
        for name in services & other.needs.keys():
            yield (
                f"{other.needs[name]}: {other.name} depends on {name}, so `docker compose up` starts that again: take the"
                " dependency out."
            )


def _vault_counts() -> bool:
    settings = Settings.read()
    return settings.vault_enabled and settings.vault_addr is not None


# ---------------------------------------------------------------------------------------------- what is compared


def _differences(known: Follower, wanted: Follower) -> list[str]:
    """What the import would have otherwise; what it says nothing of may be as it likes."""
    mine: dict[str, Any] = wanted.gateway.model_dump(exclude_none=True)
    theirs = known.gateway.model_dump()
    before: dict[str, Any] = {f"gateway.{name}": theirs[name] for name in mine}
    after = {f"gateway.{name}": value for name, value in mine.items()}
    before |= {"trading_mode": known.trading_mode.value, "vault_secret_ref": canonical_ref(known.vault_secret_ref)}
    after |= {"trading_mode": wanted.trading_mode.value, "vault_secret_ref": canonical_ref(wanted.vault_secret_ref)}
    return [
        f"its {name} is {before[name]!r} instead of {after[name]!r}" for name in after if before[name] != after[name]
    ]


def _leave_out_pinned_ports(gateways: Sequence[ImportedGateway], roster: Roster, findings: Findings) -> None:
    """Two enabled followers who pin one port would both be unusable."""
    holders = {each.gateway.port: str(each.id) for each in roster.usable.values() if each.gateway.port is not None}
    for each in gateways:
        port = each.options.get("port")
        if port is not None and holders.setdefault(port, each.follower_id) != each.follower_id:
            findings.remark(each.place, f"port {port} is pinned by {holders[port]}, and so not by {each.follower_id}.")
            del each.options["port"]


def _remark_on_users(
    gateways: Sequence[ImportedGateway],
    roster: Roster,
    stored: Mapping[str, StoredEntry],
    findings: Findings,
    path: Any,
) -> None:
    for first, second in in_use_twice(gateways):
        findings.remark(
            second.login.user_place,
            f"{first.follower_id} and {second.follower_id} are one IBKR user, {second.login.user}: enable one of them.",
        )
    mine = {each.follower_id for each in gateways}
    users = {
        canonical_user(stored[path(each.vault_secret_ref)].user): each.id
        for each in roster.usable.values()
        if each.id not in mine and path(each.vault_secret_ref) in stored
    }
    for each in gateways:
        if (other := users.get(each.login.canonical)) is not None:
            findings.remark(
                each.login.user_place,
                f"{each.follower_id} and {other} are one IBKR user, {each.login.user}: enable one of them.",
            )


def _no_gateway(file: Path, others: Sequence[OtherService]) -> ComposeError:
    named = ", ".join(each.name for each in others[:5])
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""  # noqa: PLR2004  # five are enough
    return ComposeError(
        str(file),
        f"none of its {counted(len(others), 'service')} ({named}{more}) has an image gnzsnz/ib-gateway",
        hint="`--service NAME` says which one is such a gateway under another name.",
    )
