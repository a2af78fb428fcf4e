"""One lap of ibcontroller: launch, login form, login, settings, then whatever happens until the program ends.

A lap ends in one of three ways: `Abort` (ibcontroller gives up on the login), `ProgramEnded` (the program has gone), or
SIGTERM, after which `shut_down` closes what still runs.
"""

from __future__ import annotations

from typing import NoReturn

from spreadpilot_core.ibkr.simulator.agenda import Agenda
from spreadpilot_core.ibkr.simulator.controllers import ibcontroller_text as text
from spreadpilot_core.ibkr.simulator.machine import Command, Machine, ProgramEnded
from spreadpilot_core.ibkr.simulator.restarts import SESSION_HASH, SETTINGS_PATH

_UNAVAILABLE = 69
_SECOND_FACTOR = 75
_REJECTED = 77
_LIMIT = 180.0
"""Seconds that ibcontroller gives a login."""
_AFTER_THROTTLE = 3
_RUNNING = (
    "nightly_restart",
    "log_off",
    "session_lost",
    "rejected_later",
    "other_login",
    "password_notice",
    "window",
)


class Abort(Exception):  # noqa: N818  # what happened, not an error
    """ibcontroller gives this lap up."""

    def __init__(
        self, reason: str, exit_code: int = _UNAVAILABLE, *, relaunch: str | None = None, keeps_marker: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code
        self.relaunch = relaunch
        """What it prints before the next lap; None: there is none."""
        self.keeps_marker = keeps_marker


class IbcontrollerLap:
    """Walks one lap."""

    def __init__(self, machine: Machine, *, instance: str, warm: bool) -> None:
        self.state = "LAUNCHING"
        self.restarts = False
        """The program ended for its nightly restart."""
        self.over = False
        """Nothing runs any more that could be shut down."""
        self._machine = machine
        self._say = machine.print_scene
        self._setup = machine.setup
        self._timings = machine.timings
        self._lap = machine.begin_lap()
        self._instance = instance
        self._warm = warm
        self._logged_in = False
        self._agenda = Agenda()

    async def run(self) -> None:
        """Live until the lap ends; raises `Abort`, `ProgramEnded` or what the machine's `wait` raises."""
        try:
            await self._launch()
            await self._meet_login_form()
            await self._log_in()
            self._begin_session()
            await self._serve()
        except Abort as abort:
            self._say(text.ABORTED, reason=abort.reason, state=self.state)
            await self._close_or_kill()
            raise
        except ProgramEnded:
            self.over = True
            raise
        finally:
            self._machine.shut_api()

    async def shut_down(self) -> None:
        """SIGTERM came: close the program as ibcontroller does."""
        if self.state != "LAUNCHING":
            self._say(text.SHUTTING_DOWN, state=self.state)
            await self._close_or_kill()

    async def _close_or_kill(self) -> None:
        self.over = True
        if self._logged_in:
            await self._machine.pause(self._timings.close)
            self._say(text.SHUT_DOWN)
        else:
            self._say(text.NEVER_LOGGED_IN)

    # ------------------------------------------------------------------ up to the login form

    async def _launch(self) -> None:
        restart = text.RESTART_OPTION.format(hash=SESSION_HASH) if self._warm else ""
        self._say(
            text.LAUNCHING,
            instance=self._instance,
            mode=self._setup.trading_mode,
            settings_path=SETTINGS_PATH,
            restart=restart,
        )
        await self._machine.pause(self._timings.program_start)
        if (crash := self._lap.get("crash_at_start")) is not None:
            raise ProgramEnded(crash["exit_code"])
        self._say(text.READY_TO_LOG_IN, instance=self._instance, pid=self._machine.pid)
        self.state = "LOGGING_IN"

    async def _meet_login_form(self) -> None:
        if self._lap.get("no_login_form") is not None:
            await self._machine.pause(self._timings.no_login_form)
            raise Abort(text.NO_LOGIN_FORM, relaunch=text.NO_LOGIN_FORM_RELAUNCH, keeps_marker=True)
        slow = self._lap.get("slow_start")
        await self._machine.pause(self._timings.login_form + (slow["seconds"] if slow else 0))
        if not self._warm:
            self._machine.tell_typed()
        self._say(text.LOGIN_FORM_LEFT_ALONE if self._warm else text.LOGIN_FORM)

    # ------------------------------------------------------------------ the login

    async def _log_in(self) -> None:
        await self._machine.pause(self._timings.answer)
        await self._meet_refusals()
        if (notice := self._lap.get("login_notice")) is not None:
            self._say(text.window(notice["title"]))
        drops = self._machine.resets() and not self._warm
        if notice is not None or drops or self._lap.get("login_hangs") is not None:
            await self._hang()
        if (throttle := self._lap.use("too_many_attempts")) is not None:
            await self._be_throttled(throttle["seconds"])
        if (session := self._lap.get("existing_session")) is not None:
            await self._meet_existing_session(insists=session["other"] == "primary")
        self._say(text.AUTHENTICATING)
        if (self._setup.live and not self._warm) or self._lap.get("second_factor") is not None:
            await self._pass_second_factor()
        if self._lap.get("login_handoff") is not None:
            self._say(text.window("Trading Login Handoff"))
            await self._hang()
        self._machine.restarts.use_marker()
        await self._machine.pause(self._timings.login)

    async def _meet_refusals(self) -> None:
        lap = self._lap
        if self._setup.old_controller:
            await self._understand_nothing()
        if self._warm and self._machine.restarts.is_refused():
            self._fail_to_connect(text.STALE_SESSION)
        wrong = lap.get("wrong_password")
        if (wrong is not None and wrong["dialog"] == "login_failed") or lap.get("login_failed") is not None:
            self._say(text.LOGIN_FAILED)
            raise Abort(text.LOGIN_FAILED_REASON, relaunch=text.TRANSIENT_RELAUNCH)
        if wrong is not None or not (self._warm or self._machine.credentials_right):
            self._say(text.REJECTED)
            raise Abort(text.REJECTED_REASON, _REJECTED)
        if (error := lap.get("login_error")) is not None:
            self._say(text.LOGIN_ERROR, **error)
            raise Abort(text.LOGIN_ERROR_REASON, relaunch=text.TRANSIENT_RELAUNCH)
        if (failure := lap.get("connection_failed")) is not None:
            self._fail_to_connect(failure["reason"])

    async def _understand_nothing(self) -> None:
        """A version before 0.1.4 has a rule for none of the dialogs that follow."""
        titles = {"wrong_password": "Unrecognized Username or Password", "login_failed": "Login failed"}
        for fault, title in titles.items():
            rejected = fault == "wrong_password" and not (self._warm or self._machine.credentials_right)
            if rejected or self._lap.get(fault) is not None:
                self._say(text.window(title))
                await self._hang()

    def _fail_to_connect(self, reason: str) -> NoReturn:
        self._say(text.CONNECTION_FAILED, reason=reason)
        whole = text.CONNECTION_FAILED_REASON.format(reason=reason)
        if text.PAPER_USERS in reason:
            raise Abort(whole, _REJECTED)
        raise Abort(whole, relaunch=text.TRANSIENT_RELAUNCH)

    async def _be_throttled(self, seconds: int) -> None:
        if not self._setup.relogin_after_missed:
            self._say(text.TOO_MANY)
            raise Abort(text.TOO_MANY_REASON, _REJECTED)
        self._say(text.TOO_MANY_RETRY, seconds=seconds + _AFTER_THROTTLE)
        await self._machine.pause(seconds + _AFTER_THROTTLE)
        self._machine.tell_typed()
        self._say(text.SUBMITTED)
        await self._machine.pause(self._timings.answer)

    async def _meet_existing_session(self, *, insists: bool) -> None:
        match self._setup.existing_session_action:
            case "manual":
                self._say(text.EXISTING_MANUAL)
                await self._hang()
            case "secondary":
                await self._yield(text.EXISTING_SECONDARY)
            case _:
                self._say(text.EXISTING_FIRST)
        await self._machine.pause(self._timings.answer)
        if insists:
            await self._yield(text.EXISTING_SECOND)

    async def _yield(self, scene: str) -> NoReturn:
        self._say(scene)
        self._machine.shut_api()
        await self._machine.pause(self._timings.close)
        raise ProgramEnded(0)

    async def _hang(self) -> NoReturn:
        await self._machine.pause(self._timings.hung_login)
        raise Abort(text.HUNG_REASON)

    async def _pass_second_factor(self) -> None:
        factor = self._lap.get("second_factor") or {"answer": "approved", "seconds": None}
        answer, seconds = factor["answer"], factor["seconds"]
        self._say(text.SECOND_FACTOR)
        if answer == "pending":
            seconds = _LIMIT
        elif seconds is None:
            seconds = self._timings.second_factor_missed if answer == "missed" else self._timings.second_factor
        command = await self._machine.wait("approve_second_factor", "miss_second_factor", seconds=seconds)
        missed = command.fault == "miss_second_factor" if command else answer in ("missed", "pending")
        if missed:
            raise Abort(text.MISSED_REASON, _SECOND_FACTOR, relaunch=text.MISSED_RELAUNCH)
        self._say(text.AUTHENTICATING)
        if answer == "stuck":
            await self._machine.pause(self._timings.hung_login)
            reason = text.STUCK_REASON if self._setup.relogin_after_missed else text.MISSED_REASON
            raise Abort(reason, _SECOND_FACTOR, relaunch=text.MISSED_RELAUNCH)

    # ------------------------------------------------------------------ logged in

    def _begin_session(self) -> None:
        self._logged_in = True
        self._say(text.LOGIN_COMPLETED)
        self.state = "APPLYING_SETTINGS"
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
        self._say(text.SKIP_TIME)
        if self._setup.auto_restart_time is None:
            self._say(text.SKIP_TIME)
        else:
            self._say(text.APPLY_TIME, auto_restart_time=self._setup.auto_restart_time)
        failed = self._lap.get("settings_failed") is not None
        self._say(text.READ_ONLY_FAILED if failed else text.APPLY_READ_ONLY, read_only=self._setup.read_only)
        simulated = "" if self._setup.live else " (Simulated Trading)"
        self._say(text.window(text.CONFIGURATION.format(account=self._setup.accounts[0], simulated=simulated)))
        self._say(text.SETTINGS_APPLIED)
        self.state = "READY"

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
                self._machine.shut_api()
                await self._machine.pause(self._timings.close)
                raise ProgramEnded(0)
            case "session_lost":
                await self._lose_session(recovers=command.arguments["outcome"] == "recovers")
            case "rejected_later":
                self._machine.break_session()
                self._say(text.REJECTED)
                raise Abort(text.REJECTED_REASON, _REJECTED)
            case "other_login":
                await self._meet_other_login()
            case "password_notice":
                self._say(text.window("Password Notice"))
            case "window":
                self._say(text.window(command.arguments["title"]))

    async def _restart(self) -> NoReturn:
        self._machine.restarts.write_marker()
        self._machine.shut_api()
        await self._machine.pause(self._timings.close)
        self.restarts = True
        raise ProgramEnded(0)

    async def _lose_session(self, *, recovers: bool) -> None:
        self._machine.break_session()
        self._say(text.window("Re-login is required"))
        if recovers:
            await self._machine.pause(self._timings.login)
            self._machine.mend_session()

    async def _meet_other_login(self) -> None:
        match self._setup.existing_session_action:
            case "primary":
                self._say(text.EXISTING_PRIMARY)
            case "primaryoverride":
                await self._yield(text.EXISTING_OVERRIDE)
            case "secondary":
                await self._yield(text.EXISTING_SECONDARY)
            case _:
                self._say(text.EXISTING_MANUAL)
