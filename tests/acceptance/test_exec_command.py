"""`gateway-manager exec` and `endpoint`: programs in any language, with what they need in their environment."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import PROGRAM, Command
from support.home import PATIENCE, Home
from support.waiting import wait_until


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Of a home whose manager runs, with one gateway that is ready and one that is not wanted."""
    home = Home()
    asyncio.run(home.add("alice", "carol"))
    asyncio.run(home.add("off", enabled=False))
    command = Command(home)
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: gateway(command)["state"] == "ready")
        yield command
    asyncio.run(home.end())


@pytest.fixture(name="hangup_ends")
def hangup_ends_fixture() -> Iterator[None]:
    """Whoever runs the tests by `nohup` would have SIGHUP ignored in whatever they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def leases(command: Command) -> list[dict[str, object]]:
    with ControlClient(command.home.directory) as client:
        return client.clients()


def gateway(command: Command) -> dict[str, object]:
    with ControlClient(command.home.directory) as client:
        return client.gateway("alice")


def test_a_program_gets_all_that_a_client_needs(command: Command) -> None:
    """Host, port, account and mode of the gateway, a client id that it holds while it runs, and the rest of the environment."""
    script = f"env; {PROGRAM} endpoint alice --json"
    done = command("exec", "alice", "--name", "bot", "--", "sh", "-c", script, IB_ACCOUNT="other", MINE="kept")
    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if line.startswith(("IB_", "MINE")))
    shown = gateway(command)
    assert done.returncode == 0, done.stderr
    assert f"{told['IB_HOST']}:{told['IB_PORT']}" == shown["endpoint"]
    assert [told["IB_ACCOUNT"]] == shown["accounts"]
    assert (told["IB_TRADING_MODE"], told["MINE"]) == ("paper", "kept")
    assert 10_000 <= int(told["IB_CLIENT_ID"]) <= 19_999
    assert leases(command) == []


def test_streams_exit_code_and_umask_are_the_programs_own(command: Command) -> None:
    """What goes in comes to it, byte by byte, what it says comes out, and its end is the command's."""
    data = bytes(range(256)) * 1000
    done = subprocess.run(
        ["sh", "-c", f'umask 027; exec {PROGRAM} exec alice -- sh -c "umask >&2; cat; exit 7"'],
        env=command.environment,
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (7, data, b"0027")


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)]
)
def test_signals_reach_the_program(command: Command, number: signal.Signals, code: int) -> None:
    """It ends by them, and the command with the code that a shell would give."""
    with command.begun("exec", "alice", "--", "sh", "-c", "echo up; exec sleep 600") as begun:
        begun.says("up")
        begun.signal(number)
        assert begun.ends() == code
    assert leases(command) == []


