"""The older image's container: run.sh, ibcstart.sh and its loop around the gateway's program.

The script starts the program again for ever after an exit that asks for it (no login form, a cold restart, the nightly
restart), without a pause and without a limit; every other exit code is the container's. What happens inside one start of
the program is `ibc_program`'s.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.simulator.controllers import ibc_text as text
from spreadpilot_core.ibkr.simulator.controllers.ibc_program import IbcProgram
from spreadpilot_core.ibkr.simulator.machine import Machine, Terminated
from spreadpilot_core.ibkr.simulator.restarts import MARKER_PATH, SESSION_HASH, SETTINGS_PATH

_TERMINATED = 143
_NO_LOGIN_FORM = 1112 % 256
_SECOND_FACTOR_MISSED = 1111 % 256
_SOCAT_PID = 94


class IbcContainer:
    """Walks the container's life."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._trap_set = False

    async def run(self) -> int:
        """Live until the container ends; gives its exit code."""
        try:
            self._print_banner()
            await self._machine.pause(self._machine.timings.controller_start)
            return await self._start_script()
        except Terminated:
            return self._stop()

    def on_refused(self) -> None:
        """Nothing listened behind the published port."""
        if self._trap_set:
            self._machine.print_scene(text.REFUSED, pid=_SOCAT_PID, api_port=self._machine.setup.api_port)

    def _print_banner(self) -> None:
        setup = self._machine.setup
        self._machine.print_scene(
            text.BANNER,
            api_port=setup.api_port,
            outer_port=setup.outer_port,
            mode=setup.trading_mode,
            settings_path=SETTINGS_PATH,
            missed_action=setup.missed_action,
        )

    async def _start_script(self) -> int:
        now, say = self._machine.now(), self._machine.print_scene
        options = text.OPTIONS.format(settings_path=SETTINGS_PATH, session="kZq1vN8u")
        say(
            text.START_SCRIPT,
            date=f"{now:%Y-%m-%d}",
            time=f"{now:%H:%M:%S}",
            settings_path=SETTINGS_PATH,
            classpath=text.CLASSPATH,
            options=options,
        )
        leftover = self._machine.restarts.has_marker()
        self._print_marker(found=leftover)
        say(text.FIND_JAVA)
        self._trap_set = True
        return await self._loop(options, leftover=leftover)

    async def _loop(self, options: str, *, leftover: bool) -> int:
        warm, stale, say = leftover, leftover, self._machine.print_scene
        while True:
            command = options + (f" -Drestart={SESSION_HASH}" if warm else "")
            say(text.START_PROGRAM, classpath=text.CLASSPATH, options=command)
            program = IbcProgram(self._machine, warm=warm, stale=stale)
            code = await program.run()
            say(text.PROGRAM_ENDED, code=code)
            if code == _NO_LOGIN_FORM:
                pass
            elif program.cold_restart:
                warm = False
                say(text.COLD_RESTART_SHORTLY)
            else:
                self._print_marker(found=program.restarts)
                if program.restarts:
                    warm = True
                elif code != _SECOND_FACTOR_MISSED or self._machine.setup.missed_action != "restart":
                    say(text.FINISHED)
                    return code
            stale = False
            say(text.RESTART_SHORTLY)

    def _print_marker(self, *, found: bool) -> None:
        self._machine.print_scene(text.FIND_MARKER)
        if found:
            self._machine.print_scene(text.MARKER_FOUND, path=MARKER_PATH, hash=SESSION_HASH)
        else:
            self._machine.print_scene(text.MARKER_NOT_FOUND)

    def _stop(self) -> int:
        if self._trap_set:
            self._machine.print_scene(text.STOPPING)
            self._machine.shut_api()
            self._machine.print_scene(text.PROGRAM_ENDED, code=_TERMINATED)
            self._print_marker(found=False)
            self._machine.print_scene(text.FINISHED)
        return _TERMINATED
