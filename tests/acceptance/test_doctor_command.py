from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.docker import reader
from spreadpilot_core.ibkr.runtimes.identity import write_note
from spreadpilot_core.ibkr.service.doctor import docker_checks, machine_checks
from spreadpilot_core.ibkr.service.doctor.command import checks_for, examine
from spreadpilot_core.ibkr.service.doctor.findings import Check, Finding, Verdict, ok
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongodb import store as mongodb
from support.certificates import make_certificates
from support.command import PROGRAM, Command
from support.docker_bench import Bench, bench_fixture, engine_fixture, own_engine_fixture  # noqa: F401  # fixtures
from support.docker_images import simulator_image
from support.home import PASSWORD, Home
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures
from support.registry import Registry
from support.tcp_proxy import TcpProxy
from support.vault import BaoServer
from support.waiting import PATIENCE, wait_until

Lines = Mapping[str, list[dict[str, Any]]]

CLOCK = Path(__file__).parents[1] / "support/clock"


def examined(command: Command, **environment: str) -> Lines:
    """What the doctor finds, by check; exit code and standard error agree with it."""
    done = command("doctor", "--json", **environment)
    lines: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.stdout):
        lines.setdefault(each["check"], []).append(each)
    problems = sum(each["verdict"] == "problem" for found in lines.values() for each in found)
    assert done.returncode == (1 if problems else 0), done.stdout
    assert (f"found {problems} problem" in done.stderr) == bool(problems), done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return lines


def problem(lines: Lines, check: str) -> dict[str, Any]:
    """The one problem of this check, and no other check's."""
    found = [each for lines_of_one in lines.values() for each in lines_of_one if each["verdict"] == "problem"]
    assert [each["check"] for each in found] == [check], found
    return found[0]


def traces(home: Home) -> dict[str, int]:
    """Every file of the home with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in home.directory.rglob("*")}


async def _add(home: Home, *follower_ids: str) -> None:
    await home.add(*follower_ids)


def add(home: Home, *follower_ids: str) -> None:
    asyncio.run(_add(home, *follower_ids))


# ---------------------------------------------------------------------------------------------- all is well


def test_a_healthy_home_has_no_problem(home: Home, command: Command) -> None:
    """Followers with their secrets, a free port range: every check is ok, and Docker's are not even named."""
    add(home, "alice", "bob")
    lines = examined(command)
    assert {each["verdict"] for found in lines.values() for each in found} == {"ok"}
    assert not {"engine", "image", "network"} & set(lines)
    assert "2 usable followers, 2 of which" in lines["followers"][0]["what"]
    assert "2 secrets of 2" in lines["secrets"][0]["what"]
    assert "12 of the 12 ports" in lines["ports"][0]["what"]


def test_it_changes_nothing(home: Home, command: Command, tmp_path: Path) -> None:
    """Neither the home nor a directory that is not there yet has another file or another content after it."""
    add(home, "alice")
    before = traces(home)
    examined(command)
    assert traces(home) == before
    missing = tmp_path / "nowhere"
    lines = examined(command, GATEWAY_MANAGER_STATE_DIR=str(missing))
    assert "not there yet" in lines["state_dir"][0]["what"]
    assert not missing.exists()


def test_for_people_one_line_each(command: Command) -> None:
    """Without `--json` each finding is one line: verdict, check, sentence with the cure."""
    done = command("doctor")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} <= {"ok", "warning", "problem"}
    assert ["warning", "followers"] in [row[:2] for row in rows]
    assert "gateway-manager followers add" in done.stdout


def test_beside_a_running_manager(home: Home, command: Command) -> None:
    """It tells the manager, its gateways and the ports they hold, and logs nobody in."""
    add(home, "alice", "bob")
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: [each["state"] for each in command.json("status")] == ["ready", "ready"])
        operations = (home.directory / "operations.jsonl").read_bytes()
        lines = examined(command)
        assert "with 2 of 2 gateways RUNNING" in lines["manager"][0]["what"]
        assert "2 held by this manager's gateways" in lines["ports"][0]["what"]
        assert "2 simulated gateways" in lines["runtime"][0]["what"]
        assert "2 followers had a gateway" in lines["records"][0]["what"]
        assert (home.directory / "operations.jsonl").read_bytes() == operations


