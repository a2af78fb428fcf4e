"""One simulated gateway: a container's life from its start to its exit code, around an API server on a real socket.

`run` walks through it: controller, login form, login, API open, nightly restarts, until it is stopped or ends by itself.
Everything that the real container would print goes to `on_line`, one line at a time. Many gateways share one process and
one event loop; cancelling `run` is the SIGKILL.

    async with SimulatedGateway.logged_in(accounts=["DU1234567"]) as gateway:
        await ib.connectAsync("127.0.0.1", gateway.port, clientId=1)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator import faults
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.controllers.ibc import IbcContainer
from spreadpilot_core.ibkr.simulator.controllers.ibcontroller import IbcontrollerContainer
from spreadpilot_core.ibkr.simulator.machine import Killed, Machine
from spreadpilot_core.ibkr.simulator.outer_port import OuterPort, PublishedPort
from spreadpilot_core.ibkr.simulator.script import Lap, Script, Timings
from spreadpilot_core.ibkr.simulator.setup import Setup
from spreadpilot_core.ibkr.simulator.switches import SWITCHES

_CONTROLLERS: Mapping[str, type[IbcContainer | IbcontrollerContainer]] = {
    "ibc": IbcContainer,
    "ibcontroller": IbcontrollerContainer,
}
_CLIENT_GONE = "remove Client {client_id}"
"""The program's own line, the same in both images."""


def _ignore(_line: str) -> None:
    pass


def _count_nothing() -> None:
    pass


