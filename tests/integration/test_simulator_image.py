"""The simulator's image by itself, as a user runs it: rules, exit codes, signals, memory and faults of both generations."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from support.docker_bench import Bench, bench_fixture, engine_fixture, own_engine_fixture, until  # noqa: F401  # fixtures
from support.docker_images import GENERATIONS, Generation, simulator_image

pytestmark = pytest.mark.real_part("docker")

GIVEN = {
    "ibc": {
        "TWS_USERID": "joe",
        "TWS_PASSWORD": "pw",
        "TRADING_MODE": "paper",
        "EXISTING_SESSION_DETECTED_ACTION": "primary",
        "TWS_SETTINGS_PATH": "/home/ibgateway/tws_settings",
    },
    "ibcontroller": {
        "IBC_USERID": "joe",
        "IBC_PASSWORD": "pw",
        "IBC_TRADING_MODE": "paper",
        "IBC_EXISTING_SESSION_ACTION": "primary",
        "IBC_TWS_SETTINGS_PATH": "/home/ibgateway/tws_settings",
    },
}
READY = {"ibc": "Configuration tasks completed", "ibcontroller": "APPLYING_SETTINGS -> READY"}


def run(bench: Bench, generation: Generation, volume: str | None = None, **more: str) -> str:
    """`docker run` of the image with variables, without a network."""
    given = {name: value for name, value in (GIVEN[generation] | more).items() if value}
    host: dict[str, Any] = {"NetworkMode": "none"}
    if volume is not None:
        host["Mounts"] = [{"Type": "volume", "Source": volume, "Target": "/home/ibgateway"}]
    config = {"Image": simulator_image(bench.api, generation), "Env": [f"{k}={v}" for k, v in given.items()]}
    return bench.api.run(config | {"HostConfig": host, "Labels": {"spreadpilot.gateway-manager.owner": bench.prefix}})


async def ended(bench: Bench, container: str) -> tuple[int, str]:
    """Exit code and log, once it has ended."""
    done = await asyncio.to_thread(bench.api.ask, "POST", f"/containers/{container}/wait")
    return done["StatusCode"], bench.api.logs(container)


async def logs(bench: Bench, container: str, words: str, times: int = 1) -> None:
    """Wait until the log says it so often."""
    await until(lambda: bench.api.logs(container).count(words) >= times, f"{words!r} in {bench.api.logs(container)}")


def simulator(bench: Bench, container: str, *command: str) -> dict[str, Any]:
    """A word with the one that runs."""
    answer: dict[str, Any] = json.loads(bench.api.execute(container, "gateway-simulator", *command))
    return answer


@pytest.mark.parametrize(
    ("generation", "more", "code", "says"),
    [
        ("ibc", {"TRADING_MODE": ""}, 1, ".> Invalid TRADING_MODE: "),
        ("ibc", {"TWS_PASSWORD_FILE": "/etc/passwd"}, 1, "error: both TWS_PASSWORD and TWS_PASSWORD_FILE are set"),
        ("ibcontroller", {"IBC_TRADING_MODE": "", "TRADING_MODE": "paper"}, 1, ".> Invalid IBC_TRADING_MODE: "),
        ("ibcontroller", {"IBC_PASSWORD_FILE": "/none"}, 78, "error: IBC_PASSWORD_FILE=/none: [Errno 2]"),
        ("ibcontroller", {"SIMULATOR_PASSWORD_SHA256": "0" * 64}, 77, "error: unrecognized username or password"),
        ("ibcontroller", {"SIMULATOR_SCRIPT": '[{"too_many_attempts": true}]'}, 77, "too many failed login attempts"),
        ("ibcontroller", {"SIMULATOR_SCRIPT": '[{"login_hangs": true}]'}, 69, "no 2FA dialog seen"),
    ],
)
async def test_what_ends_a_container_at_once(
    bench: Bench, generation: Generation, more: dict[str, str], code: int, says: str
) -> None:
    """The real image's line and exit code, for each rule that a manager could break."""
    exit_code, log = await ended(bench, run(bench, generation, **more))
    assert exit_code == code, log
    assert says in log


async def test_the_file_wins_in_the_newer_generation(bench: Bench) -> None:
    """Both set is an error in the older one only."""
    container = run(bench, "ibcontroller", IBC_PASSWORD_FILE="/etc/hostname")
    await logs(bench, container, READY["ibcontroller"])


async def test_a_rejected_password_hangs_the_older_generation(bench: Bench) -> None:
    """No exit code, only a window's title: the manager must see it in the log."""
    container = run(bench, "ibc", SIMULATOR_PASSWORD_SHA256="0" * 64)
    await logs(bench, container, "dialog entitled: Unrecognized Username or Password; event=Opened")
    assert bench.api.inspect(container)["State"]["Running"]
    assert simulator(bench, container, "state")["api_is_open"] is False


@pytest.mark.parametrize(("generation", "code"), [("ibc", 143), ("ibcontroller", 0)])
async def test_a_nightly_restart_and_a_stop(bench: Bench, generation: Generation, code: int) -> None:
    """Injected at run time: no credentials are typed the second time; SIGTERM then ends with the generation's code."""
    container = run(bench, generation)
    await logs(bench, container, READY[generation])
    assert simulator(bench, container, "inject", "nightly_restart") == {"ok": True}
    await logs(bench, container, READY[generation], times=2)
    await asyncio.to_thread(bench.api.ask, "POST", f"/containers/{container}/stop")
    exit_code, log = await ended(bench, container)
    assert exit_code == code
    assert log.count("Login attempt: " if generation == "ibc" else "credentials submitted") == 1


async def test_an_unknown_fault_names_the_known_ones(bench: Bench) -> None:
    """A typing error is told, and does nothing."""
    container = run(bench, "ibc")
    await logs(bench, container, READY["ibc"])
    answer = simulator(bench, container, "inject", "nightly")
    assert "nightly_restart" in answer["error"]
    assert simulator(bench, container, "inject", "notice", '{"code": 2103}') == {"ok": True}


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_settings_remember_over_containers(bench: Bench, generation: Generation) -> None:
    """jts.ini and what is left of the script stay in the settings: the next container goes on where this one ended."""
    volume = f"{bench.prefix}-home"
    bench.api.ask(
        "POST", "/volumes/create", body={"Name": volume, "Labels": {"spreadpilot.gateway-manager.owner": bench.prefix}}
    )
    script = {"SIMULATOR_SCRIPT": '[{"crash_at_start": 1}, {}]'}
    first, _ = await ended(bench, run(bench, generation, volume, **script))
    assert first == (1 if generation == "ibc" else 69)
    second = run(bench, generation, volume, **script)
    await logs(bench, second, READY[generation])
    kept = bench.api.execute(second, "ls", "/home/ibgateway/tws_settings").split()
    assert {"jts.ini", "simulator-script.json"} <= set(kept)