def test_beside_another_managers_gateways(home: Home, command: Command, tmp_path: Path) -> None:
    """They are one line, and their ports are theirs; where the records are the same, they are this manager's. Nothing is written."""
    add(home, "alice", "bob")
    shared = {"runtime_url": f"simulated:{home.directory}"}
    stranger = Command(home, state_dir=tmp_path / "stranger", **shared)
    standby = Command(home, state_dir=tmp_path / "standby", store_url=f"local:{home.directory}", **shared)
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: [each["state"] for each in command.json("status")] == ["ready", "ready"])
        (own,) = (each["what"] for each in examined(command)["identity"])
        lines = examined(stranger)
        (nobody, theirs) = (each["what"] for each in lines["identity"])
        assert nobody == "The manager has no identity yet; its first start makes it."
        assert ("alice" in theirs, "bob" in theirs, "Its manager lives on this host" in theirs) == (True, True, True)
        assert "2 by other managers' gateways" in lines["ports"][0]["what"]
        same = examined(standby)
        assert [each["what"] for each in same["identity"]] == [own]
        assert "2 held by this manager's gateways" in same["ports"][0]["what"]
        assert not (tmp_path / "standby").exists()


def test_an_identity_that_nobody_has_is_not_adopted(home: Home, command: Command, tmp_path: Path) -> None:
    """It would be for good: a slip is told, with the identities that are there."""
    add(home, "alice")
    other = Command(home, state_dir=tmp_path / "other", runtime_url=f"simulated:{home.directory}")
    assert "there is none at all" in other("run", "--adopt-from", "0123456789abcdef").stderr
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: [each["state"] for each in command.json("status")] == ["ready"])
        identity = examined(command)["identity"][0]["what"].removesuffix(".").rpartition(" ")[2]
        for slip, words in (("nonsense", "adopt_from is 'nonsense'"), ("0123456789abcdef", f"there are {identity}.")):
            refused = other("run", "--adopt-from", slip)
            assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
        assert not (tmp_path / "other").exists()


def test_empty_records_beside_a_running_manager(command: Command) -> None:
    """A manager that has nobody to log in has made its records: what is said of them is no word of a first start."""
    with command.begun("run") as serving:
        serving.says("manager started")
        assert examined(command)["records"][0]["what"] == "The records are empty: no follower has had a gateway yet."


# ---------------------------------------------------------------------------------------------- something is broken


def test_records_that_were_lost(home: Home, command: Command) -> None:
    """Without its records no manager logs anybody in, as `status` says: a problem, with the cure."""
    add(home, "alice")
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: [each["state"] for each in command.json("status")] == ["ready"])
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
    for path in home.directory.glob("records.sqlite3*"):
        path.unlink()
    found = problem(examined(command), "records")
    assert "Nobody logs in." in found["what"]
    assert "--accept-lost-records" in found["cure"]


@pytest.mark.parametrize("content", [b"no key at all", b"", None])
def test_a_key_that_cant_be_used(home: Home, command: Command, content: bytes | None) -> None:
    """A garbage, empty or missing key file is a problem of the credentials alone, with the cure; the others go on."""
    add(home, "alice")
    key = home.directory / "credentials.key"
    if content is None:
        key.unlink()
    else:
        key.write_bytes(content)
    found = problem(examined(command), "credentials")
    assert str(key) in found["what"]
    assert "backup" in found["cure"]
    assert content is not None or not key.exists()


def test_a_key_of_another_store(home: Home, command: Command) -> None:
    """A well-formed key that did not seal this store is told apart from a good one."""
    add(home, "alice")
    key = home.directory / "credentials.key"
    key.write_bytes(b"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n")
    assert "not the one that sealed" in problem(examined(command), "credentials")["what"]


def test_a_key_that_others_may_read(home: Home, command: Command) -> None:
    """A key file with a generous mode is a problem, with the command that cures it."""
    add(home, "alice")
    key = home.directory / "credentials.key"
    key.chmod(0o644)
    assert problem(examined(command), "credentials")["cure"] == f"`chmod 600 {key}`"


def test_garbage_for_followers(home: Home, command: Command) -> None:
    """A file that is no TOML is told with its line, by the followers' and secrets' checks; all others have their say."""
    add(home, "alice")
    home.followers_file.write_bytes(b"[[follower]]\nid = \n")
    lines = examined(command)
    assert "line 2" in lines["followers"][0]["what"]
    assert lines["followers"][0]["verdict"] == "problem"
    assert {"state_dir", "ports", "records", "credentials", "clock", "descriptors", "manager"} <= set(lines)


