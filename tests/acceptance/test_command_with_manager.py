from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from support.command import Begun, Command
from support.home import PASSWORD, Home
from support.waiting import wait_until


@pytest.fixture
def command(home: Home) -> Command:
    return Command(home, log_format="json")


def _add(home: Home, *follower_ids: str) -> None:
    asyncio.run(home.add(*follower_ids))


def _gateways(command: Command) -> dict[str, dict[str, Any]]:
    """The snapshots by follower, asked for without the cost of a command."""
    with ControlClient(command.home.directory) as client:
        return {each["follower_id"]: each for each in client.gateways()}


def _steady(gateway: dict[str, Any]) -> dict[str, Any]:
    """The snapshot without the heartbeat's own numbers, which move on."""
    return {name: value for name, value in gateway.items() if name not in ("last_heartbeat", "round_trip_ms")}


def _ready(command: Command, serving: Begun, *follower_ids: str) -> dict[str, dict[str, Any]]:
    """Wait until these are ready, then all snapshots."""
    serving.says("manager started")
    wait_until(lambda: all(_state(command, each) == "ready" for each in follower_ids))
    return _gateways(command)


def _state(command: Command, follower_id: str) -> str | None:
    """None also from a manager that does not answer yet: it acts before."""
    try:
        return _gateways(command).get(follower_id, {}).get("state")
    except NoManagerError:
        return None


