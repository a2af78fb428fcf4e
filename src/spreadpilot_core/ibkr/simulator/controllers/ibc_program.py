"""One start of the gateway's program with IBC inside: login form, login, settings, then whatever happens.

It ends with the code that its script sees. A rejected password, a missed second factor, a hung login end nothing here: IBC
has no handler for them and waits.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import NoReturn

from spreadpilot_core.ibkr.simulator.agenda import Agenda
from spreadpilot_core.ibkr.simulator.controllers import ibc_text as text
from spreadpilot_core.ibkr.simulator.machine import Command, Machine, ProgramEnded
from spreadpilot_core.ibkr.simulator.restarts import SETTINGS_PATH

_NO_LOGIN_FORM = 1112 % 256
_SECOND_FACTOR_MISSED = 1111 % 256
_INVALID_STATE = 1110 % 256
_LIMIT = 180
"""Seconds that IBKR leaves a prompt open."""
_AFTER_THROTTLE = 3
_BEFORE_RELOGIN = 5
_RUNNING = (
    "nightly_restart",
    "log_off",
    "session_lost",
    "rejected_later",
    "other_login",
    "password_notice",
    "window",
)


class IbcProgram:
    """Walks one program's life."""

    def __init__(self, machine: Machine, *, warm: bool, stale: bool) -> None:
        self.cold_restart = False
        """The script is to start it again with a full login."""
        self.restarts = False
        """It ended for its nightly restart."""
        self._machine = machine
        self._say = machine.print_scene
        self._setup = machine.setup
        self._timings = machine.timings
        self._lap = machine.begin_lap()
        self._warm = warm
        self._stale = stale
        self._attempts = 0
        self._agenda = Agenda()

    async def run(self) -> int:
        """Live until it ends; gives its code."""
        try:
            await self._start()
            await self._log_in()
            self._logged_in()
            await self._serve()
        except ProgramEnded as end:
            return end.code % 256
        finally:
            self._machine.shut_api()

    # ------------------------------------------------------------------ up to the login form

    async def _start(self) -> None:
        await self._machine.pause(self._timings.program_start)
        self._say(
            text.SETTINGS,
            auto_restart_time=self._setup.auto_restart_time or "",
            existing_session_action=self._setup.existing_session_action,
            read_only="yes" if self._setup.read_only else "no",
            relogin="yes" if self._setup.relogin_after_missed else "no",
            mode=self._setup.trading_mode,
            time_zone=self._setup.time_zone,
            settings_path=SETTINGS_PATH,
        )
        self._say(text.WARM if self._warm else text.COLD)
        self._say(text.PROGRAM, settings_path=SETTINGS_PATH)
        if (crash := self._lap.get("crash_at_start")) is not None:
            raise ProgramEnded(crash["exit_code"])
        if self._lap.get("no_login_form") is not None:
            await self._miss_login_form()
        slow = self._lap.get("slow_start")
        await self._machine.pause(self._timings.login_form + (slow["seconds"] if slow else 0))
        self._say(text.LOGIN_FORM)

    async def _miss_login_form(self) -> NoReturn:
        if self._warm:
            await self._machine.for_ever()
        await self._machine.pause(self._timings.no_login_form)
        self._say(text.NO_LOGIN_FORM)
        raise ProgramEnded(_NO_LOGIN_FORM)

    # ------------------------------------------------------------------ the login

    async def _log_in(self) -> None:
        if self._stale:
            self._machine.restarts.use_marker()
            await self._machine.for_ever()
        while True:
            if not self._warm:
                await self._type_credentials()
            await self._machine.pause(self._timings.answer)
            self._say(text.SPLASH)
            if await self._is_let_in():
                break
        self._machine.restarts.use_marker()
        self._say(text.CONNECTING)
        await self._machine.pause(self._timings.login)
        self._say(text.STARTING)

    async def _type_credentials(self) -> None:
        self._say(text.CREDENTIALS, mode=self._setup.trading_mode)
        if not self._machine.credentials_given:
            await self._machine.for_ever()
        self._attempts += 1
        self._machine.tell_typed()
        button = "Log In" if self._setup.live else "Paper Log In"
        self._say(text.LOGIN_ATTEMPT, attempt=self._attempts, button=button)

    async def _is_let_in(self) -> bool:
        """Whether IBKR lets the login in; False when the form is to be filled in once more."""
        await self._meet_refusals()
        if (throttle := self._lap.use("too_many_attempts")) is not None:
            await self._be_throttled(throttle["seconds"])
            return False
        if (session := self._lap.get("existing_session")) is not None:
            await self._meet_existing_session(insists=session["other"] == "primary")
        if (self._setup.live and not self._warm) or self._lap.get("second_factor") is not None:
            if not await self._pass_second_factor():
                return False
            await self._hand_off()
        return True

    async def _meet_refusals(self) -> None:
        lap = self._lap
        if self._warm and self._machine.restarts.is_refused():
            self._restart_cold(text.LOGIN_ERROR, text=text.STALE_SESSION)
        wrong = lap.get("wrong_password")
        if (wrong is not None and wrong["dialog"] == "login_failed") or lap.get("login_failed") is not None:
            self._restart_cold(text.LOGIN_FAILED)
        if wrong is not None or not (self._warm or self._machine.credentials_right):
            self._say(text.REJECTED)
            await self._machine.for_ever()
        if (error := lap.get("login_error")) is not None:
            self._restart_cold(text.LOGIN_ERROR, **error)
        if (failure := lap.get("connection_failed")) is not None:
            self._restart_cold(text.CONNECTION_FAILED, **failure)
        if (notice := lap.get("login_notice")) is not None:
            self._say(text.opened("dialog", notice["title"]))
            await self._machine.for_ever()
        if lap.get("login_hangs") is not None or (self._machine.resets() and not self._warm):
            await self._machine.for_ever()

    def _restart_cold(self, scene: str, **values: str) -> NoReturn:
        self._say(scene, **values)
        self.cold_restart = True
        raise ProgramEnded(0)

    async def _be_throttled(self, seconds: int) -> None:
        minutes, rest = divmod(int(seconds), 60)
        wait = f"{minutes} minutes & {rest} seconds" if minutes else f"{rest} seconds"
        self._say(text.TOO_MANY, wait=wait)
        if not self._setup.relogin_after_missed:
            await self._machine.for_ever()
        at = self._machine.now() + timedelta(seconds=seconds + _AFTER_THROTTLE)
        self._say(text.WILL_RELOGIN, at=f"{at:%Y-%m-%d %H:%M:%S}:000", attempt=self._attempts + 1)
        await self._machine.pause(seconds + _AFTER_THROTTLE)

    async def _meet_existing_session(self, *, insists: bool) -> None:
        self._say(text.EXISTING_SESSION)
        match self._setup.existing_session_action:
            case "manual":
                self._say(text.SCENARIO[1])
                await self._machine.for_ever()
            case "secondary":
                await self._yield(2)
            case _:
                self._say(text.SCENARIO[3])
        self._say(text.closed("dialog", "Existing session detected"))
        if insists:
            await self._machine.pause(self._timings.answer)
            self._say(text.EXISTING_SESSION)
            await self._yield(4)

    async def _yield(self, scenario: int) -> NoReturn:
        self._say(text.SCENARIO[scenario])
        await self._close()

    async def _pass_second_factor(self) -> bool:
        factor = self._lap.get("second_factor") or {"answer": "approved", "seconds": None}
        self._say(text.SECOND_FACTOR)
        seconds, missed = await self._await_phone(factor["answer"], factor["seconds"])
        self._say(text.SECOND_FACTOR_CLOSED, seconds=seconds)
        relogin = self._setup.relogin_after_missed
        if missed:
            self._say(text.RELOGIN if relogin else text.NO_RELOGIN)
            if not relogin:
                await self._machine.for_ever()
            await self._machine.pause(min(_BEFORE_RELOGIN, self._timings.second_factor_missed))
            return False
        if relogin:
            self._say(text.WILL_EXIT)
        if factor["answer"] == "stuck":
            await self._be_stuck(exits=relogin)
        return True

    async def _await_phone(self, answer: str, seconds: float | None) -> tuple[int, bool]:
        """How long the prompt was open (as the log says it), and whether it was missed."""
        missed = answer == "missed"
        if seconds is None:
            seconds = self._timings.second_factor_missed if missed else self._timings.second_factor
        if answer == "pending":
            seconds = _LIMIT
        asked = asyncio.get_running_loop().time()
        command = await self._machine.wait("approve_second_factor", "miss_second_factor", seconds=seconds)
        if command is not None:
            missed = command.fault == "miss_second_factor"
            seconds = asyncio.get_running_loop().time() - asked
        elif answer == "pending":
            missed = True
        return (_LIMIT if missed else min(int(seconds), _LIMIT - 1)), missed

    async def _be_stuck(self, *, exits: bool) -> NoReturn:
        if not exits:
            await self._machine.for_ever()
        await self._machine.pause(self._timings.hung_login)
        self._say(text.NOT_COMPLETED)
        raise ProgramEnded(_SECOND_FACTOR_MISSED)

    async def _hand_off(self) -> None:
        if self._lap.get("login_handoff") is None:
            return
        self._say(text.HANDOFF)
        match self._setup.existing_session_action:
            case "primary":
                self._say(text.HANDOFF_TAKEN)
            case "manual":
                self._say(text.HANDOFF_LEFT)
                await self._machine.for_ever()
            case _:
                self._say(text.HANDOFF_IMPOSSIBLE)
                raise ProgramEnded(_INVALID_STATE)

    # ------------------------------------------------------------------ logged in

    def _logged_in(self) -> None:
        self._say(text.LOGIN_COMPLETED)
        self._machine.open_api(full_login=not self._warm)
        pending = self._lap.get("disclaimer_pending")
        if not self._setup.live:
            self._agenda.add(pending["seconds"] if pending else self._timings.disclaimer, self._accept_disclaimer)
        self._agenda.add(self._timings.settings, self._apply_settings)
        self._agenda.add(self._machine.restarts.seconds_to_next(), lambda: self._machine.tell("nightly_restart", {}))
        self._agenda.add(self._machine.seconds_to_reset(), lambda: self._machine.tell("log_off", {}))

    def _accept_disclaimer(self) -> None:
        self._say(text.DISCLAIMER)
        self._machine.accept_disclaimer()

    def _apply_settings(self) -> None:
        dialog = {
            "account": self._setup.accounts[0],
            "simulated": "" if self._setup.live else " (Simulated Trading)",
        }
        self._say(text.CONFIGURATION, **dialog)
        failed = self._lap.get("settings_failed") is not None
        self._say(
            text.READ_ONLY_FAILED if failed else text.READ_ONLY, read_only="true" if self._setup.read_only else "false"
        )
        if self._setup.auto_restart_time:
            self._say(text.RESTART_TIME, auto_restart_time=self._setup.auto_restart_time)
        self._say(text.CONFIGURED, **dialog)

    async def _serve(self) -> NoReturn:
        while True:
            command = await self._machine.wait(*_RUNNING, seconds=self._agenda.seconds())
            if command is None:
                self._agenda.do_due()
            else:
                await self._react(command)

    async def _react(self, command: Command) -> None:
        match command.fault:
            case "nightly_restart":
                await self._restart()
            case "log_off":
                await self._close()
            case "session_lost":
                await self._lose_session(recovers=command.arguments["outcome"] == "recovers")
            case "rejected_later":
                self._machine.break_session()
                self._say(text.REJECTED)
            case "other_login":
                await self._meet_other_login()
            case "password_notice":
                self._say(text.opened("frame", "Password Notice"))
            case "window":
                self._say(text.opened("dialog", command.arguments["title"]))

    async def _restart(self) -> NoReturn:
        self._say(text.RESTARTING)
        self._machine.restarts.write_marker()
        self._machine.shut_api()
        await self._machine.pause(self._timings.close)
        self.restarts = True
        raise ProgramEnded(0)

    async def _close(self) -> NoReturn:
        self._say(text.CLOSING)
        self._machine.shut_api()
        await self._machine.pause(self._timings.close)
        raise ProgramEnded(0)

    async def _lose_session(self, *, recovers: bool) -> None:
        self._machine.break_session()
        self._say(text.RELOGIN_REQUIRED)
        await self._machine.pause(self._timings.answer)
        if not recovers:
            self._say(text.REJECTED)
            return
        self._say("\n".join((text.opened("frame", "Authenticating..."), text.STARTING)))
        await self._machine.pause(self._timings.login)
        self._say(text.LOGIN_COMPLETED)
        self._machine.mend_session()

    async def _meet_other_login(self) -> None:
        self._say(text.EXISTING_SESSION)
        match self._setup.existing_session_action:
            case "primary":
                self._say(text.SCENARIO[5])
                self._say(text.closed("dialog", "Existing session detected"))
            case "primaryoverride":
                await self._yield(6)
            case "secondary":
                await self._yield(2)
            case _:
                self._say(text.SCENARIO[1])
