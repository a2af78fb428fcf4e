"""The life of a simulated gateway from the outside: its port, its faults, its restarts, its end. Both controllers."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import time
from pathlib import Path
from types import ModuleType

import pytest

from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.restarts import Restarts
from spreadpilot_core.ibkr.simulator.script import Script
from support.simulated_life import ACCOUNT, CONTROLLERS, DEADLINE, QUICK, connect, handshake, living, whole_life

both = pytest.mark.parametrize("controller", CONTROLLERS)


def markers(settings: Path) -> list[Path]:
    """Markers of a restart under way."""
    return list(settings.rglob("autorestart"))


# ---------------------------------------------------------------------------------------------- the published port


@both
async def test_port_accepts_and_closes_until_the_login(controller: str) -> None:
    """A connect succeeds from the first moment and is closed at once; the log says that nothing listened behind."""
    async with living(controller, [{"slow_start": 60}]) as life:
        assert await handshake(life.gateway.port) == b""
        await life.said("login dialog is not displayed" if controller == "ibc" else "LAUNCHING -> LOGGING_IN")
        assert await handshake(life.gateway.port) == b""
        await life.said("E connect(5, AF=2 127.0.0.1:4002, 16): Connection refused")


@both
async def test_port_is_served_after_the_login_and_refused_after_the_end(controller: str) -> None:
    """After the login a handshake is answered; after the end the port is free for somebody else."""
    async with living(controller) as life:
        await life.usable()
        port = life.gateway.port
        assert b"178" in await handshake(port)
        await life.stopped()
        with pytest.raises(ConnectionRefusedError):
            await connect(port)
        other = SimulatedGateway(accounts=[ACCOUNT], port=port)
        assert other.bind() == port
        other_life = asyncio.create_task(other.run("x"))
        other.terminate()
        await other_life


async def test_taken_port_is_an_error_of_bind_and_run() -> None:
    """A port that is in use is told at once, before anything lives."""
    async with living("ibc") as life:
        with pytest.raises(OSError, match="in use"):
            SimulatedGateway(accounts=[ACCOUNT], port=life.gateway.port).bind()
        with pytest.raises(OSError, match="in use"):
            await SimulatedGateway(accounts=[ACCOUNT], port=life.gateway.port).run("x")


@both
async def test_killed_life_leaves_nothing(controller: str) -> None:
    """Cancelling the life is the SIGKILL: no line more, the port free, connections ended, no task left."""
    before = asyncio.all_tasks()
    async with living(controller) as life:
        await life.usable()
        port = life.gateway.port
        reader, writer = await connect(port)
        assert life.task is not None
        life.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life.task
        printed = len(life.lines)
        assert await reader.read() == b""
        writer.close()
        assert len(life.lines) == printed
        with pytest.raises(ConnectionRefusedError):
            await connect(port)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# ---------------------------------------------------------------------------------------------- faults of the API


@both
async def test_shut_api_accepts_and_closes_after_a_good_login(controller: str) -> None:
    """The log tells of a good login, the port only accepts and closes; it may be opened later."""
    async with living(controller, [{"api_shut": True}]) as life:
        await life.said("Login has completed" if controller == "ibc" else "state=LoginState.LOGGED_IN")
        assert await handshake(life.gateway.port) == b""
        assert not life.gateway.is_usable
        life.gateway.inject("api_open")
        assert b"178" in await handshake(life.gateway.port)


async def test_api_does_not_open_before_the_login() -> None:
    """`api_open` lifts a fault, it does not log in."""
    async with living("ibc", [{"slow_start": 60}]) as life:
        await life.said("Starting Gateway with this command")
        life.gateway.inject("api_open")
        assert await handshake(life.gateway.port) == b""


async def test_api_shut_at_run_time_ends_connections() -> None:
    """What was connected reads the end of the stream; what connects is closed."""
    async with living("ibc") as life:
        await life.usable()
        reader, writer = await connect(life.gateway.port)
        writer.write(b"API\0\0\0\0\tv100..178")
        assert await reader.read(100)
        life.gateway.inject("api_shut")
        assert await reader.read() == b""
        writer.close()
        assert await handshake(life.gateway.port) == b""


async def test_mute_api_accepts_and_never_answers() -> None:
    """A muted handshake stays unanswered and open; unmuted, new connections are answered."""
    async with living("ibc", [{"mute": "handshake"}]) as life:
        await life.said("Login has completed")
        with pytest.raises(TimeoutError):
            await handshake(life.gateway.port, seconds=0.1)
        life.gateway.inject("unmute")
        assert b"178" in await handshake(life.gateway.port)
        await life.usable()


@both
async def test_restart_cures_the_faults_of_the_api(controller: str) -> None:
    """A new program has none of the old one's API faults."""
    async with living(controller, [{"mute": "handshake"}]) as life:
        await life.said("Login has completed" if controller == "ibc" else "-> READY")
        life.gateway.inject("nightly_restart")
        await life.usable()
        assert b"178" in await handshake(life.gateway.port)