def _answers(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_day_with_the_command(home: Home, command: Command) -> None:
    """Run, look, stop, launch, restart, reconnect, and end by SIGTERM: every command against a real manager."""
    _add(home, "alice", "bob")
    with command.begun("run") as serving:
        ready = _ready(command, serving, "alice", "bob")
        assert all(_answers(each["endpoint"]) for each in ready.values())
        table = command("status").stdout
        assert table.splitlines()[0].split() == [
            "FOLLOWER",
            "MODE",
            "STATUS",
            "STATE",
            "FOR",
            "ENDPOINT",
            "CLIENT",
            "ACCOUNTS",
            "WHAT",
        ]
        assert ready["alice"]["endpoint"] in table
        detail = command("status", "alice").stdout
        assert ready["alice"]["accounts"][0] in detail
        assert "bob" not in detail
        assert "vnc password" not in detail

        stopped = command("stop", "alice")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert stopped.stdout.startswith("alice is STOPPED (stopped).")
        assert not _answers(ready["alice"]["endpoint"])
        assert command("launch", "alice").returncode == 0
        alice = _ready(command, serving, "alice")["alice"]
        assert alice["client_id"] == ready["alice"]["client_id"]

        restarted = command("restart", "bob")
        assert restarted.returncode == 0, restarted.stderr
        bob = _ready(command, serving, "bob")["bob"]
        assert bob["since"] > ready["bob"]["since"]

        reconnected = command("reconnect", "alice")
        assert (reconnected.returncode, reconnected.stdout[:24]) == (0, "alice is RUNNING (ready)")

        assert [_steady(each) for each in command.json("status")] == [
            _steady(each) for each in _gateways(command).values()
        ]
        endpoints = [each["endpoint"] for each in command.json("status")]
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
        assert not any(_answers(each) for each in endpoints)
        assert PASSWORD not in serving.stdout + serving.stderr
        assert serving.stdout == ""
        for line in serving.stderr.splitlines():
            assert {"timestamp", "level", "event", "follower"} <= json.loads(line).keys()
    assert command("status").returncode == 1


def test_a_running_manager_follows_the_followers_file(command: Command) -> None:
    """A follower that is added while the manager runs gets its gateway, and a disabled one loses it, without a word to it."""
    with command.begun("run") as serving:
        serving.says("manager started")
        assert "knows no followers" in command("status").stdout
        assert re.fullmatch(r"The manager \(process \d+\) has ended; it had no gateway\.\n", command("detach").stdout)
        assert serving.ends() == 0
    with command.begun("run") as serving:
        serving.says("manager started")
        command("credentials", "set", "ibkr/carol", "--username", "carol-user", "--password-stdin", said=b"pw")
        command("followers", "add", "carol", "--vault-secret-ref", "ibkr/carol")
        carol = _ready(command, serving, "carol")["carol"]
        command("followers", "disable", "carol")
        wait_until(lambda: not _answers(carol["endpoint"]))
        wait_until(lambda: _state(command, "carol") == "disabled")


def test_followers_that_the_running_manager_would_not_read(home: Home, command: Command, tmp_path: Path) -> None:
    """A command whose settings name another store than the manager's says so and writes nothing; so does the doctor."""
    with Command(home, store_url=f"local:{tmp_path}", log_format="json").begun("run") as serving:
        serving.says("manager started")
        for arguments in ("add ghost --vault-secret-ref ibkr/ghost", "enable ghost", "list", "remove ghost"):
            done = command("followers", *arguments.split())
            assert (done.returncode, done.stdout) == (1, ""), arguments
            assert f"has its followers in local:{tmp_path}, and this command's settings say local:." in done.stderr
        assert not home.followers_file.exists()
        found = json.loads(command("doctor", "--json").stdout)
        (told,) = [each for each in found if "has its followers in" in each["what"]]
        assert (told["check"], told["verdict"]) == ("manager", "problem")
        same = {"GATEWAY_MANAGER_STORE_URL": f"local:{tmp_path}/../{tmp_path.name}"}
        assert command("followers", "add", "anna", "--vault-secret-ref", "ibkr/anna", **same).returncode == 0
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0


def test_records_that_are_gone_wait_for_an_operator(home: Home, command: Command) -> None:
    """An emptied file stops nobody, over the next manager too; `confirm-removals` speaks to it, and then they go."""
    _add(home, "alice", "bob")
    with command.begun("run") as serving:
        _ready(command, serving, "alice", "bob")
        assert command("followers", "confirm-removals").stdout == "No follower with a gateway has lost its record.\n"
        home.followers_file.write_text("")
        wait_until(lambda: "confirm-removals" in " ".join(_gateways(command)["alice"]["notices"]))
        assert "confirm-removals" in command("status", "alice").stdout
        assert command("detach").returncode == 0
        assert serving.ends() == 0
    with command.begun("run") as serving:
        gateways = _ready(command, serving, "alice", "bob")
        assert "confirm-removals" in " ".join(gateways["bob"]["notices"])
        done = command("followers", "confirm-removals")  # nobody can be asked
        assert (done.returncode, done.stderr) == (1, "Nothing was done. `--yes` answers beforehand.\n")
        done = command("followers", "confirm-removals", "--yes")
        assert done.stdout == "Their records are gone: alice, bob.\nThe gateways of alice, bob are being stopped.\n"
        wait_until(lambda: _gateways(command) == {})
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a device", "nested"])
def test_no_follower_file_keeps_the_manager_from_ending(home: Home, command: Command, kind: str) -> None:
    """Whatever lies there is told in a sentence without a traceback, followers stay as they were, and SIGTERM ends it."""
    _add(home, "alice")
    with command.begun("run") as serving:
        _ready(command, serving, "alice")
        home.followers_file.unlink()
        _lay_down(home.followers_file, kind)
        words = "nested too deeply" if kind == "nested" else "can't be used"
        wait_until(lambda: words in " ".join(_gateways(command)["alice"]["notices"]))
        assert _state(command, "alice") == "ready"
        for arguments in (
            ("list",),
            ("check",),
            ("enable", "alice"),
            ("set", "alice", "enabled=true"),
            ("remove", "alice"),
        ):
            done = command("followers", *arguments)
            assert (done.returncode, words in done.stderr) == (1, True)
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
        assert "Traceback" not in serving.stderr


def _lay_down(path: Path, kind: str) -> None:
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case _:
            path.write_text("x = " + "[" * 5000)


def test_what_is_refused_is_told_in_one_sentence(home: Home, command: Command) -> None:
    """Unknown and disabled followers, and a second manager, are refused with their names, exit code 1 and no table."""
    _add(home, "alice")
    command("followers", "add", "dora", "--vault-secret-ref", "ibkr/dora", "--disabled")
    with command.begun("run") as serving:
        _ready(command, serving, "alice")
        for arguments in ("status nobody", "launch nobody", "stop nobody", "reconnect nobody", "launch dora"):
            done = command(*arguments.split())
            assert (done.returncode, done.stdout) == (1, ""), arguments
            assert done.stderr.count("\n") == 1
            assert arguments.split()[1] in done.stderr
        assert "among 2 records: was 'alice' meant?" in command("launch", "Alcie").stderr
        gone = command("reconnect", "dora")
        assert gone.returncode == 1
        assert "disabled" in gone.stderr
        second = command("run")
        assert second.returncode == 1
        assert str(serving.process.pid) in second.stderr.splitlines()[-1]
        assert _state(command, "alice") == "ready"


@pytest.mark.parametrize("how", ["kill -9", "detach", "on_exit"])
def test_the_next_manager_adopts_what_runs(home: Home, how: str) -> None:
    """Ten gateways outlive a killed, a detached and a terminated manager; the next one takes all over, none restarted."""
    command = Command(home, log_format="json", on_exit="detach")
    names = [f"follower_{number}" for number in range(10)]
    _add(home, *names)
    with command.begun("run") as first:
        before = _ready(command, first, *names)
        match how:
            case "kill -9":
                first.process.kill()
                first.process.wait()
            case "detach":
                done = command("detach")
                assert (done.returncode, first.ends()) == (0, 0)
                assert str(first.process.pid) in done.stdout
            case _:
                first.signal(signal.SIGTERM)
                assert first.ends() == 0
    assert command("status").returncode == 1
    starts = _operations(home)
    with command.begun("run") as second:
        after = _ready(command, second, *names)
        second.signal(signal.SIGTERM)
        assert second.ends() == 0
    kept = ("endpoint", "client_id", "container", "accounts")
    for name in names:
        assert [after[name][each] for each in kept] == [before[name][each] for each in kept]
    assert _operations(home) == starts


def _operations(home: Home) -> list[str]:
    """What was created and started until now, by the runtime's own trail."""
    lines = (home.directory / "operations.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["operation"] in ("create", "start")]


def test_a_second_signal_hurries(home: Home) -> None:
    """A frozen gateway may take its whole grace to close; the second SIGTERM kills it, and the manager still ends well."""
    command = Command(home, log_format="json", stop_grace=600, healthcheck_interval=600)
    _add(home, "alice")
    with command.begun("run") as serving:
        _ready(command, serving, "alice")
        asyncio.run(_freeze(home, "alice"))
        serving.signal(signal.SIGTERM)
        serving.says('"event": "manager ends"')
        assert serving.process.poll() is None
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0


async def _freeze(home: Home, follower_id: str) -> None:
    runtime = home.runtime()
    await runtime.open()
    await runtime.inject(FollowerId(follower_id), "freeze")
    await runtime.close()


def test_a_signal_during_the_start_ends_it_well(home: Home, command: Command) -> None:
    """SIGTERM as early as it can come, and Ctrl-C, end the manager with exit code 0 and no gateway."""
    _add(home, "alice", "bob", "carol")
    for number in (signal.SIGTERM, signal.SIGINT):
        with command.begun("run") as serving:
            serving.says("FollowersLoaded")
            serving.signal(number)
            assert serving.ends() == 0
    with command.begun("run") as serving:
        assert set(_ready(command, serving, "alice", "bob", "carol")) == {"alice", "bob", "carol"}
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0


def test_watching_tells_every_change_until_the_end(home: Home, command: Command) -> None:
    """`status --watch` in a pipe prints a line for each change, and ends with Ctrl-C or with the manager."""
    _add(home, "alice")
    with command.begun("run") as serving:
        _ready(command, serving, "alice")
        with command.begun("status", "--watch") as watching, command.begun("status", "--watch", "--json") as as_json:
            watching.says("alice is RUNNING (ready)")
            as_json.says('"follower_id": "alice"')
            command("stop", "alice")
            watching.says("alice is STOPPED (stopped)")
            as_json.signal(signal.SIGINT)
            assert as_json.ends() == 0
            assert all(isinstance(json.loads(line), list) for line in as_json.stdout.splitlines())
            serving.signal(signal.SIGTERM)
            assert serving.ends() == 0
            assert watching.ends() == 1
            assert watching.stderr.count("\n") == 1


def test_a_rejected_password_waits_for_an_operator(home: Home, command: Command) -> None:
    """One login for one wrong password; `launch` is refused with what to do, `--retry-login` takes one more, audited."""
    _add(home, "alice")
    (home.directory / "scripts.json").write_text(
        json.dumps({"followers": {"alice": {"laps": [{"wrong_password": True}]}}})
    )
    with command.begun("run") as serving:
        serving.says("LoginRejected")
        wait_until(lambda: _state(command, "alice") == "needs_human")
        refused = command("launch", "alice")
        assert refused.returncode == 1
        assert "--retry-login" in refused.stderr
        assert "LoginRejected" not in serving.stderr.split('"needs_human"')[-1]
        taken = command("launch", "alice", "--retry-login")
        assert taken.returncode == 0, taken.stderr
        _ready(command, serving, "alice")
    told = {line["act"]: line for line in command.json("audit", "show", "alice")}
    assert {"reject", "launch", "retry-login"} <= told.keys()
    assert re.fullmatch(
        r"gateway-manager, \S+ on \S+, process \d+, through the control socket", told["retry-login"]["who"]
    )
    assert "did not accept" in told["retry-login"]["detail"]
    assert command("audit", "verify").returncode == 0


def test_no_process_is_left(home: Home, command: Command) -> None:
    """After a completed SIGTERM neither courier nor host of simulated gateways stays for long."""
    _add(home, "alice")
    with command.begun("run") as serving:
        _ready(command, serving, "alice")
        address = read_address(home.directory)
        assert address is not None
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
        group = serving.process.pid  # it began a session of its own

    def nobody_left() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return not _lives(address.pid)
        return False

    wait_until(nobody_left)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
