from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.exit_codes import NO_SECRET, NO_SETTINGS
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, GatewayPhase
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.docker.containers import (
    HealthCheck,
    Labelled,
    container_config,
    doubtful_settings,
    foreign_from,
    gateway_from,
    last_words,
    parse_time,
)
from spreadpilot_core.ibkr.runtimes.docker.naming import Naming
from spreadpilot_core.ibkr.runtimes.images import SECRET_DIRECTORY, identify
from spreadpilot_core.ibkr.runtimes.wrapper import WRAPPER
from support.docker_specs import spec

NAMING = Naming("ibgateway-follower", Identities("1d3nt1ty"))
IMAGE = identify(
    "gateway:test",
    {"Id": "sha256:1", "Config": {"Env": ["IBC_APP_DIR=/x"], "Cmd": ["/run.sh", "a b"], "User": "1000:1000"}},
)
LIVE_STATE = {"Status": "running", "Running": True, "StartedAt": "2026-11-24T10:00:00.123456789Z", "ExitCode": 0}


def config(*, api: tuple[int, int] = (1, 41), **choices: Any) -> dict[str, Any]:
    return container_config(
        IMAGE, spec(**choices), Labelled(4107, 1003), naming=NAMING, api=api, health=HealthCheck(), version="9.9"
    )


def inspection(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = config()
    return {
        "Id": "c" * 64,
        "Name": "/ibgateway-follower-alice",
        "Image": "sha256:1",
        "Config": {key: made[key] for key in ("Labels", "Image", "Env", "Entrypoint")},
        "HostConfig": made["HostConfig"],
        "State": state,
        "NetworkSettings": {"Ports": {}},
    } | more


# ---------------------------------------------------------------------------------------------- names

IDS = st.text(min_size=1, max_size=128)


@given(IDS, IDS)
def test_no_two_followers_share_a_name(one: str, other: str) -> None:
    """Legal, illegal and look-alike ids all have names of their own, and each is one that the engine takes."""
    a, b = NAMING.container(FollowerId(one)), NAMING.container(FollowerId(other))
    assert (a == b) == (one == other)
    assert all(part.isascii() and (part.isalnum() or part in "_.-") for part in a)
    assert len(a) <= 200


@pytest.mark.parametrize("follower_id", ["follower_123", "a.b-c", "X", "-x"])
def test_a_legal_id_is_the_name(follower_id: str) -> None:
    """`{container_prefix}-{follower_id}`, as documented."""
    assert NAMING.container(FollowerId(follower_id)) == f"ibgateway-follower-{follower_id}"


def test_a_legal_id_that_looks_like_a_mapped_one_is_mapped() -> None:
    """Otherwise a follower could be named so that it takes another one's container."""
    mapped = NAMING.container(FollowerId("a/b")).removeprefix("ibgateway-follower-")
    assert NAMING.container(FollowerId(mapped)) != f"ibgateway-follower-{mapped}"


def test_settings_are_apart_for_each_user_and_mode() -> None:
    """Two logins that share a settings directory hide each other's nightly restart."""
    alice = FollowerId("alice")
    names = {NAMING.volume(alice, mode, user) for mode in TradingMode for user in ("u1", "u2")}
    assert len(names) == 4


# ---------------------------------------------------------------------------------------------- what is asked for


def test_only_loopback_is_published() -> None:
    """The TWS API has no authentication."""
    made = config(vnc=True)
    assert made["HostConfig"]["PortBindings"] == {
        "4004/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4107"}],
        "5900/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
    }
    assert list(config(trading_mode="live")["HostConfig"]["PortBindings"]) == ["4003/tcp"]


def test_hardening() -> None:
    """No privileges, bounded processes, memory and logs, nothing restarted by the engine."""
    host = config()["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Init"] is True
    assert host["PidsLimit"] == 1024
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert "Binds" not in host
    assert "Privileged" not in host


@pytest.mark.parametrize(("heap", "memory"), [(256, 1024), (768, 1024), (1536, 2048), (16384, 21845)])
def test_memory_grows_with_the_heap(heap: int, memory: int) -> None:
    """1 GiB for the default heap, a third more than the heap above it, and no swap."""
    host = config(java_heap_mib=heap)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == memory * 1024 * 1024