# ---------------------------------------------------------------------------------------------- frozen


@both
async def test_frozen_gateway_answers_nothing_and_prints_nothing(controller: str) -> None:
    """A stopped process: connects hang, a SIGTERM waits, no line comes; thawed, everything goes on."""
    async with living(controller) as life:
        await life.usable()
        await life.said("Configuration tasks completed" if controller == "ibc" else "-> READY")
        life.gateway.inject("freeze")
        printed = len(life.lines)
        with pytest.raises(TimeoutError):
            await handshake(life.gateway.port, seconds=0.1)
        life.gateway.inject("nightly_restart")
        life.gateway.terminate()
        await asyncio.sleep(0.05)
        assert len(life.lines) == printed
        assert life.task is not None
        assert not life.task.done()
        life.gateway.inject("thaw")
        assert await life.ended() == (143 if controller == "ibc" else 0)


@both
async def test_login_that_was_frozen_goes_on(controller: str) -> None:
    """Frozen in the middle of the login, it is neither lost nor repeated."""
    async with living(controller, timings=QUICK.scaled(10)) as life:
        await life.said("Login attempt" if controller == "ibc" else "credentials submitted")
        life.gateway.inject("freeze")
        await asyncio.sleep(0.3)
        assert not life.gateway.is_usable
        life.gateway.inject("thaw")
        await life.usable()
    assert life.count("Login attempt" if controller == "ibc" else "credentials submitted") == 1


@both
@pytest.mark.parametrize("frozen", [False, True])
async def test_kill_ends_at_once_with_its_code(controller: str, frozen: bool) -> None:
    """The whole container is gone without a word, also when it stood still."""
    async with living(controller) as life:
        await life.usable()
        if frozen:
            life.gateway.inject("freeze")
        printed = len(life.lines)
        life.gateway.inject("kill", exit_code=9)
        assert await life.ended() == 9
        assert len(life.lines) == printed


# ---------------------------------------------------------------------------------------------- passwords


@both
async def test_only_the_expected_password_is_right(controller: str) -> None:
    """With a hash given, another password is rejected and the right one logs in."""
    digest = hashlib.sha256("Grüße \\ $1".encode()).hexdigest()
    async with living(controller, password="Grüße \\ $1", password_sha256=digest) as life:
        await life.usable()
    async with living(controller, password="Grüße $1", password_sha256=digest) as life:
        await life.said("Unrecognized Username" if controller == "ibc" else "login rejected")
        assert not life.gateway.is_usable