def test_a_record_that_cant_be_used(home: Home, command: Command) -> None:
    """One faulty record is named with its fault, beside the usable ones."""
    add(home, "alice")
    with home.followers_file.open("a") as file:
        file.write('\n[[follower]]\nid = "bob"\nvault_secret_ref = "ibkr/bob"\ntrading_mode = "dream"\n')
    found = problem(examined(command), "followers")
    assert "bob" in found["what"]
    assert "dream" in found["what"]


def test_a_reference_to_nothing(home: Home, command: Command) -> None:
    """A follower whose secret is nowhere is named, with the command that stores it."""
    add(home, "alice", "bob")
    assert command("credentials", "remove", "ibkr/bob").returncode == 0
    found = problem(examined(command), "secrets")
    assert found["what"].startswith("bob: ")
    assert "credentials set ibkr/bob" in found["cure"]


def test_records_that_are_no_database(home: Home, command: Command) -> None:
    """A damaged records file is told with its cure."""
    add(home, "alice")
    (home.directory / "records.sqlite3").write_bytes(b"garbage" * 1000)
    lines = examined(command)
    assert lines["records"][0]["verdict"] == "problem"
    assert "move the file aside" in lines["records"][0]["cure"]


def test_busy_ports(home: Home, command: Command) -> None:
    """Too few ports are a problem that names the program that has the others."""
    add(home, "alice")
    port = home.settings["port_range_start"]
    with socket.create_server(("127.0.0.1", port)):
        found = problem(examined(command, PORT_RANGE_END=str(port)), "ports")
    assert f"process {os.getpid()}" in found["what"]
    assert "0 of the 1 ports" in found["what"]


def test_a_file_for_a_state_directory(command: Command, tmp_path: Path) -> None:
    """A state directory that is a file is told."""
    place = tmp_path / "file"
    place.write_text("")
    assert examined(command, GATEWAY_MANAGER_STATE_DIR=str(place))["state_dir"][0]["verdict"] == "problem"


def test_a_state_directory_that_lets_others_in(home: Home, command: Command) -> None:
    """A generous mode is a warning: the manager mends it by itself."""
    add(home, "alice")
    home.directory.chmod(0o755)
    assert [each["verdict"] for each in examined(command)["state_dir"]] == ["ok", "warning"]


def test_too_few_descriptors(home: Home, command: Command) -> None:
    """A limit that the fleet would reach is told with the line for systemd."""
    add(home, *(f"f{i}" for i in range(12)))
    done = subprocess.run(
        [PROGRAM, "doctor"],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096)),
    )
    assert done.returncode == 1
    assert "LimitNOFILE=224" in done.stdout


def test_a_wrong_setting(command: Command) -> None:
    """A setting that can't be used is the one line there is."""
    assert "port_range_start is 'seventy'" in problem(examined(command, PORT_RANGE_START="seventy"), "settings")["what"]


def test_metrics_without_their_packages(command: Command, tmp_path: Path) -> None:
    """An installation without the extra, in which a manager with a metrics_address would not start, is found before it."""
    address = {"GATEWAY_MANAGER_METRICS_ADDRESS": "9464"}
    assert examined(command, **address)["metrics_address"][0]["verdict"] == "ok"
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    told = problem(examined(command, PYTHONPATH=str(tmp_path), **address), "metrics_address")
    assert "needs a package that is not installed (prometheus_client): " in told["what"]
    assert "metrics_address" not in examined(command)


def test_no_engine(home: Home, command: Command) -> None:
    """Without a Docker Engine its line says how to get one; what depends on it is not known, and the rest is examined."""
    add(home, "alice")
    nowhere = f"unix://{home.directory}/no.sock"
    lines = examined(command, GATEWAY_MANAGER_RUNTIME_URL="docker:", DOCKER_HOST=nowhere)
    found = problem(lines, "engine")
    assert "no.sock" in found["what"]
    assert "Install Docker" in found["cure"]
    assert [lines[name][0]["verdict"] for name in ("image", "network", "secrets")] == ["warning", "warning", "ok"]
    elsewhere = examined(command, GATEWAY_MANAGER_RUNTIME_URL="docker:", DOCKER_HOST="tcp://192.0.2.1:2375")
    assert "docker_host is 'tcp://192.0.2.1:2375'" in problem(elsewhere, "engine")["what"]