def test_the_secret_has_a_place_in_memory_that_only_the_image_user_reads() -> None:
    """A tmpfs of mode 0700, owned by the image's user; standard input is open once."""
    made = config()
    assert made["HostConfig"]["Tmpfs"] == {
        SECRET_DIRECTORY: "rw,noexec,nosuid,nodev,size=64k,uid=1000,gid=1000,mode=0700"
    }
    assert (made["OpenStdin"], made["StdinOnce"], made["AttachStdin"], made["Tty"]) == (True, True, True, False)
    assert made["Cmd"] == ["/run.sh", "a b"]


@pytest.mark.parametrize(("mode", "port"), [("paper", "0FA2"), ("live", "0FA1")])
def test_health_looks_at_the_api_port_without_connecting(mode: str, port: str) -> None:
    """The kernel's tables, both of them, for the gateway's own port, not the one that socat holds."""
    check = config(trading_mode=mode)["Healthcheck"]
    assert check["Test"] == ["CMD-SHELL", f"grep -qE ':{port} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"]
    assert check["Interval"] == 60 * 10**9
    assert "StartInterval" not in check


def test_a_newer_engine_checks_faster_while_starting() -> None:
    """`StartInterval` is only said to engines that know it."""
    assert config(api=(1, 44))["Healthcheck"]["StartInterval"] == 10 * 10**9


# ---------------------------------------------------------------------------------------------- the wrapper


def run_wrapper(directory: Path, sent: bytes, *, screen: bool = False) -> subprocess.CompletedProcess[bytes]:
    script = WRAPPER.replace(SECRET_DIRECTORY, str(directory))
    env = {"PATH": "/bin:/usr/bin"} | ({"VNC_SERVER_PASSWORD_FILE": "x"} if screen else {})
    command = [
        "/bin/sh",
        "-c",
        script,
        "gateway-manager",
        str(directory),
        "sh",
        "-c",
        f"echo ran; cat; umask; cat {directory}/password",
    ]
    return subprocess.run(command, input=sent, capture_output=True, env=env, check=False)


def test_wrapper_runs_the_command_with_the_secret(tmp_path: Path) -> None:
    """The file holds exactly the bytes, for its owner alone; the command has no input and its own umask."""
    secret = b"a\\b \"c' $d\n\n\xff"
    done = run_wrapper(tmp_path, b"%d\n" % len(secret) + secret)
    assert done.stdout.startswith(b"ran\n00")
    assert done.stdout.endswith(secret)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("sent", [b"", b"9\nshort", b"3\nlonger", b"x\nabc", b"12", b"-1\nabc", b"abc", b"3 4\nabc"])
def test_wrapper_refuses_a_secret_that_is_not_whole(tmp_path: Path, sent: bytes) -> None:
    """A manager killed while it writes must not have a half password typed; nothing of it stays."""
    done = run_wrapper(tmp_path, sent)
    assert done.returncode == NO_SECRET
    assert b"ran" not in done.stdout
    assert not (tmp_path / "password").exists()


def test_wrapper_refuses_settings_that_it_cannot_write(tmp_path: Path) -> None:
    """Before it has read anything of the secret: no login can have been typed by a container that ended so."""
    done = run_wrapper(tmp_path / "missing", b"1\nx")
    assert done.returncode == NO_SETTINGS
    assert b"does not belong to this user" in done.stderr
    assert b"ran" not in done.stdout


def test_wrapper_makes_a_screen_password(tmp_path: Path) -> None:
    """Eight random characters, all that VNC looks at, for the owner alone, and only when a screen is wanted."""
    run_wrapper(tmp_path, b"1\nx")
    assert not (tmp_path / "screen").exists()
    run_wrapper(tmp_path, b"1\nx", screen=True)
    one = (tmp_path / "screen").read_text()
    run_wrapper(tmp_path, b"1\nx", screen=True)
    assert len(one) == 8
    assert one.isalnum()
    assert one != (tmp_path / "screen").read_text()
    assert (tmp_path / "screen").stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------------------------------------- reading


def test_a_running_gateway_is_read_from_its_labels() -> None:
    """Everything that adoption needs stands in the container itself."""
    found = gateway_from(inspection(LIVE_STATE), naming=NAMING, newest_image="sha256:1")
    assert found is not None
    assert found.follower_id == "alice"
    assert (found.endpoint, found.client_id) == (Endpoint("127.0.0.1", 4107), 1003)
    assert (found.trading_mode, found.spec_digest, found.controller) == (TradingMode.PAPER, "d1", "ibcontroller")
    assert found.phase is GatewayPhase.RUNNING
    assert found.started_at == datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=UTC)
    assert found.exit_code is None
    assert found.notices == ()


