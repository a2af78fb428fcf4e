"""`Couriers`: the manager's side of the courier. It starts one when there is something to ask, and ends it or lets it end.

Fulfils `CredentialDesk`. One courier serves a burst of followers, asked by many tasks at once; one that is dead or has
owed an answer for 30 s is given up, what it owed fails, and the next question starts another.
Cancelling a caller takes nothing from the others. What goes through here is references, users, versions, tickets and
doors; a password never does, and nothing that could read one (hvac, cryptography) is loaded here.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from spreadpilot_core.ibkr.audit import actor
from spreadpilot_core.ibkr.errors import (
    AuditError,
    CourierFailedError,
    CredentialsRefusedError,
    CredentialStoreError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
    DeliveryUnsureError,
    GatewayManagerError,
    UnavailableError,
)
from spreadpilot_core.ibkr.protocols import Dialect, FollowerId, Login
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tasks

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "spreadpilot_core.ibkr.credentials.courier")
SILENCE = 30.0
"""Seconds a courier may owe an answer."""
AGE = 60.0
"""Seconds after which a courier is asked for no more secrets, so that those it has seen go with it."""
_FAREWELL = 3.0
_STDERR_KEPT = 2000
_LINE_LIMIT = 2**20

_PASSED_ON = frozenset(
    """
    HOME LANG LANGUAGE LC_ALL LC_CTYPE LD_LIBRARY_PATH PATH PYTHONHOME TMPDIR TZ SSL_CERT_FILE SSL_CERT_DIR
    REQUESTS_CA_BUNDLE HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy SUDO_USER
    """.split()  # noqa: SIM905  # a list to read
)

_ERRORS: Mapping[str, type[GatewayManagerError]] = {
    "expired": DeliveryExpiredError,
    "delivery": DeliveryError,
    "store": CredentialStoreError,
    "refused": CredentialsRefusedError,
    "audit": AuditError,
    "unavailable": CredentialsUnavailableError,
    "failed": CourierFailedError,
}


class Couriers:
    """Every courier of one manager."""

    def __init__(
        self,
        first_line: Mapping[str, Any],
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        silence: float = SILENCE,
        age: float = AGE,
    ) -> None:
        self._first_line = first_line
        self._command = command
        self._environment = courier_environment(os.environ) if environment is None else dict(environment)
        self._silence = silence
        self._age = age
        self._tasks = Tasks("couriers")
        self._live: dict[int, _Courier] = {}
        self._current: asyncio.Task[_Courier] | None = None
        self._started = 0
        self._closed = False
        self.renew_within: float | None = None
        """Seconds within which `version` should be asked again, so that Vault's token is renewed in time; None: no matter."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Couriers:
        """Couriers that read what these settings name; starts none yet."""
        if settings.vault_enabled and settings.vault_addr is None:
            log.info("stored credentials alone are used", reason="vault_enabled is true, but VAULT_ADDR is not set")
        return cls(first_line(settings))

    async def read(self, ref: str, dialect: Dialect, *, follower_id: FollowerId) -> Login:
        """Have the secret read and checked for what this controller can take.

        Raises:
            CredentialsUnavailableError: it may pass by itself.
            AuditError: the read could not be audited; may pass too.
            CredentialsRefusedError: it will not.
        """
        answer, courier = await self._ask({"do": "read", "ref": ref, "dialect": dialect, "follower": follower_id})
        return Login(
            user=answer["user"],
            version=answer["version"],
            source=answer["source"],
            dated=datetime.fromisoformat(answer["dated"]) if answer["dated"] else None,
            ticket=f"{courier.serial}:{answer['ticket']}",
            notice=answer["notice"],
        )

    async def deliver(self, ticket: str, door: Mapping[str, str]) -> None:
        """Have the password of `ticket` brought through `door`, once.

        Raises:
            DeliveryExpiredError: it is held no longer; nothing was sent.
            DeliveryError: it is not certain that it arrived: the container must be removed.
            DeliveryUnsureError: nor is it in the audit trail.
        """
        serial, _, inner = ticket.partition(":")
        courier = self._live.get(int(serial)) if serial.isdecimal() else None
        if courier is None or courier.is_leaving:
            msg = "The courier that held the password has ended."
            raise DeliveryExpiredError(msg)
        try:
            await courier.ask({"do": "deliver", "ticket": inner, "door": dict(door)})
        except _LeftError:
            msg = "The courier that held the password has ended."
            raise DeliveryExpiredError(msg) from None
        except UnavailableError as error:
            raise DeliveryUnsureError(error.what) from None

    async def version(self, ref: str, *, follower_id: FollowerId | None = None) -> str:
        """The newest version of the secret, without its password; the follower is for the audit trail.

        Raises:
            CredentialsUnavailableError: it may pass by itself.
            CredentialsRefusedError: it will not.
        """
        answer, _ = await self._ask({"do": "version", "ref": ref, "follower": follower_id})
        return str(answer["version"])

    async def close(self) -> None:
        """End every courier and wait until they are gone; what is still asked fails. Safe to call twice."""
        self._closed = True
        for courier in list(self._live.values()):
            courier.dismiss()
        await self._tasks.wait(_FAREWELL)
        for courier in list(self._live.values()):
            courier.kill()
        await self._tasks.wait(_FAREWELL)
        await self._tasks.cancel()

    async def _ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], _Courier]:
        """Ask the courier of the day; a question it left unread goes to its successor."""
        while True:
            courier = await self._courier()
            with suppress(_LeftError):
                answer = await courier.ask(request)
                self.renew_within = answer["renew_within"]
                return answer, courier

    async def _courier(self) -> _Courier:
        if self._closed:
            msg = "The manager is stopping; no secret is read any more."
            raise CredentialsUnavailableError(msg)
        if self._current is None or self._is_past(self._current):
            self._current = self._tasks.begin("start", self._start(), then=_ignore)
        return await asyncio.shield(self._current)

    def _is_past(self, starting: asyncio.Task[_Courier]) -> bool:
        if not starting.done():
            return False
        if starting.cancelled() or starting.exception() is not None:
            return True
        courier = starting.result()
        return courier.is_leaving or courier.age > self._age

    async def _start(self) -> _Courier:
        self._started += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                limit=_LINE_LIMIT,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"The courier could not be started ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None
        courier = _Courier(process, serial=self._started, silence=self._silence)
        self._live[courier.serial] = courier
        self._tasks.begin(f"courier {courier.serial}", courier.attend(), then=lambda task: self._gone(courier, task))
        courier.tell(self._first_line)
        if self._closed:
            courier.dismiss()
        return courier

    def _gone(self, courier: _Courier, attending: asyncio.Task[None]) -> None:
        self._live.pop(courier.serial, None)
        if not attending.cancelled() and (error := attending.exception()):
            log.error("courier was given up", exc_info=error)
        courier.settle("it was given up")