def test_no_mongodb(command: Command) -> None:
    """A MongoDB that is away is told by the stores' lines, without the password of its address."""
    lines = examined(
        command,
        GATEWAY_MANAGER_STORE_URL="mongodb:",
        MONGO_URI="mongodb://user:pl4nted@127.0.0.1:9/?serverSelectionTimeoutMS=200",
    )
    assert {check for check, found in lines.items() if found[0]["verdict"] == "problem"} == {"followers", "records"}
    for name in ("followers", "records"):
        assert "MONGO_URI names where it listens" in lines[name][0]["cure"]
        assert lines[name][0]["what"].count("127.0.0.1:9") == 1
    assert "not known while the followers" in lines["secrets"][0]["what"]
    assert "notifications" not in lines
    assert "pl4nted" not in json.dumps(lines)


@may_build
def test_a_collection_that_was_dropped(
    home: Home,
    command: Command,
    mongo_server: str,  # noqa: F811  # the fixture
    mongo_database: str,  # noqa: F811
) -> None:
    """Gateways that run without a record are a problem, named; how to add a follower is told for this store."""
    add(home, "alice")
    command.environment |= {
        "MONGO_URI": mongo_server,
        "MONGO_DB_NAME": mongo_database,
        "GATEWAY_MANAGER_STORE_URL": "mongodb:",
    }
    with pymongo.MongoClient[dict[str, Any]](mongo_server) as client:
        followers = client[mongo_database]["followers"]
        assert f"collection followers of the database {mongo_database}" in examined(command)["followers"][0]["cure"]
        followers.insert_one({"id": "alice", "vault_secret_ref": "ibkr/alice", "enabled": True, "state": "ACTIVE"})
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: [each["state"] for each in command.json("status")] == ["ready"])
            followers.drop()
            found = problem(examined(command), "followers")
    assert found["what"] == "1 gateway runs without a record: alice."
    assert "confirm-removals" in found["cure"]


# ---------------------------------------------------------------------------------------------- Vault