def test_another_managers_gateway_is_foreign() -> None:
    """Also under the same prefix: it is no gateway of ours, and says who manages it, its port, and whose user it logs in."""
    other = Naming("ibgateway-follower", Identities("another"))
    assert gateway_from(inspection(LIVE_STATE), naming=other, newest_image=None) is None
    foreign = foreign_from(inspection(LIVE_STATE), naming=other)
    assert foreign is not None
    assert (foreign.identity, foreign.host_port, foreign.is_ended) == ("1d3nt1ty", 4107, False)
    assert foreign.user_digest == user_digest("ALICE01")
    assert foreign_from(inspection(LIVE_STATE), naming=NAMING) is None


def test_an_adopted_identity_is_as_good_as_the_own_one() -> None:
    """What an operator had taken over is found by the manager that took it."""
    heir = Naming("another-prefix", Identities("heir", ("1d3nt1ty",)))
    found = gateway_from(inspection(LIVE_STATE), naming=heir, newest_image=None)
    assert found is not None
    assert (found.faults, found.is_renamed) == ((), False)


def without(key: str) -> dict[str, Any]:
    host = dict(config()["HostConfig"])
    host[key] = {}
    return {"HostConfig": host}


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (without("PortBindings"), "does not publish port 4107 on loopback"),
        ({"HostConfig": config()["HostConfig"] | {"NetworkMode": "host"}}, "does not publish port 4107 on loopback"),
        (
            {"HostConfig": config()["HostConfig"] | {"PortBindings": {"1/tcp": [{"HostIp": "", "HostPort": "4107"}]}}},
            "does not publish port 4107 on loopback",
        ),
        (without("Tmpfs"), "has no place for a secret"),
        ({"Config": inspection(LIVE_STATE)["Config"] | {"Entrypoint": None}}, "has another entrypoint"),
        ({"Config": inspection(LIVE_STATE)["Config"] | {"Entrypoint": ["sleep", "9"]}}, "has another entrypoint"),
    ],
)
def test_labels_alone_make_no_gateway(more: dict[str, Any], fault: str) -> None:
    """A container that is not made as the manager makes them tells so, whatever it is labelled."""
    found = gateway_from(inspection(LIVE_STATE, **more), naming=NAMING, newest_image=None)
    assert found is not None
    assert fault in " ".join(found.faults)


@pytest.mark.parametrize(
    ("change", "is_restarted"),
    [
        ({}, False),
        ({"FinishedAt": "0001-01-01T00:00:00Z"}, False),
        ({"FinishedAt": "2026-11-24T09:00:00Z"}, True),
        ({"FinishedAt": "2026-11-24T09:00:00Z", "Status": "paused"}, True),
        ({"FinishedAt": "2026-11-24T09:00:00Z", "Status": "restarting"}, True),
        ({"FinishedAt": "2026-11-24T11:00:00Z", "Status": "exited"}, False),
    ],
)
def test_a_second_life_is_told_from_a_first(change: dict[str, Any], is_restarted: bool) -> None:
    """A container that has ended before and runs has no secret, whatever started it again."""
    found = gateway_from(inspection(LIVE_STATE | change), naming=NAMING, newest_image=None)
    assert found is not None
    assert found.is_restarted is is_restarted


def test_a_changed_restart_policy_is_noticed() -> None:
    """`docker update --restart`: the gateway goes on, and people are told what it would come to."""
    host = config()["HostConfig"] | {"RestartPolicy": {"Name": "always"}}
    found = gateway_from(inspection(LIVE_STATE, HostConfig=host), naming=NAMING, newest_image=None)
    assert found is not None
    assert "docker update --restart=no ibgateway-follower-alice" in " ".join(found.notices)


@pytest.mark.parametrize("broken", ["host-port", "controller", "trading-mode", "spec", "follower"])
def test_a_container_with_a_broken_label_is_left_alone(broken: str) -> None:
    """What cannot be understood is not adopted."""
    seen = inspection(LIVE_STATE)
    seen["Config"]["Labels"][f"spreadpilot.gateway-manager.{broken}"] = (
        "?" if broken not in {"spec", "follower"} else "x"
    )
    if broken in {"spec", "follower"}:
        del seen["Config"]["Labels"][f"spreadpilot.gateway-manager.{broken}"]
    assert gateway_from(seen, naming=NAMING, newest_image=None) is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("created", GatewayPhase.AWAITING_SECRET),
        ("running", GatewayPhase.RUNNING),
        ("paused", GatewayPhase.PAUSED),
        ("exited", GatewayPhase.EXITED),
        ("dead", GatewayPhase.EXITED),
        ("removing", GatewayPhase.EXITED),
    ],
)
def test_states(status: str, state: GatewayPhase) -> None:
    """Every state that the engine knows is one of four here."""
    found = gateway_from(inspection(LIVE_STATE | {"Status": status}), naming=NAMING, newest_image=None)
    assert found is not None
    assert found.phase is state


