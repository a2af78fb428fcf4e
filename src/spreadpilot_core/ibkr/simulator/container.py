"""The program of the simulator's container image: one simulated gateway that keeps the real image's contract.

    python -m spreadpilot_core.ibkr.simulator.container                        what the image runs
    python -m spreadpilot_core.ibkr.simulator.container inject FAULT [JSON]    in a running one (`docker exec`)
    python -m spreadpilot_core.ibkr.simulator.container state

Which generation it is, is told by the image's own variables, as in the real one (`image_rules`). What is to go wrong is said
by `SIMULATOR_SCRIPT`, a JSON list with one mapping of faults for each start of the gateway's program; what is left of it is kept
in the settings directory, so that the follower's next container goes on there. Other variables:

    SIMULATOR_ACCOUNTS          managed accounts, by commas; made from the user's name otherwise
    SIMULATOR_TIMINGS           `fast` (the default), `real`, or a factor on the real ones
    SIMULATOR_SERVER_VERSION    what the API server offers; 178
    SIMULATOR_PASSWORD_SHA256   the right password's hash; any password is right otherwise
    SIMULATOR_RESET_HOURS       when its IBKR resets, as "America/New_York 23:45-00:45"; not at all otherwise
    SIMULATOR_OLD_CONTROLLER    `yes`: an ibcontroller before 0.1.4, which does not understand a rejected password
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.image_rules import Order, Refused, read_order
from spreadpilot_core.ibkr.simulator.login_book import LoginBook
from spreadpilot_core.ibkr.simulator.script import Script, Timings

CONTROL_SOCKET = Path("/tmp/gateway-simulator.sock")  # noqa: S108  # the container's own
_LEFT_OF_THE_SCRIPT = "simulator-script.json"
_PUBLISHED = {"live": 4003, "paper": 4004}
_API = {"live": 4001, "paper": 4002}
_INNER_PORT_POLL = 0.02
_OF_THE_CONTROLLER = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ibcontroller|error: ")


def main(arguments: Sequence[str]) -> int:
    """Run the gateway, or ask the one that runs; gives the exit code."""
    match arguments:
        case []:
            return _live(os.environ)
        case ["state"]:
            return _ask({"state": True})
        case ["inject", fault]:
            return _ask({"inject": fault, "arguments": {}})
        case ["inject", fault, given]:
            return _ask({"inject": fault, "arguments": json.loads(given)})
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201  # a program
            return 2


def _live(environment: Mapping[str, str]) -> int:
    try:
        order = read_order(environment)
    except Refused as refused:
        for line in refused.lines:
            say(line)
        return refused.exit_code
    return asyncio.run(ImageLife(order, environment).run())


def say(line: str) -> None:
    """Print one line where the real image prints it: the newer controller logs to standard error."""
    stream = sys.stderr if _OF_THE_CONTROLLER.match(line) else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


class ImageLife:
    """One container's life around its gateway."""

    def __init__(self, order: Order, environment: Mapping[str, str]) -> None:
        self._order = order
        self._digest = hashlib.sha256(order.password.encode()).hexdigest()
        self._script_file = order.settings_dir / _LEFT_OF_THE_SCRIPT
        self._given = environment.get("SIMULATOR_SCRIPT")
        self._script = self._script_to_play()
        self._kept = ""
        logins = LoginBook(order.settings_dir)
        self._gateway = SimulatedGateway(
            accounts=_accounts(environment.get("SIMULATOR_ACCOUNTS"), order),
            user=order.user,
            trading_mode=order.trading_mode,
            controller=order.controller,
            host="0.0.0.0",
            port=_PUBLISHED[order.trading_mode],
            script=self._script,
            timings=_timings(environment.get("SIMULATOR_TIMINGS", "fast")),
            on_line=self._say,
            on_typed=lambda: logins.note(order.user, container=socket.gethostname()),
            settings_dir=order.settings_dir,
            server_version=int(environment.get("SIMULATOR_SERVER_VERSION", "178")),
            read_only=order.read_only,
            time_zone=order.time_zone,
            auto_restart_time=order.auto_restart_time,
            existing_session_action=order.existing_session_action,
            relogin_after_missed=order.relogin_after_missed,
            missed_action=order.missed_action,
            password_sha256=environment.get("SIMULATOR_PASSWORD_SHA256") or None,
            reset_hours=environment.get("SIMULATOR_RESET_HOURS", ""),
            old_controller=environment.get("SIMULATOR_OLD_CONTROLLER") == "yes",
        )

    async def run(self) -> int:
        """Live until it ends; gives the container's exit code."""
        CONTROL_SOCKET.unlink(missing_ok=True)  # noqa: ASYNC240  # nothing else runs yet
        control = await asyncio.start_unix_server(self._answer, CONTROL_SOCKET)
        inner = asyncio.create_task(self._inner_port(), name="inner port")
        life = asyncio.create_task(self._gateway.run(self._order.password), name="gateway")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):  # only now, as in the real scripts
            loop.add_signal_handler(number, self._gateway.terminate)
        try:
            return await life
        finally:
            inner.cancel()
            control.close()
            self._keep_script()

    def _say(self, line: str) -> None:
        say(line)
        self._keep_script()

    async def _inner_port(self) -> None:
        """Listen where the gateway itself does, for as long as its API is open: health checks look there."""
        listener: asyncio.Server | None = None
        while True:
            if self._gateway.api_is_open and listener is None:
                port = _API[self._order.trading_mode]
                listener = await asyncio.start_server(self._gateway.api.serve, "127.0.0.1", port)
            elif not self._gateway.api_is_open and listener is not None:
                listener.close()
                listener = None
            await asyncio.sleep(_INNER_PORT_POLL)

    # ------------------------------------------------------------------ the script

    def _script_to_play(self) -> Script:
        with contextlib.suppress(FileNotFoundError):
            kept = json.loads(self._script_file.read_text())
            if kept["given"] == self._given:  # another script begins at its beginning
                return Script.from_json(kept["left"])
        return Script.from_json(json.loads(self._given or "[]"))

    def _keep_script(self) -> None:
        left = json.dumps({"given": self._given, "left": self._script.to_json()})
        if left != self._kept:
            self._kept = left
            self._script_file.write_text(left)

    # ------------------------------------------------------------------ run-time faults

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = self._carry_out(json.loads(await reader.readline()))
        except (ValueError, TypeError, KeyError) as fault:
            answer = {"error": str(fault)}
        with contextlib.suppress(ConnectionError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _carry_out(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if "inject" in asked:
            self._gateway.inject(asked["inject"], **asked["arguments"])
            return {"ok": True}
        return {
            "user": self._order.user,
            "password_sha256": self._digest,
            "trading_mode": self._order.trading_mode,
            "controller": self._order.controller,
            "api_is_open": self._gateway.api_is_open,
        }


def _ask(question: Mapping[str, Any]) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(str(CONTROL_SOCKET))
        line.sendall(json.dumps(question).encode() + b"\n")
        answer = json.loads(line.makefile().readline())
    print(json.dumps(answer))  # noqa: T201  # a program
    return 1 if "error" in answer else 0


def _accounts(given: str | None, order: Order) -> Sequence[str]:
    if given:
        return [account.strip() for account in given.split(",")]
    number = 1_000_000 + zlib.crc32(order.user.encode()) % 9_000_000
    return [f"{'U' if order.trading_mode == 'live' else 'DU'}{number}"]


def _timings(given: str) -> Timings:
    match given:
        case "fast":
            return Timings.FAST
        case "real":
            return Timings.REAL
        case factor:
            return Timings.REAL.scaled(float(factor))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
