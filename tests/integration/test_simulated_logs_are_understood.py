"""The two sides of the log meet: what the simulator prints is read by `controller_log` as what happened."""

from __future__ import annotations

from typing import Any

import pytest

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.model.gateways import Controller
from support.controller_lines import phases, read
from support.simulated_life import CONTROLLERS, Life, living

P = LoginPhase
both = pytest.mark.parametrize("controller", CONTROLLERS)
LIVE = {"trading_mode": "live", "accounts": ["U1234567"]}
MANUAL = {"existing_session_action": "manual"}


async def _quiet(life: Life, controller: Controller, said: tuple[str, str]) -> None:
    await life.said(said[CONTROLLERS.index(controller)])


@both
async def test_good_paper_login(controller: Controller) -> None:
    """Every phase in order, one attempt, disclaimer seen, nothing to tell a human."""
    async with living(controller) as life:
        await _quiet(life, controller, ("Configuration tasks completed", "APPLYING_SETTINGS -> READY"))
        await life.usable()
        view = read(controller, life.lines).view
        await life.stopped()
    assert phases(controller, life.lines)[:4] == [P.STARTING, P.FORM, P.AUTHENTICATING, P.LOGGED_IN]
    assert phases(controller, life.lines)[-1] is P.ENDED
    assert (view.phase, view.attempts, view.laps) == (P.LOGGED_IN, 1, 0)
    assert view.completed
    assert view.paper_accepted
    assert view.saw_start
    assert (view.human, view.notices, view.too_old, view.warm) == (None, (), False, False)


@both
async def test_nightly_restart(controller: Controller) -> None:
    """A warm restart: completed before, no second attempt, logged in again."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("nightly_restart")
        await _quiet(life, controller, ("autorestart file found", "Gateway restarted on its own schedule"))
        assert read(controller, life.lines).view.phase is P.RESTARTING
        await life.usable()
        view = read(controller, life.lines).view
    assert (view.phase, view.attempts, view.laps, view.warm) == (P.LOGGED_IN, 1, 0, True)
    assert view.completed_before


@both
@pytest.mark.parametrize(
    ("lap", "options", "said", "phase"),
    [
        ({"wrong_password": True}, {}, ("Unrecognized", "login rejected"), P.REJECTED),
        ({"too_many_attempts": 287}, {}, ("Too many failed", "too many failed"), P.THROTTLED),
        ({"second_factor": "pending"}, LIVE, ("Second Factor", "Second Factor"), P.AWAITING_2FA),
        ({"second_factor": "missed"}, LIVE, ("timeout not required", "(mfa_timeout)"), P.SECOND_FACTOR_MISSED),
        ({"existing_session": True}, MANUAL, ("(scenario 1)", "leaving for the user"), P.CONFLICT),
        ({"login_notice": "Resume login"}, {}, ("Resume login", "Resume login"), P.STUCK),
    ],
)
async def test_login_that_does_not_complete(
    controller: Controller, lap: dict[str, Any], options: dict[str, Any], said: tuple[str, str], phase: LoginPhase
) -> None:
    """Each reason is the same phase under both controllers, after exactly one attempt."""
    async with living(controller, [lap], **options) as life:
        await _quiet(life, controller, said)
        view = read(controller, life.lines).view
    assert (view.phase, view.attempts, view.completed) == (phase, 1, False)
    if phase is P.THROTTLED and controller == "ibc":
        assert view.wait_seconds == 287
    assert (view.human is not None) == (phase is P.STUCK or options is MANUAL)


@both
@pytest.mark.parametrize("fault", ["login_failed", "login_error", "connection_failed"])
async def test_transient_failures_are_laps(controller: Controller, fault: str) -> None:
    """Two laps of the controller's own loop are counted as two, each with its attempt."""
    async with living(controller, [{fault: True}, {fault: True}]) as life:
        await life.usable()
        view = read(controller, life.lines).view
    assert (view.phase, view.laps, view.attempts) == (P.LOGGED_IN, 2, 3)


@both
async def test_lost_session(controller: Controller) -> None:
    """A session that IBKR ended is lost, whatever the controller makes of it."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("session_lost")
        await life.said("Re-login is required")
        assert P.SESSION_LOST in phases(controller, life.lines)


@both
async def test_setting_that_is_not_applied_is_a_notice(controller: Controller) -> None:
    """The login is good and somebody is told."""
    async with living(controller, [{"settings_failed": True}]) as life:
        await _quiet(life, controller, ("Configuration tasks completed", "APPLYING_SETTINGS -> READY"))
        await life.usable()
        view = read(controller, life.lines).view
    assert view.phase is P.LOGGED_IN
    assert view.notices


async def test_old_controller_is_recognised() -> None:
    """An ibcontroller before 0.1.4 is told by what it does not print."""
    async with living("ibcontroller", [{"wrong_password": True}], old_controller=True) as life:
        await life.ended()
    assert read("ibcontroller", life.lines).view.too_old