def test_an_outdated_image_is_noticed() -> None:
    """The tag names another image now than the one that runs."""
    found = gateway_from(inspection(LIVE_STATE), naming=NAMING, newest_image="sha256:2")
    assert found is not None
    assert "a restart takes it" in found.notices[0]


def test_want_of_memory_is_told_only_as_a_cause() -> None:
    """The engine's flag says that some process was killed; only with 137 was it the cause of the end."""
    killed = LIVE_STATE | {"Status": "exited", "Running": False, "OOMKilled": True, "ExitCode": 137}
    found = gateway_from(inspection(killed), naming=NAMING, newest_image=None)
    assert found is not None
    assert "OOM-killed at 1024 MiB" in found.notices[0]
    assert found.exit_code == 137
    assert "OOM-killed" in last_words(inspection(killed), ["x"]).lines[-1]
    assert last_words(inspection(killed | {"ExitCode": 0}), ["x"]).lines == ["x"]


def test_a_container_that_is_being_removed_tells_how_it_ended() -> None:
    """`docker rm -f` kills first: its code is known while the container is still seen."""
    going = LIVE_STATE | {"Status": "removing", "Running": False, "ExitCode": 137}
    found = gateway_from(inspection(going), naming=NAMING, newest_image=None)
    assert found is not None
    assert found.exit_code == 137


def test_a_container_that_never_started_has_no_exit_code() -> None:
    """Docker writes 128 or 0 there, which says nothing of a login."""
    never = {"Status": "created", "Running": False, "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 128}
    assert last_words(inspection(never), []).exit_code is None


@pytest.mark.parametrize("text", ["", None, "0001-01-01T00:00:00Z", "yesterday"])
def test_never_is_no_time(text: str | None) -> None:
    """The engine's zero time, and what is no time."""
    assert parse_time(text) is None


def test_times_have_any_fraction_and_zone() -> None:
    """Engines write nanoseconds, none at all, or another zone."""
    assert parse_time("2026-11-24T10:00:00Z") == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert parse_time("2026-11-24T12:00:00.5+02:00") == datetime(2026, 11, 24, 10, 0, 0, 500000, tzinfo=UTC)


def test_no_option_reaches_the_config_as_none() -> None:
    """An unfilled option would become the word None in a variable."""
    assert "None" not in json.dumps(config())


# ---------------------------------------------------------------------------------------------- whose settings

NEVER = "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("state", "doubtful"),
    [
        ({"Status": "created", "StartedAt": NEVER, "ExitCode": 0}, True),
        ({"Status": "created", "StartedAt": NEVER, "ExitCode": 128}, True),
        ({"Status": "exited", "StartedAt": "2026-11-24T14:00:00Z", "ExitCode": NO_SETTINGS}, True),
        ({"Status": "exited", "StartedAt": "2026-11-24T14:00:00Z", "ExitCode": NO_SECRET}, False),
        ({"Status": "exited", "StartedAt": "2026-11-24T14:00:00Z", "ExitCode": 0}, False),
    ],
)
def test_settings_are_in_doubt_until_a_start_has_seen_them(state: dict[str, Any], doubtful: bool) -> None:
    """Of the settings' own volume, whatever other volumes the image declares."""
    made = config()
    mounts = [{"Type": "volume", "Destination": "/data"}, {"Type": "volume", "Destination": IMAGE.settings_path}]
    found = inspection(state, Mounts=mounts) | {
        "Config": {"Labels": made["Labels"], "Entrypoint": made["Entrypoint"], "User": "1000:1000"}
    }
    assert doubtful_settings(found) == ((IMAGE.settings_path, 1000, 1000) if doubtful else None)


def test_a_container_without_a_settings_volume_has_none_to_mend() -> None:
    """Such as one that another version of the manager made."""
    found = inspection({"Status": "created", "StartedAt": NEVER}, Mounts=[]) | {"Config": {"User": "1000"}}
    assert doubtful_settings(found) is None
