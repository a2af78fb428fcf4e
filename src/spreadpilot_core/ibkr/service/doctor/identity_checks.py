"""Who manages here, and what on the engine is not this manager's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError, SettingsError
from spreadpilot_core.ibkr.model.gateways import ForeignGateway
from spreadpilot_core.ibkr.model.records import NOBODY, Identities, Record
from spreadpilot_core.ibkr.runtimes.identity import living
from spreadpilot_core.ibkr.runtimes.registry import reader
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import store
from spreadpilot_core.ibkr.supervision.ownership import claim
from spreadpilot_core.ibkr.wiring import known_identities


async def identity(settings: Settings) -> Sequence[Finding]:
    """The identity, and a line for each container that looks like a gateway and is left alone."""
    noted = await known_identities(settings)
    found = [ok(_said(noted))]
    try:
        return [*found, *await _left_alone(settings, NOBODY if noted is None else noted)]
    except (RuntimeUnavailableError, SettingsError):  # the runtime's own line tells why
        return found


def _said(noted: Identities | None) -> str:
    if noted is None:
        return "The manager has no identity yet; its first start makes it."
    adopted = f", and adopted {', '.join(noted.adopted)}" if noted.adopted else ""
    return f"The manager has the identity {noted.own}{adopted}."


async def _left_alone(settings: Settings, noted: Identities) -> list[Finding]:
    try:
        records = (await store(settings).read_records(settings)).usable
    except GatewayManagerError:  # the records' own line tells why
        records = None
    async with reader(settings, noted) as runtime_reader:
        seen, foreign = await runtime_reader.list(), runtime_reader.foreign
    claims = claim(
        seen,
        lambda follower_id: ((records or {}).get(follower_id) or Record(follower_id=follower_id), None),
        noted,
        records_known=records is not None,
        accept_lost_records=False,
    )
    alive = {sign.identity for sign in await asyncio.to_thread(living, [each.identity for each in foreign])}
    by_identity: dict[str, list[ForeignGateway]] = {}
    for each in foreign:
        by_identity.setdefault(each.identity, []).append(each)
    return [
        *(warning(sentence) for sentence in claims.reports.values()),
        *(ok(_others(theirs, lives=whose in alive)) for whose, theirs in by_identity.items()),
    ]


def _others(theirs: Sequence[ForeignGateway], *, lives: bool) -> str:
    """All that one other manager has."""
    first = theirs[0]
    names = ", ".join(f"{each.name} (port {each.host_port})" if each.host_port else each.name for each in theirs)
    many = f"The containers {names} belong to another manager (identity {first.identity})"
    then = "Its manager lives on this host." if lives else first.cure
    return f"{many if len(theirs) > 1 else first}. {then}"
