"""The newer image's container: run.sh and ibcontroller's own loop of laps around the gateway's program.

One lap is one start of the program. A transient failure, a missing login form and the nightly restart begin the next one,
without a pause and without a limit; everything else ends the container with a code of its own. What happens inside one lap
is `ibcontroller_lap`'s.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.simulator.controllers import ibcontroller_text as text
from spreadpilot_core.ibkr.simulator.controllers.ibcontroller_lap import Abort, IbcontrollerLap
from spreadpilot_core.ibkr.simulator.machine import KILLED, Machine, ProgramEnded, Terminated
from spreadpilot_core.ibkr.simulator.restarts import SESSION_HASH, SETTINGS_PATH

_CONFIG = 78
_UNAVAILABLE = 69
_TERMINATED_EARLY = 143
_PROGRAM_DIED = -1
"""No exit code yet: 0.1.4 makes it 69, an older one 0."""
_SOCAT_PID = 94


class IbcontrollerContainer:
    """Walks the container's life."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._say = machine.print_scene
        self._instance = f"gateway-{machine.setup.trading_mode}"
        self._lap: IbcontrollerLap | None = None
        self._runs = False

    async def run(self) -> int:
        """Live until the container ends; gives its exit code."""
        try:
            self._print_banner()
            await self._machine.pause(self._machine.timings.controller_start)
            self._runs = True
            return await self._start()
        except Terminated:
            return await self._stop()

    def on_refused(self) -> None:
        """Nothing listened behind the published port."""
        if self._runs:
            self._say(text.REFUSED, pid=_SOCAT_PID, api_port=self._machine.setup.api_port)

    def _print_banner(self) -> None:
        setup = self._machine.setup
        self._say(
            text.BANNER,
            api_port=setup.api_port,
            outer_port=setup.outer_port,
            mode=setup.trading_mode,
            settings_path=SETTINGS_PATH,
            missed_action=setup.missed_action,
        )

    async def _start(self) -> int:
        old = self._machine.setup.old_controller
        if not old:
            self._dump(with_config=self._machine.credentials_given)
        if not self._machine.credentials_given:
            self._say(text.NO_CREDENTIALS)
            return 1 if old else _CONFIG
        code = await self._loop()
        if old:  # its standard output is flushed at the very end, and it knows two exit codes
            self._dump(with_config=True)
            return 1 if code not in (0, _PROGRAM_DIED) else 0
        return _UNAVAILABLE if code == _PROGRAM_DIED else code

    def _dump(self, *, with_config: bool) -> None:
        setup = self._machine.setup
        self._say(text.ENVIRONMENT, mode=setup.trading_mode, settings_path=SETTINGS_PATH)
        if not with_config:
            return
        self._say(
            text.OLD_CONFIG if setup.old_controller else text.CONFIG,
            auto_restart_time=setup.auto_restart_time,
            existing_session_action=setup.existing_session_action,
            instance=self._instance,
            missed_action=setup.missed_action,
            read_only=setup.read_only,
            relogin=setup.relogin_after_missed,
            time_zone=setup.time_zone,
            mode=setup.trading_mode,
            settings_path=SETTINGS_PATH,
        )

    async def _loop(self) -> int:
        warm = False
        while True:
            self._lap = IbcontrollerLap(self._machine, instance=self._instance, warm=warm)
            try:
                await self._lap.run()
            except Abort as abort:
                if (code := self._after_abort(abort, warm=warm)) is not None:
                    return code
                warm = warm and abort.keeps_marker
            except ProgramEnded as end:
                if (code := await self._after_end(end.code)) is not None:
                    return code
                warm = True

    def _after_abort(self, abort: Abort, *, warm: bool) -> int | None:
        """The container's exit code, or None when the next lap begins."""
        misses = abort.relaunch is text.MISSED_RELAUNCH
        if abort.relaunch is None or (misses and self._machine.setup.missed_action != "restart"):
            self._say(text.ERROR, reason=abort.reason)
            return abort.exit_code
        self._say(abort.relaunch, reason=abort.reason, hash=SESSION_HASH if warm else None)
        return None

    async def _after_end(self, code: int) -> int | None:
        """The container's exit code, or None when the program restarts on its own schedule."""
        assert self._lap is not None
        if self._lap.state == "LAUNCHING":
            self._say(text.NEVER_READY, instance=self._instance)
            self._say(text.DIED_BEFORE_READY, code=code, instance=self._instance)
            return _UNAVAILABLE
        cause = "PROCESS_EXITED" if code else "PROCESS_CLOSED"
        if self._lap.state == "READY":
            self._say(text.ENDED_BY_ITSELF, code=-9 if code == KILLED else code)
        else:
            self._say(text.ENDED_EARLY, cause=cause, state=self._lap.state)
        self._say(text.CYCLE_STOPPED, cause=cause)
        if self._lap.restarts:
            self._say(text.RESTARTED, settings_path=SETTINGS_PATH, hash=SESSION_HASH)
            return None
        await self._machine.pause(self._machine.timings.restart_marker)
        self._say(text.STOPPED, cause=cause)
        return _PROGRAM_DIED if code else 0

    async def _stop(self) -> int:
        if not self._runs:
            return _TERMINATED_EARLY
        self._say(text.SIGTERM)
        if self._lap is not None and not self._lap.over:
            await self._lap.shut_down()
        self._machine.shut_api()
        self._say(text.STOP_REQUESTED)
        self._say(text.STOPPED, cause="REQUESTED")
        self._say(text.AFTER_SIGTERM)
        return 0