@both
async def test_password_is_neither_printed_nor_kept(controller: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once logged in, no line, no log record and no object of the process holds the password."""
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    parts = ["zebra-", "crossing-", "xylophone"]
    gateway = SimulatedGateway(accounts=[ACCOUNT], controller=controller, on_line=lines.append, timings=QUICK)
    task = asyncio.create_task(gateway.run("".join(parts)))
    async with asyncio.timeout(DEADLINE):
        await gateway.until_usable()
    gc.collect()
    # What a module holds is in its dictionary; asked itself, asyncio's own of Python 3.12.1 gives out objects that are gone.
    things = (thing for thing in gc.get_objects() if not isinstance(thing, ModuleType))
    held = (held for thing in things for held in gc.get_referents(thing) if isinstance(held, str))
    assert not [text for text in held if "xylophone" in text and "zebra-" in text and len(text) < 40]
    gateway.terminate()
    await task
    assert not [line for line in lines if "xylophone" in line]
    assert "xylophone" not in caplog.text


# ---------------------------------------------------------------------------------------------- scripts and restarts


@both
async def test_first_start_wrong_then_fine_over_two_containers(controller: str) -> None:
    """A script given to two containers in turn: the first is rejected, the second logs in."""
    script = Script.from_json([{"wrong_password": True}])
    async with living(controller, script=script) as life:
        await life.said("Unrecognized Username" if controller == "ibc" else "login rejected")
    async with living(controller, script=script) as life:
        await life.usable()


@both
async def test_login_fault_at_run_time_happens_at_the_next_start(controller: str) -> None:
    """A rejection right after the nightly restart, the false one that is known from the field."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("wrong_password")
        life.gateway.inject("nightly_restart")
        if controller == "ibc":
            await life.said("Unrecognized Username or Password; event=Opened")
        else:
            assert await life.ended() == 77


@both
async def test_later_fault_happens_after_the_login(controller: str) -> None:
    """`then` counts from the login."""
    code, _ = await whole_life(controller, [{"then": [{"after": 0.05, "fault": "kill", "exit_code": 5}]}])
    assert code == 5


@both
async def test_restart_keeps_books_and_port(controller: str) -> None:
    """During the nightly restart connections end and the port accepts and closes; then the same server answers."""
    async with living(controller, timings=QUICK.scaled(5)) as life:
        await life.usable()
        server, port = life.gateway.api, life.gateway.port
        reader, writer = await connect(port)
        life.gateway.inject("nightly_restart")
        assert await reader.read() == b""
        writer.close()
        assert await handshake(port) == b""
        await life.usable()
        assert b"178" in await handshake(port)
        assert life.gateway.api is server


@both
async def test_lost_token_costs_a_full_login(controller: str) -> None:
    """After IBKR's weekly end of tokens the restart without credentials fails, and a full login follows by itself."""
    attempt = "Login attempt" if controller == "ibc" else "credentials submitted"
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("lose_token")
        life.gateway.inject("nightly_restart")
        await life.said("Cold restart in progress" if controller == "ibc" else "transient login failure -- relaunching")
        await life.usable()
        assert life.count(attempt) == 2
        life.gateway.inject("nightly_restart")
        await life.said("Re-starting session" if controller == "ibc" else "restart_expected flag", 2)
        await life.usable()
        assert life.count(attempt) == 2


async def test_lost_token_asks_for_the_phone_again_when_live() -> None:
    """The full login of a live account after a lost token needs its second factor; the nightly one does not."""
    async with living("ibc", trading_mode="live", accounts=["U1234567"]) as life:
        await life.usable()
        life.gateway.inject("nightly_restart")
        await life.said("Login has completed", 2)
        assert life.count("Second Factor Authentication initiated") == 1
        life.gateway.inject("lose_token")
        life.gateway.inject("nightly_restart")
        await life.said("Login has completed", 3)
        assert life.count("Second Factor Authentication initiated") == 2


@both
async def test_marker_lives_for_the_restart_only(controller: str, tmp_path: Path) -> None:
    """The restart's marker is in the settings while the program is away, and gone once it is back."""
    async with living(controller, settings_dir=tmp_path) as life:
        await life.usable()
        assert not markers(tmp_path)
        life.gateway.inject("nightly_restart")
        await life.unusable()
        assert markers(tmp_path)
        await life.usable()
        assert not markers(tmp_path)


@both
async def test_marker_of_a_container_killed_in_its_restart(controller: str, tmp_path: Path) -> None:
    """IBC types nothing and waits for ever on such a leftover (once); ibcontroller pays it no heed."""
    async with living(controller, settings_dir=tmp_path) as life:
        await life.usable()
        life.gateway.inject("nightly_restart")
        await life.unusable()
    async with living(controller, settings_dir=tmp_path) as life:
        if controller == "ibcontroller":
            await life.usable()
            assert life.count("credentials submitted") == 1
            return
        await life.said("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT")
        assert life.count("autorestart file found at")
        await asyncio.sleep(0.05)
        assert not life.gateway.is_usable
        assert not life.count("Login attempt")
    async with living(controller, settings_dir=tmp_path) as life:
        await life.usable()


# ---------------------------------------------------------------------------------------------- in-process use


async def test_block_of_a_logged_in_gateway() -> None:
    """Inside the block a client is served, after it nothing is left; a script may come along."""
    async with SimulatedGateway.logged_in(accounts=[ACCOUNT], timings=QUICK) as gateway:
        assert gateway.is_usable
        assert list(gateway.accounts) == [ACCOUNT]
        port = gateway.port
        gateway.inject("freeze")
    with pytest.raises(ConnectionRefusedError):
        await connect(port)


async def test_block_tells_when_there_is_no_login() -> None:
    """A gateway that ends instead of logging in is an error with its exit code, not a wait for ever."""
    script = Script.from_json([{"wrong_password": True}])
    with pytest.raises(RuntimeError, match="ended with 77 instead of logging in"):
        async with SimulatedGateway.logged_in(accounts=[ACCOUNT], timings=QUICK, script=script):
            pass


async def test_unknown_fault_is_refused_with_the_known_ones() -> None:
    """`inject` names what there is."""
    async with living("ibc") as life:
        with pytest.raises(ValueError, match=r"there is no fault 'explode' here; known are slow_start, .*, kill"):
            life.gateway.inject("explode")
        with pytest.raises(ValueError, match="notice 4711 needs a text"):
            life.gateway.inject("notice", code=4711)


async def test_many_gateways_share_a_loop_without_work() -> None:
    """A hundred logged-in gateways wait without polling: together they take next to no processor time."""
    gateways = [SimulatedGateway(accounts=[f"DU{number}"], timings=QUICK) for number in range(100)]
    lives = [asyncio.create_task(gateway.run("x")) for gateway in gateways]
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(gateway.until_usable() for gateway in gateways))
    await asyncio.sleep(0.2)
    used = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - used < 0.2
    for gateway in gateways:
        gateway.terminate()
    assert set(await asyncio.gather(*lives)) == {0}