class SimulatedGateway:
    """A gateway for one IBKR user; `run` once."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        user: str = "simulated",
        trading_mode: str = "paper",
        controller: str = "ibcontroller",
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | None = None,
        timings: Timings = Timings.FAST,
        on_line: Callable[[str], None] = _ignore,
        on_typed: Callable[[], None] = _count_nothing,
        settings_dir: Path | None = None,
        server_version: int = 178,
        read_only: bool = False,
        time_zone: str = "Etc/UTC",
        auto_restart_time: str | None = None,
        existing_session_action: str = "primary",
        relogin_after_missed: bool = False,
        missed_action: str = "exit",
        old_controller: bool = False,
        password_sha256: str | None = None,
        reset_hours: str = "",
        seed: int | None = None,
        make_port: Callable[[ApiServer, Callable[[], None]], PublishedPort] = OuterPort,
    ) -> None:
        """Make one; nothing happens until `bind` or `run`.

        Args:
            accounts: IBKR account numbers that the login manages, at least one.
            user: The IBKR user name; empty counts as missing credentials.
            trading_mode: `paper` (a disclaimer after the login) or `live` (a second factor during it).
            controller: Which controller types the login: `ibc` or `ibcontroller`.
            host: Address that the published port is bound to.
            port: The published port; 0 takes a free one.
            script: What goes wrong, one lap for each start of the program; it is used up as they happen.
            timings: How long things take.
            on_line: Takes each line of the container's log, without its line end.
            on_typed: Called when credentials were typed, before their answer.
            settings_dir: Outlives the container; None forgets everything between two gateways.
            server_version: API server version, 157 to 178.
            read_only: Whether the API refuses orders.
            time_zone: IANA name; the log's stamps and `auto_restart_time` are in it.
            auto_restart_time: Daily restart, "hh:mm AM|PM"; None has none.
            existing_session_action: `primary`, `primaryoverride`, `secondary` or `manual`.
            relogin_after_missed: Whether the controller logs in again by itself after a missed second factor.
            missed_action: `exit` or `restart`, what ibcontroller (and IBC in part) does after a missed second factor.
            old_controller: Whether ibcontroller is older than 0.1.4, which doesn't understand a rejected password.
            password_sha256: Hash of the one right password, hexadecimal; None takes any that isn't empty.
            reset_hours: When its IBKR resets, as "America/New_York 23:45-00:45", several by commas: it is closed as they begin
                (exit code 0), and a login in them is dropped without an answer.
            seed: Makes market prices repeatable.
            make_port: Makes the published port in front of the API; it is told what to do when it lets nobody in.

        Raises:
            ValueError: A value is not one of those allowed; the sentence says which are.
        """
        if controller not in _CONTROLLERS:
            raise ValueError(f"controller is {controller!r}, but must be one of {', '.join(_CONTROLLERS)}")
        setup = Setup(
            user=user,
            trading_mode=trading_mode,
            accounts=accounts,
            read_only=read_only,
            time_zone=time_zone,
            existing_session_action=existing_session_action,
            auto_restart_time=auto_restart_time,
            relogin_after_missed=relogin_after_missed,
            missed_action=missed_action,
            old_controller=old_controller,
            password_sha256=password_sha256,
            reset_hours=reset_hours,
            settings_dir=settings_dir,
        )
        self.api = ApiServer(
            accounts=accounts,
            server_version=server_version,
            read_only=read_only,
            seed=seed,
            on_client_gone=self._tell_client_gone,
        )
        self._address = (host, port)
        self._port = make_port(self.api, self._tell_refused)
        self._machine = Machine(
            setup=setup,
            script=script if script is not None else Script(),
            timings=timings,
            api=self.api,
            port=self._port,
            on_line=on_line,
            on_typed=on_typed,
            on_login=self._schedule,
        )
        self._controller = _CONTROLLERS[controller](self._machine)

    @property
    def port(self) -> int:
        """The published port; 0 before `bind` or `run`, and after its end."""
        return self._port.number

    @property
    def accounts(self) -> Sequence[str]:
        """The account numbers that its login manages."""
        return self._machine.setup.accounts

    @property
    def is_usable(self) -> bool:
        """Whether an API client is served as it should be."""
        return self._machine.usable.is_set()

    @property
    def api_is_open(self) -> bool:
        """Whether the API's port inside the container is open, usable or not."""
        return self._port.is_open

    def bind(self) -> int:
        """Take the published port before `run` does, and give its number. Raises `OSError` when it is taken."""
        return self._port.bind(*self._address)

    async def run(self, password: str) -> int:
        """Live a container's whole life and give its exit code. The password is looked at once and not kept."""
        self._machine.look_at(password)
        del password
        try:
            self.bind()
            self._port.resume()
            return await self._controller.run()
        except Killed as end:
            return end.exit_code
        finally:
            self._machine.shut_api()
            self._machine.close()
            await self._port.close()
            await self.api.close()

    def terminate(self) -> None:
        """SIGTERM. A frozen gateway acts on it once it is thawed."""
        self._machine.tell("terminate", {})

    def inject(self, fault: str, **arguments: Any) -> None:
        """Make a fault happen: a running one now (or as soon as the gateway is there), a login one at the next start.

        Raises `ValueError` with the names, arguments or words that are known (see `faults.FAULTS`).
        """
        self._do(fault, faults.check(fault, arguments))

    async def until_usable(self) -> None:
        """Return once an API client is served as it should be."""
        await self._machine.usable.wait()

    @classmethod
    @contextlib.asynccontextmanager
    async def logged_in(cls, *, accounts: Sequence[str], **options: Any) -> AsyncIterator[SimulatedGateway]:
        """A gateway that is logged in and answers on `gateway.port`, for as long as the block lasts.

        Takes the arguments of the class. Raises `RuntimeError` when the gateway ends instead of logging in.
        """
        gateway = cls(accounts=accounts, **options)
        life = asyncio.create_task(gateway.run("any password is right"), name="simulated gateway")
        usable = asyncio.create_task(gateway.until_usable(), name="simulated gateway: usable")
        try:
            await asyncio.wait((life, usable), return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                raise RuntimeError(f"the simulated gateway ended with {life.result()} instead of logging in")
            yield gateway
        finally:
            usable.cancel()
            gateway.inject("thaw")
            gateway.terminate()
            await life

    def _do(self, fault: str, arguments: faults.Arguments) -> None:
        if fault in SWITCHES:
            SWITCHES[fault](self._machine, arguments)
        elif faults.FAULTS[fault].kind == "login":
            self._machine.script.add_to_next(fault, arguments)
        else:
            self._machine.tell(fault, arguments)

    def _schedule(self, lap: Lap) -> None:
        for entry in lap.later:
            self._machine.later(entry.after, functools.partial(self._do, entry.fault, entry.arguments))

    def _tell_client_gone(self, client_id: int) -> None:
        if self._port.is_open:  # otherwise the program that would say it has gone too
            self._machine.print_scene(_CLIENT_GONE, client_id=client_id)

    def _tell_refused(self) -> None:
        self._controller.on_refused()
