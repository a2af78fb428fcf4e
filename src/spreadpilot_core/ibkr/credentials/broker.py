"""`CourierBroker`: the manager's side of the courier. It starts one when there is something to ask, and ends it or lets it end.

Fulfils `CredentialBroker`. One courier serves a burst of followers, asked by many tasks at once; one that is dead, owes answers
and has given none for 30 s, or has left out one for two minutes, is given up, what it owed fails, and the next question starts another.
Cancelling a caller takes nothing from the others. What goes through here is references, users, versions, tickets and
delivery targets; a password never does, and nothing that could read one (hvac, cryptography) is loaded here.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from spreadpilot_core.ibkr.audit.trail import actor
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
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Controller, DeliveryTarget, Login
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.file_watch import FileWatch
from spreadpilot_core.ibkr.system.whole_files import STORE_FILE
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import adopt_spans, get_logger, is_traced_now

log = get_logger(__name__)

COMMAND = (sys.executable, "-m", "spreadpilot_core.ibkr.credentials.courier.process")
SILENCE = 30.0
"""Seconds a courier may owe answers and give none."""
LEFT_OUT = 4
"""So many times longer one answer may be owed while others come: the sources have time limits of their own."""
AGE = 60.0
"""Seconds after which a courier is asked for no more secrets, so that those it has seen go with it."""
_FAREWELL = 3.0
_STDERR_TAIL = 2000
_LONGEST_LINE = 2**18
"""Bytes, as the courier has it (which is not imported here: it loads what opens secrets)."""
_SHORT = 200

_PASSED_ON = frozenset(
    """
    HOME LANG LANGUAGE LC_ALL LC_CTYPE LD_LIBRARY_PATH PATH PYTHONHOME TMPDIR TZ SSL_CERT_FILE SSL_CERT_DIR
    REQUESTS_CA_BUNDLE HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy SUDO_USER
    """.split()  # noqa: SIM905  # a list to read
)

_NONSENSE = "The courier failed: its answer can't be understood."

_ERRORS: Mapping[str, type[GatewayManagerError]] = {
    "expired": DeliveryExpiredError,
    "delivery": DeliveryError,
    "store": CredentialStoreError,
    "refused": CredentialsRefusedError,
    "audit": AuditError,
    "unavailable": CredentialsUnavailableError,
    "failed": CourierFailedError,
}


class CourierBroker:
    """Every courier of one manager."""

    def __init__(
        self,
        first_line: Mapping[str, Any],
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        silence: float = SILENCE,
        age: float = AGE,
        stored: FileWatch | None = None,
    ) -> None:
        self._first_line = first_line
        self._stored = stored
        self._command = command
        self._environment = courier_environment(os.environ) if environment is None else dict(environment)
        self._silence = silence
        self._age = age
        self._tasks = Tasks("couriers")
        self._live: dict[int, _Courier] = {}
        self._current: asyncio.Task[_Courier] | None = None
        self._started = 0
        self._closed = False
        self.instrumentation = UNMEASURED
        """Told of each request to Vault."""
        self.renew_within: float | None = None
        """Seconds within which `version` should be asked again, so that Vault's token is renewed in time; None: no matter."""

    @classmethod
    def from_settings(cls, settings: Settings) -> CourierBroker:
        """Couriers that read what these settings name; starts none yet."""
        if settings.vault_enabled and settings.vault_addr is None:
            log.info("stored credentials alone are used", reason="vault_enabled is true, but VAULT_ADDR is not set")
        stored = FileWatch(settings.state_dir / STORE_FILE, poll_interval=settings.poll_interval)
        return cls(first_line(settings), stored=stored)

    def expect(self) -> None:
        """Start a courier for what is asked next; one that nobody asks ends by itself."""
        if not self._closed:
            self._of_the_day()

    async def read(self, ref: str, controller: Controller, *, follower_id: FollowerId) -> Login:
        """Have the secret read and checked for what this controller can take.

        Raises:
            CredentialsUnavailableError: it may pass by itself.
            AuditError: the read could not be audited; may pass too.
            CredentialsRefusedError: it will not.
        """
        answer, courier = await self._ask({"do": "read", "ref": ref, "controller": controller, "follower": follower_id})
        try:
            return Login(
                user=_text(answer["user"]),
                version=_text(answer["version"]),
                source="vault" if answer["source"] == "vault" else "stored",
                written_at=datetime.fromisoformat(answer["written_at"]) if answer["written_at"] else None,
                ticket=f"{courier.serial}:{_text(answer['ticket'])}",
                notice=_text(answer["notice"]) if answer["notice"] else None,
                written_user=_text(answer["written_user"]) if answer.get("written_user") else None,
            )
        except (KeyError, ValueError, TypeError):
            raise CourierFailedError(_NONSENSE) from None

    async def deliver(self, ticket: str, delivery_target: DeliveryTarget) -> None:
        """Have the password of `ticket` brought to `delivery_target`, once.

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
            await courier.ask({"do": "deliver", "ticket": inner, "delivery_target": delivery_target.as_json()})
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
        try:
            return _text(answer["version"])
        except (KeyError, TypeError):
            raise CourierFailedError(_NONSENSE) from None

    async def hints(self) -> AsyncIterator[None]:
        """Yield at the beginning, and whenever the encrypted store has changed since."""
        if self._stored is not None and not self._closed:
            self._stored.open()
            async for _ in self._stored.hints():
                yield

    async def close(self) -> None:
        """End every courier and wait until they are gone; what is still asked fails. Safe to call twice."""
        self._closed = True
        if self._stored is not None:
            await self._stored.close()
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
                renew_within = answer.get("renew_within")
                self.renew_within = float(renew_within) if isinstance(renew_within, int | float) else None
                return answer, courier

    async def _courier(self) -> _Courier:
        if self._closed:
            msg = "The manager is stopping; no secret is read any more."
            raise CredentialsUnavailableError(msg)
        return await asyncio.shield(self._of_the_day())

    def _of_the_day(self) -> asyncio.Task[_Courier]:
        if self._current is None or self._is_past(self._current):
            self._current = self._tasks.begin("start", self._start(), then=_ignore)
        return self._current

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
                limit=2 * _LONGEST_LINE,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"The courier could not be started ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None
        courier = _Courier(process, serial=self._started, silence=self._silence, instrumentation=self.instrumentation)
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
    spans: list[Any] = field(default_factory=list)
    """What the courier's work took."""

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Courier:
    """One process and what it owes."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, serial: int, silence: float, instrumentation: Instrumentation
    ) -> None:
        self.serial = serial
        self.is_leaving = False
        self._process = process
        self._silence = silence
        self._instrumentation = instrumentation
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._owed: dict[int, _Question] = {}
        self._heard = self._born
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
        if len(json.dumps(request)) >= _LONGEST_LINE - _SHORT:
            msg = f"What the courier should be asked is longer than {_LONGEST_LINE} bytes."
            raise CredentialsRefusedError(msg, hint="Is a reference in the follower's record so long?")
        self._owed[number] = question = _Question(self._loop.create_future(), since=self._loop.time())
        is_traced = self._instrumentation.is_on or is_traced_now()
        self.tell({"id": number, **request, **({"traced": True} if is_traced else {})})
        try:
            return await question.answer
        finally:
            self._owed.pop(number, None)
            adopt_spans(question.spans, self._heard_of)

    def _heard_of(self, name: str, operation: str, seconds: float, error: str | None) -> None:
        """One span of the courier's: a request to Vault is a call of something that this manager depends on."""
        if name == "vault request":
            self._instrumentation.dependency_called("vault", operation, seconds, error)

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
            except ValueError:  # longer than any that is meant: what is left of it is no line either
                line = b"\n"
            if line:
                self._heard = self._loop.time()
            if not silent and self._owes_for_long():
                silent = True
                self.kill()
            if line is None:
                continue
            if not line:
                self.is_leaving = True
                return silent
            self._take(_understood(line))

    def _owes_for_long(self) -> bool:
        oldest = next(iter(self._owed.values())).since if self._owed else math.inf  # they stand in the order of asking
        now = self._loop.time()
        return now - max(oldest, self._heard) >= self._silence or now - oldest >= LEFT_OUT * self._silence

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
        number = line.get("id")
        question = self._owed.get(number) if isinstance(number, int) else None
        if question is None or question.answer.done():
            if "ticket" in line:  # nobody waits for it any more
                self._asked += 1
                self.tell({"id": self._asked, "do": "forget", "ticket": line["ticket"]})
            return
        spans = line.get("spans")
        question.spans.extend(spans if isinstance(spans, list) else [])
        if failed := line.get("error"):
            question.fail(_error(failed))
        else:
            question.answer.set_result(line)

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None  # it was started with a pipe
        self._process.stdin.close()

    async def _last_words(self) -> str:
        assert self._process.stderr is not None  # it was started with a pipe
        tail = b""
        while read := await self._process.stderr.read(_STDERR_TAIL):
            tail = (tail + read)[-_STDERR_TAIL:]
        return tail.decode("utf-8", "replace").strip()


def _understood(line: bytes) -> dict[str, Any]:
    """What a line says; one that makes no sense says nothing, and whoever waits for it is told when the courier is given up."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        return said
    log.warning("courier said something that makes no sense", bytes=len(line))
    return {}


def _error(failed: object) -> GatewayManagerError:
    details = failed if isinstance(failed, dict) else {}
    kind = _ERRORS.get(str(details.get("kind")), CredentialsUnavailableError)
    hint = details.get("hint")
    return kind(str(details.get("what") or _NONSENSE), hint=str(hint) if hint else None)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


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
    passed = {name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith("VAULT_")}
    modules = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  # strings, "" is the cwd
    return {**passed, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}


def _path(path: Any) -> str | None:
    return str(path.absolute()) if path else None


def _ignore(starting: asyncio.Task[Any]) -> None:
    """Whoever waits for the start sees how it ended; nobody does when all were cancelled."""
    if not starting.cancelled():
        starting.exception()