# ---------------------------------------------------------------------------------------------- what else may happen


@both
async def test_rejection_of_a_running_session(controller: str) -> None:
    """IBC stays with the dialog open and the API muted; ibcontroller closes the program and exits with 77."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("rejected_later")
        if controller == "ibc":
            await life.said("Unrecognized Username or Password; event=Opened")
            assert not life.gateway.is_usable
        else:
            assert await life.ended() == 77
            assert life.count("shut down cleanly via File/Close")


@both
@pytest.mark.parametrize(
    ("action", "words", "code"),
    [
        ("primary", ("(scenario 5)", "primary, continuing this session"), None),
        ("primaryoverride", ("(scenario 6)", "primaryoverride, ending this session"), 0),
        ("secondary", ("(scenario 2)", "secondary, ending this session"), 0),
        ("manual", ("(scenario 1)", "manual, leaving for the user"), None),
    ],
)
async def test_other_login(controller: str, action: str, words: tuple[str, str], code: int | None) -> None:
    """Another login of the user is answered as the setting says, in each controller's words."""
    async with living(controller, existing_session_action=action) as life:
        await life.usable()
        life.gateway.inject("other_login")
        await life.said(words[CONTROLLERS.index(controller)])
        if code is not None:
            assert await life.ended() == code


@both
async def test_existing_session_that_yields(controller: str) -> None:
    """The other session gives way, and the login goes on with one attempt."""
    async with living(controller, [{"existing_session": True}]) as life:
        await life.usable()
    assert life.count("Login attempt" if controller == "ibc" else "credentials submitted") == 1