@pytest.mark.real_part("vault")
def test_vault_by_its_metadata(home: Home, command: Command, tmp_path: Path) -> None:
    """A good token, a missing secret, a bad token, a Vault that is away: each told, no secret read, no memory revoked."""
    add(home, "alice", "bob")
    with BaoServer(tmp_path) as vault:
        vault.put("ibkr/alice", IB_USER="u", IB_PASS=PASSWORD)
        access = {"VAULT_ENABLED": "true", "VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root.token}
        before = traces(home)
        lines = examined(command, **access)
        assert "token is good" in lines["secrets"][0]["what"]
        assert "1 secret of 2" in lines["secrets"][1]["what"]
        assert problem(lines, "secrets")["what"].startswith("bob: Vault has no secret")
        assert "vault kv put" in problem(lines, "secrets")["cure"]
        assert traces(home) == before
        told = examined(command, **access | {"VAULT_TOKEN": "s.wrong"})["secrets"]
        assert [each["verdict"] for each in told] == ["problem", "warning"]
        assert "token" in told[0]["what"]
        assert "stand in for 2 of 2 secrets" in told[1]["what"]
        vault.seal()
        assert "Unseal it" in problem(examined(command, **access), "secrets")["cure"]
    assert "See that Vault runs" in problem(examined(command, **access), "secrets")["cure"]


# ---------------------------------------------------------------------------------------------- a real engine


@pytest.mark.real_part("docker")
def test_on_a_real_engine(home: Home, bench: Bench) -> None:
    """Engine, image with its generation, and network are told; a foreign or open network is a problem; logs come too."""
    image = simulator_image(bench.api, "ibcontroller")
    command = Command(
        home,
        runtime_url="docker:",
        container_prefix=bench.prefix,
        gateway_image=image,
    )
    command.environment |= {
        "DOCKER_HOST": f"unix://{bench.engine.socket}",
        "GATEWAY_IMAGE": image,
        "CONTAINER_PREFIX": bench.prefix,
    }
    add(home, "alice")
    lines = examined(command)
    assert {each["verdict"] for found in lines.values() for each in found} == {"ok"}
    assert "API 1." in lines["engine"][0]["what"]
    assert "logs every gateway out, unless /etc/docker/daemon.json" in lines["engine"][0]["what"]
    assert "its controller is ibcontroller" in lines["image"][0]["what"]
    assert "agrees with that of the Docker Engine" in lines["clock"][-1]["what"]

    missing = examined(command, GATEWAY_MANAGER_GATEWAY_IMAGE="gm-none:1", GATEWAY_MANAGER_IMAGE_PULL_POLICY="never")
    assert "docker pull gm-none:1" in problem(missing, "image")["cure"]
    unreachable = examined(command, GATEWAY_MANAGER_GATEWAY_IMAGE="127.0.0.1:9/gm-none:1")
    assert "127.0.0.1:9" in problem(unreachable, "image")["what"]

    (home.directory / "identity.json").write_text('{"local:": ["its-own"]}')
    mark, name = "spreadpilot.gateway-manager", f"{bench.prefix}-network"
    marks = {f"{mark}.owner": bench.prefix, f"{mark}.identity": "its-own"}
    bench.api.ask("POST", "/networks/create", body={"Name": name, "Labels": marks})
    try:
        assert "can reach each other" in problem(examined(command), "network")["what"]
    finally:
        bench.api.ask("DELETE", f"/networks/{name}")


@pytest.mark.real_part("docker")
async def test_images_that_are_not_here_yet(home: Home, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each registry is asked, all at once, and one that never answers is told and hides nothing of the others."""
    monkeypatch.setattr(docker_checks, "REGISTRY_WITHIN", 5.0)
    host = f"unix://{bench.engine.socket}"
    async with Registry({}).running() as source:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            silent = f"127.0.0.1:{mute.getsockname()[1]}"
            images = {"a": f"{silent}/gateway:1", "b": source.image("gateway:1"), "c": source.image("missing:1")}
            for name, image in images.items():
                await _add(home, name)
                with home.followers_file.open("a") as file:
                    file.write(f'\n[follower.gateway]\nimage = "{image}"\n')
            found = await docker_checks.image(
                Settings.read(state_dir=home.directory, docker_host=host, vault_enabled=False)
            )
    verdicts = dict(zip(images, found, strict=True))
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == (Verdict.PROBLEM, Verdict.OK)
    assert f"{silent} did not say within 5 s whether it has {images['a']}" in verdicts["a"].what
    assert "a firewall or a proxy" in (verdicts["a"].cure or "")
    assert f"not here yet; the first launch pulls it from 127.0.0.1:{source.port}" in verdicts["b"].what
    assert "Check the name and the tag" in (verdicts["c"].cure or "")
    there = [name for image in bench.api.ask("GET", "/images/json") for name in image["RepoTags"] or ()]
    assert not set(there) & set(images.values())


@pytest.mark.real_part("docker")
async def test_lines_of_a_container(home: Home, bench: Bench) -> None:
    """`logs` shows a container's newest lines, and leaves the network of a fleet that has none alone."""
    runtime = await bench.runtime()
    await bench.ready(runtime, bench.spec("alice"))
    settings = Settings.read(state_dir=home.directory)
    await asyncio.to_thread(write_note, settings, Identities(bench.prefix))  # as the manager that made it
    command = Command(home, runtime_url="docker:")
    command.environment |= {"DOCKER_HOST": f"unix://{bench.engine.socket}", "CONTAINER_PREFIX": bench.prefix}
    done = await asyncio.to_thread(command, "logs", "alice", "--last", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


# ---------------------------------------------------------------------------------------------- the checks' own trouble


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(StoreUnavailableError("It is away."), "It is away."), (RuntimeError("pl4nted"), "RuntimeError at ")],
)
async def test_a_check_that_fails(trouble: Exception, words: str) -> None:
    """An expected error is its own sentence; a defect is named by its place, never by a text that may hold anything."""

    async def observe(_: Settings) -> list[Finding]:
        raise trouble

    (found,) = await examine(Check("any", observe), Settings.read())
    assert found.verdict is Verdict.PROBLEM
    assert words in found.what
    assert "pl4nted" not in found.what


@pytest.mark.parametrize(("off_by", "verdict"), [(0, Verdict.OK), (-100, Verdict.PROBLEM), (100, Verdict.PROBLEM)])
async def test_a_slow_answer_is_no_wrong_clock(monkeypatch: pytest.MonkeyPatch, off_by: int, verdict: Verdict) -> None:
    """A server that is asked for its time and takes long has no other clock for that; one that has is found all the same."""

    class Slow:
        label = "a slow server"

        async def now(self) -> datetime:
            await asyncio.sleep(0.2)
            told = datetime.now(UTC) + timedelta(seconds=off_by)
            await asyncio.sleep(0.2)
            return told

    @asynccontextmanager
    async def slow(_: Settings) -> AsyncIterator[Slow]:
        yield Slow()

    monkeypatch.setattr(mongodb, "_database", slow)
    monkeypatch.setattr(machine_checks, "_NOTICED_SKEW", 0.1)
    found = await machine_checks.clock(Settings.read(store_url="mongodb:", runtime_url="simulated:"))
    assert [each.verdict for each in found if "a slow server" in each.what] == [verdict]


@may_build
async def test_the_clock_is_compared_with_a_real_mongodb(
    mongo_server: str,  # noqa: F811  # the fixture
    mongo_database: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's own time, on the way as slow as it may be, agrees with ours."""
    host, _, rest = mongo_server.partition("://")[2].partition("/")[0].partition(":")
    with TcpProxy(int(rest or 27017)) as proxy:
        proxy.mode, proxy.delay = "late", 0.3
        monkeypatch.setenv("MONGO_URI", f"mongodb://{host}:{proxy.port}/?directConnection=true")
        settings = Settings.read(store_url="mongodb:", runtime_url="simulated:", mongo_db_name=mongo_database)
        monkeypatch.setattr(machine_checks, "_NOTICED_SKEW", 0.25)  # less than the way takes
        found = await machine_checks.clock(settings)
        assert [each.verdict for each in found] == [Verdict.OK] * 2
        assert f"agrees with that of MongoDB at {host}:{proxy.port}" in found[-1].what


@may_build
@pytest.mark.parametrize("off_by", [-300, 300])
def test_a_clock_that_is_off_by_minutes_is_a_problem(
    command: Command,
    mongo_server: str,  # noqa: F811  # the fixture
    mongo_database: str,  # noqa: F811
    off_by: int,
) -> None:
    """The installed command on a host whose clock is wrong, beside a real MongoDB: the line says by how much, and the cure."""
    off = {"PYTHONPATH": str(CLOCK), "SECONDS_OFF_CLOCK": str(off_by)}
    store = {"MONGO_URI": mongo_server, "MONGO_DB_NAME": mongo_database, "GATEWAY_MANAGER_STORE_URL": "mongodb:"}
    said = problem({"clock": examined(command, **off, **store)["clock"]}, "clock")
    told = re.search(r"are (\d+) s apart", said["what"])
    assert told is not None, said
    assert int(told[1]) == pytest.approx(abs(off_by), abs=60)  # a busy machine takes its time between two looks
    assert "timedatectl" in said["cure"], said


async def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own line says so with the cure before the check's time is over; what depends on it is no problem more."""
    monkeypatch.setattr(reader, "_PATIENCE", 0.2)
    settings = Settings.read(state_dir=tmp_path, docker_host=f"unix://{tmp_path}/s", vault_enabled=False)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{tmp_path}/s")
        mute.listen()
        checks = [
            check for check in checks_for(settings) if check.name in ("engine", "image", "network", "ports", "clock")
        ]
        found = await asyncio.gather(*(examine(check, settings) for check in checks))
    (problem_found,) = [each for lines in found for each in lines if each.verdict is Verdict.PROBLEM]
    assert "did not say its version within 0.2 s" in problem_found.what
    assert "restarting docker.service helps" in (problem_found.cure or "")
    assert found[0] == [problem_found]


async def test_a_check_that_hangs() -> None:
    """A check has its time and no more."""

    async def observe(_: Settings) -> list[Finding]:
        await asyncio.Event().wait()
        return [ok("never")]

    (found,) = await examine(Check("any", observe, within=0.01), Settings.read())
    assert "no answer within 0.01 s" in found.what


async def test_the_certificate_of_the_address_is_looked_at(tmp_path: Path) -> None:
    """One that ends soon, one whose key is another's or everybody's, and none where none is served."""
    files = await asyncio.to_thread(make_certificates, tmp_path)
    files.server_key.chmod(0o644)
    settings = {"state_dir": tmp_path, "http_cert_file": files.server, "http_key_file": files.server_key}

    async def found(**changed: Any) -> list[tuple[Verdict, str]]:
        known = Settings.read(**{**settings, "http_address": "8443", **changed})
        checks = [each for each in checks_for(known) if each.name == "http_address"]
        return [(each.verdict, each.what) for check in checks for each in await examine(check, known)]

    (soon, expires), (open_, readable) = await found()
    assert (soon, open_) == (Verdict.WARNING, Verdict.WARNING)
    assert "expires soon" in expires
    assert "can be read by others" in readable
    ((wrong, why),) = await found(http_key_file=files.client_key)
    assert wrong is Verdict.PROBLEM
    assert "http_cert_file" in why
    assert await found(http_address=None) == []