class _LeftError(Exception):
    """The courier left before it read the question."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What somebody waits for."""

    answer: asyncio.Future[dict[str, Any]]
    since: float

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Courier:
    """One process and what it owes."""

    def __init__(self, process: asyncio.subprocess.Process, *, serial: int, silence: float) -> None:
        self.serial = serial
        self.is_leaving = False
        self._process = process
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._owed: dict[int, _Question] = {}
        self._asked = 0

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return self._loop.time() - self._born

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer; raises the error it answered with, `CredentialsUnavailableError` when it ended, `_LeftError`."""
        if self.is_leaving:
            raise _LeftError
        self._asked += 1
        number = self._asked
        self._owed[number] = question = _Question(self._loop.create_future(), since=self._loop.time())
        self.tell({"id": number, **request})
        try:
            return await question.answer
        finally:
            self._owed.pop(number, None)

    def tell(self, line: Mapping[str, Any]) -> None:
        """Write one line; a broken pipe shows in `attend`."""
        assert self._process.stdin is not None  # it was started with a pipe
        if not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(line).encode() + b"\n")

    def dismiss(self) -> None:
        """Tell it to end, by the end of its input."""
        self.is_leaving = True
        assert self._process.stdin is not None  # it was started with a pipe
        self._process.stdin.close()

    def kill(self) -> None:
        """End it at once."""
        self.is_leaving = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def attend(self) -> None:
        """Hear it out until it has ended."""
        try:
            silent, words = await asyncio.gather(self._listen(), self._last_words())
            self._close_stdin()
            code = await self._process.wait()
        except BaseException:
            self.kill()
            raise
        if silent or code or self._owed:
            why = f"it owed an answer for {self._silence:.0f} s" if silent else f"it ended with exit code {code}"
            log.warning("courier failed", why=why, words=words)
            self.settle(why)

    def settle(self, why: str) -> None:
        """Fail whatever it still owes."""
        self.is_leaving = True
        for question in self._owed.values():
            question.fail(CourierFailedError(f"The courier failed: {why}."))

    async def _listen(self) -> bool:
        """Take its lines until it ends; whether it was ended because it fell silent."""
        assert self._process.stdout is not None  # it was started with a pipe
        silent = False
        while True:
            try:
                async with asyncio.timeout(min(1.0, self._silence / 4)):
                    line = await self._process.stdout.readline()
            except TimeoutError:
                line = None
            if not silent and self._owes_for_long():
                silent = True
                self.kill()
            if line is None:
                continue
            if not line:
                self.is_leaving = True
                return silent
            self._take(json.loads(line))

    def _owes_for_long(self) -> bool:
        oldest = min((question.since for question in self._owed.values()), default=math.inf)
        return self._loop.time() - oldest >= self._silence

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("leaving"):
            self.is_leaving = True
            for question in self._owed.values():
                question.fail(_LeftError())
        elif said := line.get("said"):
            log.info("courier says", said=said)
        else:
            self._answer(line)

    def _answer(self, line: dict[str, Any]) -> None:
        question = self._owed.get(line["id"])
        if question is None or question.answer.done():
            if "ticket" in line:  # nobody waits for it any more
                self._asked += 1
                self.tell({"id": self._asked, "do": "forget", "ticket": line["ticket"]})
        elif failed := line.get("error"):
            kind = _ERRORS.get(failed["kind"], CredentialsUnavailableError)
            question.fail(kind(failed["what"], hint=failed["hint"]))
        else:
            question.answer.set_result(line)

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None  # it was started with a pipe
        self._process.stdin.close()

    async def _last_words(self) -> str:
        assert self._process.stderr is not None  # it was started with a pipe
        kept = b""
        while read := await self._process.stderr.read(_STDERR_KEPT):
            kept = (kept + read)[-_STDERR_KEPT:]
        return kept.decode("utf-8", "replace").strip()


def first_line(settings: Settings) -> dict[str, Any]:
    """What a courier is told at its start: where things are, and nothing secret."""
    return {
        "state_dir": str(settings.state_dir.absolute()),
        "key_file": _path(settings.credentials_key_file),
        "passphrase_file": _path(settings.credentials_passphrase_file),
        "vault": settings.vault_addr if settings.vault_enabled and settings.vault_addr else None,
        "mount": settings.vault_mount,
        "remember": settings.remember_credentials,
        "who": actor("manager"),
    }


def courier_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a courier inherits: Vault's own variables, where certificates and proxies are, and this process's modules."""
    kept = {name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith("VAULT_")}
    modules = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  # strings, "" is the cwd
    return {**kept, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}


def _path(path: Any) -> str | None:
    return str(path.absolute()) if path else None


def _ignore(starting: asyncio.Task[Any]) -> None:
    """Whoever waits for the start sees how it ended; nobody does when all were cancelled."""
    if not starting.cancelled():
        starting.exception()
