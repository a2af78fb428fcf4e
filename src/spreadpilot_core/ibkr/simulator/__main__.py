"""One simulated gateway as a command: logged in and answering within a second, until it is stopped.

    python -m spreadpilot_core.ibkr.simulator --port 4002 --account DU1234567

While it runs, each line on standard input makes a fault happen: its name, then, where it takes any, its first argument or
all of them as JSON (`link_lost`, `crash 134`, `notice {"code": 2105}`); `help` lists them. Exit code: 0 after SIGTERM or
Ctrl-C, the container's when the gateway ended by itself, 1 when the port is taken, 2 after wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from spreadpilot_core.ibkr.simulator import faults
from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.script import Script, Timings

_FAILED = 1
_WRONG_USAGE = 2
_CHUNK = 4096
_LAST_PORT = 65535
_TIMINGS = {"fast": Timings.FAST, "real": Timings.REAL}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(_WRONG_USAGE, f"{self.prog}: {message}; --help shows what it takes.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = _make_parser()
    given = parser.parse_args(arguments)
    try:
        gateway = _make_gateway(given)
    except ValueError as error:
        parser.error(str(error))
    try:
        gateway.bind()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        sys.stderr.write(f"{parser.prog}: port {given.port} of {given.host} can't be used: {reason}.\n")
        return _FAILED
    return asyncio.run(_live(gateway, given))


def _make_parser() -> _Parser:
    parser = _Parser(prog="simulator", description="One simulated IB Gateway, logged in.")
    parser.add_argument("--port", type=int, required=True, help="where API clients connect; 0 takes a free port")
    parser.add_argument("--account", action="append", metavar="DU1234567", help="may be given several times")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (%(default)s); the API has no passwords"
    )
    parser.add_argument("--server-version", type=int, default=178, help="157 to 178 (%(default)s)")
    parser.add_argument("--live", action="store_true", help="a live login, with a phone approval and no disclaimer")
    parser.add_argument("--read-only", action="store_true", help="the API refuses orders")
    parser.add_argument(
        "--controller", choices=("ibcontroller", "ibc"), default="ibcontroller", help="whose log it prints"
    )
    parser.add_argument(
        "--timings", choices=tuple(_TIMINGS), default="fast", help="how long a login takes (%(default)s)"
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=ARGUMENTS][@SECONDS]",
        help="goes wrong at the start or, for what can happen later, so many seconds after the login",
    )
    parser.add_argument("--log", action="store_true", help="print the container's log on standard error")
    return parser


def _make_gateway(given: argparse.Namespace) -> SimulatedGateway:
    if not 0 <= given.port <= _LAST_PORT:
        raise ValueError(f"port is {given.port}, but must be 0 to {_LAST_PORT}")
    for account in given.account or ():
        if not account.isalnum():
            raise ValueError(f"account {account!r} is no account number")
    return SimulatedGateway(
        accounts=given.account or ["U1234567" if given.live else "DU1234567"],
        trading_mode="live" if given.live else "paper",
        controller=given.controller,
        host=given.host,
        port=given.port,
        script=Script.from_json([_make_lap(given.fault)]),
        timings=_TIMINGS[given.timings],
        server_version=given.server_version,
        read_only=given.read_only,
        on_line=_print_line if given.log else lambda _line: None,
    )


def _print_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _make_lap(given: Sequence[str]) -> dict[str, Any]:
    """The first start's faults: `NAME=ARGUMENTS` at the start, `NAME=ARGUMENTS@SECONDS` after the login."""
    lap: dict[str, Any] = {"then": []}
    for text in given:
        what, at, seconds = text.rpartition("@") if "@" in text else (text, "", "0")
        name, _, words = what.partition("=")
        arguments = _read_arguments(words)
        if not at and name in faults.known(at_start=True):
            lap[name] = arguments
        else:
            lap["then"].append({"after": seconds, "fault": name, **faults.check(name, arguments)})
    return lap


def _read_arguments(words: str) -> Any:
    """A fault's arguments: JSON where it is, else the words themselves; nothing stands for the defaults."""
    if not words:
        return None
    try:
        return json.loads(words)
    except ValueError:
        return words


async def _live(gateway: SimulatedGateway, given: argparse.Namespace) -> int:
    life = asyncio.create_task(gateway.run("any password is right"), name="simulated gateway")
    stopped = _stop_on_signals(gateway, life)
    telling = asyncio.create_task(_tell_address(gateway, given), name="says where it listens")
    loop = asyncio.get_running_loop()
    _listen_to_standard_input(lambda line: loop.call_soon_threadsafe(_obey, gateway, line))
    await asyncio.wait((life,))
    telling.cancel()
    if stopped.is_set():
        return 0
    sys.stderr.write(f"The gateway has ended with exit code {life.result()}.\n")
    return life.result()


def _stop_on_signals(gateway: SimulatedGateway, life: asyncio.Task[int]) -> asyncio.Event:
    """Stop tidily at the first signal and at once at the second; gives what is set then."""
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():
            life.cancel()
        stopped.set()
        gateway.inject("thaw")
        gateway.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopped


async def _tell_address(gateway: SimulatedGateway, given: argparse.Namespace) -> None:
    await gateway.until_usable()
    mode = "live" if given.live else "paper"
    accounts = ", ".join(gateway.accounts)
    sys.stdout.write(f"Simulated IB Gateway ({mode}, {accounts}) answers on {given.host}:{gateway.port}.\n")
    sys.stdout.flush()


def _listen_to_standard_input(obey: Callable[[str], object]) -> None:
    """Read lines in a thread of its own: standard input may be a file or a terminal, which no loop can wait for."""
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background of a shell, reading fails instead of stopping us

    def read() -> None:
        rest = b""
        try:
            while chunk := os.read(0, _CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    obey(line.decode(errors="replace").strip())
        except (OSError, RuntimeError):  # no standard input, or the loop has ended meanwhile
            return

    threading.Thread(target=read, name="faults from standard input", daemon=True).start()


def _obey(gateway: SimulatedGateway, line: str) -> None:
    name, _, words = line.partition(" ")
    if not name:
        return
    if name == "help":
        sys.stderr.write("".join(f"{fault.name}: {fault.does}\n" for fault in faults.FAULTS.values()))
        return
    try:
        gateway.inject(name, **faults.check(name, _read_arguments(words.strip())))
    except (ValueError, TypeError) as error:
        sys.stderr.write(f"Not done: {error}.\n")


if __name__ == "__main__":
    sys.exit(main())
