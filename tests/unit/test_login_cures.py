"""What only a human can cure: told from IBKR's words in any shape, after one login, for both controllers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spreadpilot_core.ibkr.controller_log import login_cures as cures
from spreadpilot_core.ibkr.controller_log.login_cures import cure_for
from spreadpilot_core.ibkr.controller_log.reader import LoginLog, LoginView
from spreadpilot_core.ibkr.model.reasons import Reason
from spreadpilot_core.ibkr.model.states import State
from support.controller_lines import ibc, told, window
from support.decide_world import World

PASSKEY = "Required PassKey is not supported, please upgrade to latest version GATEWAY"
TEXTS = [
    (PASSKEY, cures.PASSKEY),
    (PASSKEY.upper(), cures.PASSKEY),
    ("Required Pass-Key  is\tnot supported", cures.PASSKEY),
    ("<html>Required <b>Pass</b>Key<br>is not supported</html>", cures.PASSKEY),
    ("API support is not available for accounts that support free trading.", cures.FREE_TRADING),
    ("API support is not available for accounts that support Free-Trading", cures.FREE_TRADING),
    ("This version of IB Gateway is no longer supported. Please upgrade.", cures.TOO_OLD_GATEWAY),
    ("The release you are using is NO LONGER SUPPORTED", cures.TOO_OLD_GATEWAY),
    ("2FA maximum attempts reached", cures.ATTEMPTS_USED_UP),
    ("Two-factor: maximum number of attempts reached", cures.ATTEMPTS_USED_UP),
    ("The specified user has multiple Paper Trading users associated with it", cures.PAPER_USERS),
]  # fmt: skip
TRANSIENT = [
    "Server error, will retry",
    "Server disconnected, please try again",
    "no route to host",
    "Soft token could not be validated, please log in again",
    "The trading platform is temporarily not supported in maintenance",
    "too many failed login attempts",
]
IBC_START = ["Starting Gateway with this command:", ibc("Login attempt: 1"), ibc("Click button: Paper Log In")]
IBCONTROLLER_START = [told("launching instance gateway-paper (paper)"), told("credentials submitted, awaiting outcome")]
AGAIN = {
    "ibc": [ibc("Cold restart in progress"), "IBC returned exit status 0", "IBC will cold-restart shortly", "Starting Gateway with this command:", ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT")],
    "ibcontroller": [told("cycle aborted: x"), told("transient login failure -- relaunching with a full fresh login: x"), told("launching instance gateway-paper (paper)")],
}  # fmt: skip


def dialog(title: str) -> str:
    return ibc(f"detected dialog entitled: {title}; event=Opened")


def shapes(text: str) -> list[tuple[str, list[str]]]:
    """The same dialog as the two controllers pass it on: in one line, wrapped, as a title, in the last line alone."""
    words = text.split()
    wrapped = [" ".join(words[:3]), *words[3:]]
    return [
        ("ibc", [*IBC_START, ibc(f"Connection to server failed: {text}")]),
        ("ibc", [*IBC_START, ibc(f"Connection to server failed: {wrapped[0]}"), *wrapped[1:]]),
        ("ibc", [*IBC_START, ibc("Login error message:"), *wrapped]),
        ("ibc", [*IBC_START, dialog(text)]),
        ("ibcontroller", [*IBCONTROLLER_START, told(f"Connection to server failed: {text}")]),
        ("ibcontroller", [*IBCONTROLLER_START, told(f"login error: {wrapped[0]}"), *wrapped[1:], "| OK"]),
        ("ibcontroller", [*IBCONTROLLER_START, window(text)]),
        ("ibcontroller", [*IBCONTROLLER_START, told(f"cycle aborted: gateway connection failed: Connection to server failed: {text}")]),
        ("ibcontroller", [*IBCONTROLLER_START, f"error: gateway connection failed: Connection to server failed: {text}"]),
    ]  # fmt: skip


def read(controller: str, lines: list[str]) -> LoginView:
    log = LoginLog(controller)  # type: ignore[arg-type]
    for line in lines:
        log.read(line)
    return log.view


@pytest.mark.parametrize(("text", "cure"), TEXTS)
def test_every_shape_of_the_words_is_understood_also_behind_a_relaunch(text: str, cure: Reason) -> None:
    """In one line, wrapped, as a title, with tags; and when the next lap's lines came in the same burst."""
    for controller, lines in shapes(text):
        assert read(controller, lines).cure == cure, lines
        assert read(controller, [*lines, *AGAIN[controller]]).cure == cure, lines


@pytest.mark.parametrize("text", TRANSIENT)
def test_everything_else_stays_transient(text: str) -> None:
    """What may pass by itself is tried again, within the budget."""
    for controller, lines in shapes(text):
        assert read(controller, [*lines, *AGAIN[controller]]).cure is None, lines


@pytest.mark.parametrize(
    "line",
    [
        "settings: the entry version.check is no longer supported",
        "Setting StoreSettingsOnServer: this version no longer supported it",
        "launch command for gateway-paper: ['java', '-Dpasskey.required=no']",
        "Found setting: [Logon]/release=no longer supported",
    ],
)
def test_a_controllers_words_about_itself_are_no_verdict_of_ibkr(line: str) -> None:
    """Settings and commands may name anything."""
    assert cure_for(line) is None


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_a_dialog_over_a_session_that_is_logged_in_ends_nothing(controller: str) -> None:
    """Once the login completed, the same words stop no gateway; and a completed login takes an older verdict back."""
    start = IBC_START if controller == "ibc" else IBCONTROLLER_START
    done = ibc("Login has completed") if controller == "ibc" else told("login completed")
    shown = dialog("2FA maximum attempts reached") if controller == "ibc" else window("2FA maximum attempts reached")
    assert read(controller, [*start, done, shown]).cure is None
    assert read(controller, [*start, shown, done]).cure is None


@pytest.mark.parametrize(("text", "cure"), TEXTS)
def test_one_login_and_then_a_human_with_the_cure(text: str, cure: Reason) -> None:
    """Whatever phase the log shows when it is looked at, the container goes at once and nothing is tried again."""
    for controller, lines in shapes(text):
        world = World()
        while world.login is None or not world.logins_typed:
            world.step()
        world.login = replace(read(controller, [*lines, *AGAIN[controller]]), attempts=1)
        for _ in range(200):
            world.step()
        assert world.memory.state is State.NEEDS_HUMAN
        assert world.record.needs_human is not None
        assert world.record.needs_human.code is cure.code
        assert cure.sentence in world.record.needs_human.sentence
        assert (len(world.logins_typed), world.containers, world.gateway) == (1, 1, None)
        assert world.broken == []
