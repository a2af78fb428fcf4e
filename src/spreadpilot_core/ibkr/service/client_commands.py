"""Clients in other programs: `exec` runs one with a client id of its own, `endpoint` says where a gateway is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from spreadpilot_core.ibkr.errors import ClientLeaseLostError, UnavailableError
from spreadpilot_core.ibkr.model.client_leases import GatewayEndpoint, LeasedClient
from spreadpilot_core.ibkr.remote.lease_renewals import LeaseRenewals, clients_path, lease_path
from spreadpilot_core.ibkr.remote.transport import Line, Route, Target
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.surroundings import umask_before
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.printable import one_line
from spreadpilot_core.ibkr.system.regular_files import read_regular

_ASK_FOR = 25.0
"""Seconds that one request waits."""
_AGAIN_AFTER = 1.0
_RENEW_INTERVAL = 5.0
"""Seconds between two renewals, which say whether the gateway was replaced."""
_CLOSES_WITHIN = 30.0
"""Seconds that a program has to end before it is started anew."""
_NOT_FOUND, _NOT_STARTED = 127, 126
"""As a shell has them."""
_KILLED = 128
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_HEARS_WITHIN = 0.5
"""Seconds until a signal is forwarded at the latest."""
_OF_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def route_to(url: str | None, token_file: Path | None, ca_file: Path | None) -> Route:
    """To the manager that is meant: of the settings, or at an address with a token from a file."""
    token = read_regular(token_file).decode().strip() if token_file is not None else None
    return Route((Target.of(url or f"unix:{Settings.read().state_dir}", token=token, ca_file=ca_file),))


def endpoint(follower: str, *, wait: float, route: Route, as_json: bool) -> None:
    """Print where the gateway's API answers, once it is ready."""
    path = f"/endpoints/{quote(follower, safe='').replace('.', '%2E')}"
    found = GatewayEndpoint.model_validate(_ask_until_ready(Line(route), "GET", path, wait=wait))
    if as_json:
        tables.print_json([found.model_dump(mode="json")])
    else:
        print(f"{found.host}:{found.port}")


def run_program(  # noqa: D417  # the rest says itself
    follower: str,
    command: Sequence[str],
    *,
    name: str | None,
    wait: float,
    require: str | None,
    restart: bool,
    route: Route,
) -> NoReturn:
    """Run `command` with a client id, and end as it ends.

    Args:
        restart: start it anew when its gateway was replaced, or when it failed while its gateway was away.
    """
    line = Line(route)
    query = f"?{urlencode({'require': require})}" if require is not None else ""
    body = {"name": name} if name is not None else None
    asked = _ask_until_ready(line, "POST", f"{clients_path(follower)}{query}", body, wait=wait)
    program = _Program(command, LeasedClient.model_validate(asked), restarts=restart, required=require)
    renewals = LeaseRenewals(route)
    try:
        code = program.run(renewals, lambda leased: _when_ready(line, leased, body))
    finally:
        renewals.close()
    sys.exit(code)