@both
async def test_windows_change_nothing(controller: str) -> None:
    """A window that nobody closes is told in the log; clients are served all the same."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("password_notice")
        life.gateway.inject("window", title="Something new")
        await life.said("Password Notice")
        await life.said("Something new")
        assert life.gateway.is_usable


@both
async def test_session_that_is_lost_and_recovers(controller: str) -> None:
    """New clients get no further than the handshake until the session is back."""
    async with living(controller, timings=QUICK.scaled(5)) as life:
        await life.usable()
        life.gateway.inject("session_lost", outcome="recovers")
        await life.unusable()
        await life.usable()
        assert life.gateway.api_is_open


@both
async def test_prompt_that_runs_out_at_run_time(controller: str) -> None:
    """`miss_second_factor` ends a pending prompt as if its time were over."""
    async with living(controller, [{"second_factor": "pending"}], trading_mode="live", accounts=["U1234567"]) as life:
        await life.said("Second Factor Authentication")
        life.gateway.inject("miss_second_factor")
        if controller == "ibc":
            await life.said("timeout not required")
        else:
            assert await life.ended() == 75


async def test_handoff_is_taken_over_by_a_primary_session() -> None:
    """`Trading Login Handoff` under `primary`: the other session is disconnected and the login goes on."""
    async with living("ibc", [{"login_handoff": True}], trading_mode="live", accounts=["U1234567"]) as life:
        await life.usable()
    assert life.count("Click button: Disconnect Other Session") == 1


@both
async def test_no_form_after_the_nightly_restart(controller: str) -> None:
    """IBC has no time limit for a form it doesn't fill in and waits; ibcontroller starts again and keeps the token."""
    async with living(controller) as life:
        await life.usable()
        life.gateway.inject("no_login_form")
        life.gateway.inject("nightly_restart")
        if controller == "ibcontroller":
            await life.said("login frame never appeared -- relaunching (restart hash=jedlhheopbnfkmn)")
            await life.said("restart_expected flag")
            await life.usable()
            return
        await life.said("Re-starting session")
        await asyncio.sleep(0.05)
        assert not life.gateway.is_usable
        assert await life.stopped() == 143


@both
async def test_restart_at_its_time_of_day(controller: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daily restart happens by itself when its time has come, and is planned anew after it."""
    due = iter([0.05])
    monkeypatch.setattr(Restarts, "seconds_to_next", lambda _self: next(due, None))
    async with living(controller) as life:
        await life.said("Re-starting session" if controller == "ibc" else "restart_expected flag")
        await life.usable()


@both
async def test_stop_during_a_restart(controller: str) -> None:
    """A SIGTERM while the program is away ends the container with its usual code."""
    async with living(controller, timings=QUICK.scaled(10)) as life:
        await life.usable()
        life.gateway.inject("nightly_restart")
        await life.unusable()
        assert await life.stopped() == (143 if controller == "ibc" else 0)


async def test_stop_before_the_controller_runs() -> None:
    """In the scripts' first moments nothing handles SIGTERM yet: it ends them as it ends any program."""
    for controller in CONTROLLERS:
        async with living(controller, timings=QUICK.scaled(100)) as life:
            assert await life.stopped() == 143
            assert not life.count("Received SIGINT or SIGTERM")