def test_what_the_command_ignores_its_program_ignores_too(command: Command) -> None:
    """`nohup gateway-manager exec …` survives the end of its terminal, and ends when it is asked to."""
    with subprocess.Popen(
        ["nohup", PROGRAM, "exec", "alice", "--", "sh", "-c", "echo up; exec sleep 600"],
        env=command.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as begun:
        assert begun.stdout is not None
        assert begun.stdout.readline() == b"up\n"
        begun.send_signal(signal.SIGHUP)  # which is delivered before the other one
        begun.send_signal(signal.SIGTERM)
        assert begun.wait(2 * PATIENCE) == 143


def test_a_program_may_answer_a_signal_as_it_likes(command: Command) -> None:
    """It has its time to close; nothing ends it but itself."""
    script = "trap 'echo closing; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    with command.begun("exec", "alice", "--", "sh", "-c", script) as begun:
        begun.says("up")
        begun.signal(signal.SIGTERM)
        assert begun.ends() == 3
        assert "closing" in begun.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("alice", "--", "no-such-program"), 127, "no-such-program can't be run: No such file or directory"),
        (("alice", "--", "/tmp"), 126, "/tmp can't be run: Permission denied"),
        (("nobody", "--", "true"), 1, "There is no follower 'nobody'"),
        (("off", "--", "true"), 1, "The gateway of off is disabled"),
        (("alice", "--require", "live", "--", "true"), 1, "live is required"),
        (("alice", "--url", "unix:/nowhere", "--wait", "0", "--", "true"), 1, "No gateway manager answers at /nowhere"),
        (("alice",), 2, "COMMAND"),
    ],
)
def test_what_can_not_be_run_is_said(command: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With the codes that shells have for programs that can't be run."""
    done = command("exec", *arguments)
    assert done.returncode == code
    assert said in done.stderr


def test_where_a_gateway_answers_is_said_for_scripts(command: Command) -> None:
    """As HOST:PORT, as JSON, or as why not."""
    shown = gateway(command)
    assert command("endpoint", "alice").stdout.strip() == shown["endpoint"]
    (found,) = command.json("endpoint", "alice")
    assert (f"{found['host']}:{found['port']}", [found["account"]]) == (shown["endpoint"], shown["accounts"])
    refused = command("endpoint", "off", "--wait", "60")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "The gateway of off is disabled" in refused.stderr


def test_a_program_is_started_again_when_its_gateway_was_replaced(command: Command) -> None:
    """It is asked to end, and begins again under the same client id once the new gateway is ready."""
    script = 'echo "began $IB_CLIENT_ID"; exec sleep 600'
    with command.begun("exec", "alice", "--name", "again", "--restart", "--", "sh", "-c", script) as begun:
        begun.says("began")
        assert command("restart", "alice").returncode == 0
        begun.says("began", times=2)
        first, second = (line for line in begun.stdout.splitlines() if line.startswith("began"))
        assert first == second
        assert "its gateway was replaced" in begun.stderr
        begun.signal(signal.SIGTERM)
        assert begun.ends() == 143


def test_a_program_that_requires_paper_does_not_go_live(command: Command) -> None:
    """Its gateway was replaced by a live one: it is ended, also where it would be started again."""
    script = 'echo "began $IB_TRADING_MODE"; exec sleep 600'
    with command.begun("exec", "carol", "--require", "paper", "--restart", "--", "sh", "-c", script) as begun:
        begun.says("began paper")
        assert command("followers", "set", "carol", "trading_mode=live").returncode == 0
        wait_until(lambda: command("launch", "carol", "--live").returncode == 0)
        assert begun.ends() == 143
        assert "carol is live now, and paper is required" in begun.stderr
        assert "began live" not in begun.stdout


FRAGILE = textwrap.dedent("""
    import os, socket
    print("began", flush=True)
    with socket.create_connection((os.environ["IB_HOST"], int(os.environ["IB_PORT"]))) as connection:
        connection.sendall(b"API\\0\\0\\0\\0\\x09v100..187")
        while connection.recv(4096):
            pass
    raise SystemExit("the gateway is gone")
""")


def test_a_program_that_fails_while_its_gateway_is_away_is_started_again(command: Command) -> None:
    """And one that fails for reasons of its own is not."""

    async def kill() -> None:
        runtime = command.home.runtime()
        await runtime.open()
        await runtime.inject(FollowerId("alice"), "crash")
        await runtime.close()

    wait_until(lambda: gateway(command)["state"] == "ready")
    with command.begun("exec", "alice", "--restart", "--", sys.executable, "-c", FRAGILE) as begun:
        begun.says("began")
        asyncio.run(kill())
        begun.says("began", times=2)
    done = command("exec", "alice", "--restart", "--", "sh", "-c", "echo began; exit 5")
    assert (done.returncode, done.stdout) == (5, "began\n")


def test_a_program_outlives_the_manager(tmp_path: Path) -> None:
    """A manager that is away ends no program; the one that comes after it knows the client id."""
    home = Home()
    asyncio.run(home.add("alice"))
    own = Command(home, on_exit="detach")
    go_on = tmp_path / "go on"
    script = f"echo up; until [ -e '{go_on}' ]; do sleep 0.05; done; echo $IB_CLIENT_ID"
    try:
        with (
            own.begun("run") as serving,
            own.begun("exec", "alice", "--name", "bot", "--", "sh", "-c", script) as begun,
        ):
            begun.says("up")
            serving.signal(signal.SIGKILL)
            serving.ends()
            with own.begun("run") as after:
                after.says("manager started")
                (lease,) = leases(own)
                go_on.touch()
                assert begun.ends() == 0
                assert str(lease["client_id"]) in begun.stdout
                assert lease["name"] == "bot"
    finally:
        asyncio.run(home.end())