class _Program:
    """The user's program, for as long as it runs."""

    def __init__(self, command: Sequence[str], leased: LeasedClient, *, restarts: bool, required: str | None) -> None:
        self._command = command
        self._required = required
        self._leased = leased
        self._restarts = restarts
        self._process: int | None = None
        self._is_starting = False
        self._held_back: list[int] = []
        """Signals that came while it was started."""
        self._outdated = threading.Event()
        """What it was started with is no longer so."""
        self._must_end = False

    def run(self, renewals: LeaseRenewals, when_ready: Any) -> int:
        """Run it to its end, and again where that is wanted; its exit code."""
        for number in _FORWARDED:
            if (
                signal.getsignal(number) is not signal.SIG_IGN
            ):  # as nohup and a shell's & have it: the program ignores it too
                signal.signal(number, self._forward)
        while True:
            self._outdated.clear()
            renewals.keep(self._leased, self._renewed, every=_RENEW_INTERVAL)
            code = self._run_once()
            if not self._restarts or self._must_end or (code == 0 and not self._outdated.is_set()):
                return code
            if not self._outdated.is_set():
                time.sleep(_AGAIN_AFTER)  # the manager hears of a closed socket in the same moment
            now = when_ready(self._leased)
            if self._is_in_other_mode(now) or (not self._outdated.is_set() and now is self._leased):
                return code
            _say(
                f"{self._command[0]} is started again: the gateway of {now.follower_id} answers at {now.host}:{now.port}."
            )
            self._leased = now

    def _run_once(self) -> int:
        os.umask(umask_before())
        try:
            process = self._start()
        except OSError as error:
            _say(f"{self._command[0]} can't be run: {error.strerror}.")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
        code = os.waitstatus_to_exitcode(self._ended(process))
        return code if code >= 0 else _KILLED - code

    def _ended(self, process: int) -> int:
        """Its status, once it has ended. Another thread waits for it: a signal that came in the moment before this one was
        blocked would be heard only when the program has ended by itself.
        """
        statuses: SimpleQueue[int] = SimpleQueue()

        def reap() -> None:
            _, status = os.waitpid(process, 0)
            self._process = None
            statuses.put(status)

        threading.Thread(target=reap, name="wait for the program", daemon=True).start()
        while True:
            with suppress(Empty):
                return statuses.get(timeout=_HEARS_WITHIN)

    def _start(self) -> int:
        """Its process, which has had every signal that came meanwhile. Raises `OSError`."""
        self._held_back, self._is_starting = [], True
        try:
            process = self._process = os.posix_spawnp(
                self._command[0],
                list(self._command),
                environment(self._leased),
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            self._is_starting = False
        for number in self._held_back:
            self._send(signal.Signals(number), process)
        return process

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._must_end = self._must_end or number not in (signal.SIGUSR1, signal.SIGUSR2)
        if self._is_starting:
            self._held_back.append(number)
            return
        process = self._process
        if process is None:
            sys.exit(_KILLED + number)
        if not (number in _OF_THE_TERMINAL and _is_in_foreground()):  # else the terminal has told it as well
            self._send(signal.Signals(number), process)

    def _send(self, number: signal.Signals, process: int | None) -> None:
        """To this process, if it is still the one that runs."""
        if process is not None and process == self._process:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    # ------------------------------------------------------------------ in the renewing thread

    def _renewed(self, answer: LeasedClient | ClientLeaseLostError) -> None:
        started_with = self._leased
        if isinstance(answer, ClientLeaseLostError):
            self._is_outdated(f"the client id {started_with.client_id} may be somebody else's now")
        elif self._is_in_other_mode(answer):
            self._is_ending = True
            self._end()
        elif answer.ready and answer.serial != started_with.serial:
            where = (answer.host, answer.port)
            moved = (
                f", and answers at {answer.host}:{answer.port} now"
                if where != (started_with.host, started_with.port)
                else ""
            )
            self._leased = answer
            self._is_outdated(f"its gateway was replaced{moved}")

    def _is_outdated(self, why: str) -> None:
        _say(f"{self._command[0]}: {why}.")
        if self._restarts:
            self._outdated.set()
            self._end()

    def _is_in_other_mode(self, answer: LeasedClient) -> bool:
        """Whether the gateway is not what the program was started for: from paper to live nobody is taken along."""
        mode = answer.trading_mode.value if answer.trading_mode is not None else None
        if self._required is None or mode in (None, self._required):
            return False
        _say(f"{self._command[0]}: {answer.follower_id} is {mode} now, and {self._required} is required; it is ended.")
        return True

    def _end(self) -> None:
        """Ask the program to end, and see that it does."""
        process = self._process
        self._send(signal.SIGTERM, process)
        killing = threading.Timer(_CLOSES_WITHIN, self._send, (signal.SIGKILL, process))
        killing.daemon = True
        killing.start()


def environment(leased: LeasedClient) -> dict[str, str]:
    """Ours, with what a client of this gateway needs to know."""
    variables = {
        "IB_HOST": leased.host,
        "IB_PORT": leased.port,
        "IB_CLIENT_ID": leased.client_id,
        "IB_ACCOUNT": leased.account,
        "IB_TRADING_MODE": leased.trading_mode.value if leased.trading_mode is not None else None,
    }
    inherited = {name: value for name, value in os.environ.items() if name not in variables}
    return inherited | {name: str(value) for name, value in variables.items() if value is not None}


def _when_ready(line: Line, leased: LeasedClient, body: Mapping[str, Any] | None) -> LeasedClient:
    """The lease as it is once the gateway is ready again; the same object where nothing has changed."""
    first = True
    while True:
        try:
            path = lease_path(leased.follower_id, leased.lease)
            answer = line.ask("PUT", path if first else f"{path}?wait={_ASK_FOR:g}", within=2 * _ASK_FOR)
            now = LeasedClient.model_validate(answer)
        except ClientLeaseLostError:
            asked = _ask_until_ready(line, "POST", clients_path(leased.follower_id), body, wait=_ASK_FOR)
            return LeasedClient.model_validate(asked)
        except UnavailableError:  # away, standing by, without its store: it passes
            time.sleep(_AGAIN_AFTER)
            continue
        if now.ready:
            return leased if first and now.serial == leased.serial else now
        first = False
        time.sleep(_AGAIN_AFTER if now.is_down else 0)


def _ask_until_ready(line: Line, method: str, path: str, body: Mapping[str, Any] | None = None, *, wait: float) -> Any:
    """Ask in pieces, while the gateway is on its way or the manager is away. Raises what it was refused with last."""
    deadline = time.monotonic() + wait
    joint = "&" if "?" in path else "?"
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            return line.ask(method, f"{path}{joint}wait={min(left, _ASK_FOR):.3f}", body, within=2 * _ASK_FOR)
        except UnavailableError:  # of the manager, of its store, or of the gateway
            if time.monotonic() >= deadline:
                raise
        time.sleep(min(_AGAIN_AFTER / 4, left))


def _is_in_foreground() -> bool:
    """Whether the terminal tells the whole group of Ctrl-C: the program is in it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _say(sentence: str) -> None:
    try:
        print(one_line(f"gateway-manager: {sentence}"), file=sys.stderr, flush=True)
    except OSError:  # its standard error is closed, which is the program's affair
        return
