"""Gateways on a real Docker Engine: launched, seen, isolated, ended, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from importlib.metadata import version

import pytest

from spreadpilot_core.ibkr.errors import (
    ImageMissingError,
    LaunchError,
    NameHeldError,
    NameTakenError,
    PortTakenError,
    UnknownImageError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, GatewayPhase, GatewaySpec
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.docker.containers import HealthCheck
from spreadpilot_core.ibkr.runtimes.docker.naming import IDENTITY, OWNER
from spreadpilot_core.ibkr.runtimes.docker.reader import docker_reader
from spreadpilot_core.ibkr.runtimes.docker.runtime import DockerRuntime
from spreadpilot_core.ibkr.settings import Settings
from support.docker_bench import (  # noqa: F401  # fixtures
    DEADLINE,
    PASSWORD,
    Bench,
    answers,
    bench_fixture,
    engine_fixture,
    following,
    free_port,
    handshake,
    holding,
    own_engine_fixture,
    until,
    watching,
)
from support.docker_http import DockerApiError
from support.docker_images import GENERATIONS, Generation, derived_image, plain_image, simulator_image
from support.runtimes import committed

pytestmark = pytest.mark.real_part("docker")
SECRET_FILE = "/run/gateway-manager/password"


# ---------------------------------------------------------------------------------------------- launching


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_gateway_of_each_generation_logs_in(bench: Bench, generation: Generation) -> None:
    """Its API answers on loopback, it typed the password that was delivered, and its file goes when told."""
    runtime = await bench.runtime()
    gateway = await bench.ready(runtime, bench.spec(generation=generation))
    assert gateway.phase is GatewayPhase.RUNNING
    assert gateway.controller == generation
    state = json.loads(bench.api.execute(gateway.container_id, "gateway-simulator", "state"))
    assert state["user"] == bench.user
    assert state["password_sha256"] == hashlib.sha256(PASSWORD.encode()).hexdigest()
    assert bench.api.execute(gateway.container_id, "ls", SECRET_FILE).strip() == SECRET_FILE
    await runtime.forget_secret(gateway.container_id)
    assert "No such file" in bench.api.execute(gateway.container_id, "ls", SECRET_FILE)
    await runtime.forget_secret(gateway.container_id)


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_the_container_gives_nothing_away(bench: Bench, generation: Generation) -> None:
    """No secret in what the engine tells or keeps, loopback alone is published, limits and labels are there."""
    runtime = await bench.runtime()
    spec = bench.spec(generation=generation, digest="abc123")
    gateway = await bench.ready(runtime, spec)
    seen = bench.api.inspect(gateway.container_id)
    for place in (json.dumps(seen), bench.api.logs(gateway.container_id)):
        assert PASSWORD not in place
        assert PASSWORD.replace("\\", "\\\\") not in place
    ports = [binding for bindings in seen["NetworkSettings"]["Ports"].values() for binding in bindings or ()]
    assert ports == [{"HostIp": "127.0.0.1", "HostPort": str(gateway.endpoint.port)}]
    limits = {
        key: seen["HostConfig"][key] for key in ("Memory", "MemorySwap", "PidsLimit", "Init", "Privileged", "CapDrop")
    }
    assert limits == {
        "Memory": 1 << 30,
        "MemorySwap": 1 << 30,
        "PidsLimit": 1024,
        "Init": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
    }
    assert seen["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert seen["HostConfig"]["RestartPolicy"]["Name"] == "no"
    mark = "spreadpilot.gateway-manager."
    labels = {key.removeprefix(mark): value for key, value in seen["Config"]["Labels"].items() if key.startswith(mark)}
    assert labels == {
        "owner": bench.prefix,
        "identity": bench.prefix,
        "launch": "",
        "user": user_digest(spec.user),
        "follower": "alice",
        "host-port": str(gateway.endpoint.port),
        "client-id": "1000",
        "trading-mode": "paper",
        "spec": "abc123",
        "version": version("spreadpilot-gateway-manager"),
        "controller": generation,
    }
    assert seen["Name"] == f"/{bench.prefix}-alice"
    assert bench.api.execute(gateway.container_id, "id", "-u").strip() == "1000"
    assert "NoNewPrivs:\t1" in bench.api.execute(gateway.container_id, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in bench.api.execute(gateway.container_id, "cat", "/proc/1/status")


async def test_a_secret_that_was_cut_off_starts_nothing(bench: Bench) -> None:
    """A courier that died half-way leaves a container that ends by itself, without the gateway having run."""
    runtime = await bench.runtime()
    spec = bench.spec()
    await runtime.prepare(spec)

    async def cut_off(target: DeliveryTarget) -> None:
        reader, writer = await asyncio.open_unix_connection(target.address["socket"])
        path = f"/v{target.address['api_version']}/containers/{target.container_id}/attach?stream=1&stdin=1"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"20\nonly this")
        await writer.drain()
        writer.close()

    gateway = await runtime.launch(spec, 1, secret=cut_off, commit=committed)
    async with following(runtime, gateway) as (lines, done):
        await asyncio.wait_for(done, 30)
    words = await runtime.remove(gateway.container_id, grace=1)
    assert words.exit_code == 96
    assert list(words.lines) == lines == ["gateway-manager: the secret did not come whole"]


async def test_the_old_generations_settings_and_the_new_ones_outlive_the_container(bench: Bench) -> None:
    """The volume belongs to the image's user, and stays when the gateway goes."""
    runtime = await bench.runtime()
    spec = bench.spec()
    gateway = await bench.ready(runtime, spec)
    settings = "/home/ibgateway/tws_settings"
    assert bench.api.execute(gateway.container_id, "stat", "-c", "%u:%g %a", settings).strip() == "1000:1000 700"
    bench.api.execute(gateway.container_id, "sh", "-c", f"echo kept >{settings}/mark")
    await runtime.remove(gateway.container_id, grace=10)
    gateway = await bench.launch(runtime, spec)
    assert bench.api.execute(gateway.container_id, "cat", f"{settings}/mark") == "kept\n"
    await runtime.remove(gateway.container_id, grace=0)
    assert len(bench.volumes()) == 1


async def test_settings_that_belong_to_root_stop_the_gateway_before_its_login_and_are_mended(bench: Bench) -> None:
    """As after a launch that was cut off by the engine's end: the start says why, and the next one is well."""
    runtime = await bench.runtime()
    spec = bench.spec()
    roots_volume(bench, runtime, spec)
    gateway = await bench.launch(runtime, spec)
    async with following(runtime, gateway) as (lines, done):
        await asyncio.wait_for(done, 30)
    said = "gateway-manager: the settings volume at /home/ibgateway/tws_settings does not belong to this user"
    assert lines == [said]
    words = await runtime.remove(gateway.container_id, grace=1)
    assert (words.exit_code, list(words.lines)) == (97, [said])
    await bench.ready(runtime, spec)


async def test_a_launch_that_was_cut_off_leaves_settings_that_are_mended(bench: Bench) -> None:
    """The container was created, its volume not given away yet: removing it does that, and keeps what was in the volume."""
    runtime = await bench.runtime()
    spec = bench.spec()
    roots_volume(bench, runtime, spec)
    created = await bench.create(runtime, spec)
    await runtime.remove(created.container_id, grace=1)
    gateway = await bench.ready(runtime, spec)
    settings = "/home/ibgateway/tws_settings"
    assert bench.api.execute(gateway.container_id, "stat", "-c", "%u:%g %a", settings).strip() == "1000:1000 700"


async def test_settings_that_cannot_be_given_to_the_user_leave_nothing(bench: Bench) -> None:
    """The engine refuses to unpack: neither the container nor root's volume is left for the next launch to stumble on."""
    runtime = await bench.runtime()
    image = derived_image(bench.api, simulator_image(bench.api, "ibcontroller"), {"HOME": "/etc/passwd"})
    spec = bench.spec(image=image)
    with pytest.raises(LaunchError):
        await bench.launch(runtime, spec)
    assert list(await runtime.list()) == []
    assert bench.volumes() == []


def roots_volume(bench: Bench, runtime: DockerRuntime, spec: GatewaySpec) -> None:
    """The follower's volume, as the engine makes it."""
    body = {
        "Name": runtime._naming.volume(spec.follower_id, spec.trading_mode, spec.user),
        "Labels": dict(runtime._naming.marks(spec.follower_id)),
    }
    bench.api.ask("POST", "/volumes/create", body=body)


async def test_a_screen_only_on_request(bench: Bench) -> None:
    """On a loopback port of the engine's choice, with a password made inside, which nothing but this call tells."""
    runtime = await bench.runtime()
    plain = await bench.launch(runtime, bench.spec("plain"))
    shown = await bench.launch(runtime, bench.spec("shown", vnc=True))
    assert plain.vnc is None
    assert shown.vnc is not None
    assert shown.vnc.startswith("127.0.0.1:")
    settings = Settings.read(docker_host=f"unix://{bench.engine.socket}", container_prefix=bench.prefix)
    async with docker_reader(settings) as runtime_reader:
        assert await runtime_reader.screen_password(plain) is None
        async with asyncio.timeout(DEADLINE):
            while not (password := await runtime_reader.screen_password(shown)):  # it is made right after the start
                await asyncio.sleep(0.05)
        assert len(password) == 8
        assert password not in json.dumps(bench.api.inspect(shown.container_id)) + bench.api.logs(shown.container_id)
        bench.api.ask("POST", f"/containers/{shown.container_id}/pause")
        assert await runtime_reader.screen_password(shown) is None
        bench.api.remove(shown.container_id)
        assert await runtime_reader.screen_password(shown) is None


# ---------------------------------------------------------------------------------------------- refusals


async def test_the_port_may_be_gone_between_test_and_start(bench: Bench) -> None:
    """A host process or another container has it: that one error, the container can be removed, the next port works."""
    runtime = await bench.runtime()
    spec = bench.spec()
    port = free_port()
    with contextlib.ExitStack() as held:

        async def take_it(_: ContainerId) -> None:
            held.enter_context(holding(port))

        with pytest.raises(PortTakenError) as caught:
            await bench.launch(runtime, spec, port, commit=take_it)
    assert caught.value.port == port
    assert (await runtime.list())[0].phase is GatewayPhase.AWAITING_SECRET
    assert (await runtime.remove((await runtime.list())[0].container_id, grace=5)).exit_code is None
    first = await bench.ready(runtime, spec)
    second = await bench.create(runtime, bench.spec("bob"), first.endpoint.port)
    with pytest.raises(PortTakenError):
        await runtime._start(second.container_id)


async def test_a_second_container_for_a_follower_is_refused(bench: Bench) -> None:
    """Also when somebody renamed the first; and of many at once exactly one is made."""
    runtime = await bench.runtime()
    spec = bench.spec()
    await runtime.prepare(spec)
    tries = await asyncio.gather(*(bench.create(runtime, spec) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(one, NameTakenError) for one in tries) == 5
    held = (await runtime.list())[0]
    bench.api.ask("POST", f"/containers/{held.container_id}/rename", name=f"{bench.prefix}-moved")
    with pytest.raises(NameTakenError, match=f"alice has a container already: {bench.prefix}-moved"):
        await bench.launch(runtime, spec)


async def test_what_is_not_ours_is_named_and_left_alone(bench: Bench) -> None:
    """A foreign container, volume or network with our name is told, not touched; a foreign id is refused."""
    runtime = await bench.runtime()
    spec = bench.spec()
    await runtime.prepare(spec)
    image = spec.options.image
    foreign = bench.api.ask("POST", "/containers/create", body={"Image": image}, name=f"{bench.prefix}-alice")["Id"]
    try:
        with pytest.raises(
            NameTakenError, match=f"not this manager's bears the name {bench.prefix}-alice .{foreign[:12]}"
        ):
            await bench.launch(runtime, spec)
        with pytest.raises(LaunchError, match="is not this manager's"):
            await runtime.remove(ContainerId(foreign), grace=0)
        assert await runtime.inspect(ContainerId(foreign)) is None
        assert bench.api.inspect(foreign)["State"]["Status"] == "created"
    finally:
        bench.api.remove(foreign)
    other = await bench.runtime(prefix=f"{bench.prefix}-x")
    bench.api.ask("POST", "/networks/create", body={"Name": f"{bench.prefix}-x-network"})
    try:
        with pytest.raises(LaunchError, match="network that is not this manager's"):
            await bench.launch(other, bench.spec("bob"))
    finally:
        bench.api.ask("DELETE", f"/networks/{bench.prefix}-x-network")
    volume = other._naming.volume(FollowerId("bob"), spec.trading_mode, spec.user)
    bench.api.ask("POST", "/volumes/create", body={"Name": volume})
    try:
        with pytest.raises(LaunchError, match="volume that is not this manager's"):
            await bench.launch(other, bench.spec("bob"))
    finally:
        bench.api.ask("DELETE", f"/volumes/{volume}")
    assert list(await other.list()) == []


async def test_an_engine_is_told_by_its_id_and_its_host(bench: Bench) -> None:
    """Machines that were cloned with their engine have one id."""
    told = bench.api.ask("GET", "/info")
    assert await (await bench.runtime()).identity() == f"docker:{told['ID']}@{told['Name']}"


async def test_a_volume_of_another_manager_is_left_to_it(bench: Bench) -> None:
    """Whose it is comes from its label."""
    runtime, spec = await bench.runtime(), bench.spec("bob")
    await runtime.prepare(spec)
    volume = runtime._naming.volume(FollowerId("bob"), spec.trading_mode, spec.user)
    theirs = {"spreadpilot.gateway-manager.owner": bench.prefix, "spreadpilot.gateway-manager.identity": "f3fd"}
    bench.api.ask("POST", "/volumes/create", body={"Name": volume, "Labels": theirs})
    try:
        with pytest.raises(NameHeldError, match=r"another manager \(identity f3fd\).*--adopt-from f3fd"):
            await bench.launch(runtime, spec)
        settings = Settings.read(docker_host=f"unix://{bench.engine.socket}", container_prefix=bench.prefix)
        async with docker_reader(settings) as reader:
            assert "f3fd" in await reader.identities(), "what is advised can be done"
    finally:
        bench.api.ask("DELETE", f"/volumes/{volume}")


async def test_an_image_that_fits_none_or_is_not_there(bench: Bench) -> None:
    """Told before anything is created, each with its cure; the operator's word overrides."""
    runtime = await bench.runtime(pull_policy="never")
    with pytest.raises(ImageMissingError, match="docker pull nosuch/image:1"):
        await runtime.prepare(bench.spec(image="nosuch/image:1"))
    plain = plain_image(bench.api)
    with pytest.raises(UnknownImageError, match="IBC_APP_DIR"):
        await runtime.prepare(bench.spec(image=plain))
    assert await runtime.prepare(bench.spec(image=plain, image_contract="ibc")) == "ibc"


# ---------------------------------------------------------------------------------------------- isolation


@pytest.mark.parametrize("in_use", [False, True], ids=["both are new", "ours is in use"])
async def test_a_network_of_the_same_name_that_another_manager_made_is_in_nobodys_way(
    bench: Bench, in_use: bool
) -> None:
    """Of two that begin at once each may have made one; an engine lets both be, and starts nothing in a name that is ambiguous."""
    runtime = await bench.runtime()
    first = await bench.ready(runtime, bench.spec("alice"))
    name = f"{bench.prefix}-network"
    marks = {**bench.api.ask("GET", f"/networks/{name}")["Labels"], IDENTITY: "another"}
    other = bench.api.ask("POST", "/networks/create", body={"Name": name, "CheckDuplicate": False, "Labels": marks})
    try:
        if not in_use:
            await runtime.remove(first.container_id, grace=0)
        second = await bench.ready(runtime, bench.spec("bob"))
        (network,) = bench.api.inspect(second.container_id)["NetworkSettings"]["Networks"].items()
        assert (network[0].startswith(f"{name}-"), network[1]["NetworkID"] == other["Id"]) == (True, False)
        assert await handshake(second.endpoint.port)
    finally:
        bench.api.ask("DELETE", f"/networks/{other['Id']}")


async def test_gateways_cannot_reach_each_other(bench: Bench) -> None:
    """Neither by address, nor through the published port, and nothing is published but on loopback."""
    runtime = await bench.runtime()
    one, other = await asyncio.gather(*(bench.ready(runtime, bench.spec(name)) for name in ("alice", "bob")))
    network = bench.api.inspect(one.container_id)["NetworkSettings"]["Networks"][f"{bench.prefix}-network"]
    address, bridge = network["IPAddress"], network["Gateway"]
    for target, port in (
        (address, 4004),
        (address, 4002),
        (bridge, one.endpoint.port),
        ("127.0.0.1", one.endpoint.port),
    ):
        said = bench.api.execute(other.container_id, "sh", "-c", f"nc -w 1 {target} {port} </dev/null; echo code $?")
        assert "code 1" in said, (target, port, said)
    alone = bench.api.execute(one.container_id, "sh", "-c", "nc -w 1 127.0.0.1 4004 </dev/null; echo code $?")
    assert "code 0" in alone, "the same probe must succeed where it may"
    with pytest.raises(OSError):  # noqa: PT011  # refused or unreachable, as the system has it
        await asyncio.open_connection(bridge, one.endpoint.port)
    assert await handshake(one.endpoint.port)


async def test_the_network_is_one_of_its_own(bench: Bench) -> None:
    """A bridge with a range of its own and no traffic between containers; gone when the last gateway is."""
    runtime = await bench.runtime()
    gateway = await bench.launch(runtime, bench.spec())
    name = f"{bench.prefix}-network"
    network = bench.api.ask("GET", f"/networks/{name}")
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert network["Options"]["com.docker.network.bridge.host_binding_ipv4"] == "127.0.0.1"
    assert network["IPAM"]["Config"][0]["Subnet"].startswith("10.")
    assert network["Labels"][OWNER] == bench.prefix
    await runtime.close()
    assert bench.api.ask("GET", f"/networks/{name}")["Id"] == network["Id"]
    again = await bench.runtime()
    assert [found.container_id for found in await again.list()] == [gateway.container_id]
    await answers(gateway.endpoint.port)
    await again.remove(gateway.container_id, grace=5)
    await again.close()
    with pytest.raises(DockerApiError):
        bench.api.ask("GET", f"/networks/{name}")


# ---------------------------------------------------------------------------------------------- seeing


async def test_events_and_logs_end_when_the_runtime_is_closed(bench: Bench) -> None:
    """No task hangs on a closed runtime."""
    runtime = await bench.runtime()
    gateway = await bench.ready(runtime, bench.spec())
    async with watching(runtime), following(runtime, gateway) as (lines, done):
        await until(lambda: bool(lines), "a line")
        events = asyncio.create_task(anext(aiter(runtime.changes())))
        await asyncio.wait_for(events, 30)
        await runtime.close()
        await asyncio.wait_for(done, 30)


async def test_health_sees_the_api_port(bench: Bench) -> None:
    """Starting until the gateway itself listens (its published port accepts long before), then healthy, and told."""
    runtime = await bench.runtime(health=HealthCheck(interval=0.5, timeout=5, start_period=60))
    spec = bench.spec(environment={"SIMULATOR_SCRIPT": '[{"slow_start": 8}]'})
    async with watching(runtime) as seen:
        gateway = await bench.launch(runtime, spec)
        assert gateway.health == "starting"
        await answers(gateway.endpoint.port)
        known = len(seen)
        await until(lambda: len(seen) > known, "a change of its health")
    found = await runtime.inspect(gateway.container_id)
    assert found is not None
    assert found.health == "healthy"


async def test_an_outdated_image_is_noticed(bench: Bench) -> None:
    """When the tag moves on, the running gateway says so; it is not touched."""
    runtime = await bench.runtime()
    image = derived_image(bench.api, simulator_image(bench.api, "ibc"), {"SOME": bench.prefix})
    gateway = await bench.launch(runtime, bench.spec(image=image))
    assert gateway.notices == ()
    newer = simulator_image(bench.api, "ibc")
    repository, _, tag = image.partition(":")
    bench.api.ask("POST", f"/images/{newer}/tag", repo=repository, tag=tag)
    for found in (await runtime.inspect(gateway.container_id), *await runtime.list()):
        assert found is not None
        assert "a restart takes it" in found.notices[0]
        assert found.image == image


# ---------------------------------------------------------------------------------------------- logs


async def test_a_log_has_this_life_from_its_first_line(bench: Bench) -> None:
    """Also when many start at once, where the engine notes the start after the first lines; it ends with the life."""
    runtime = await bench.runtime()
    gateways = await asyncio.gather(*(bench.launch(runtime, bench.spec(f"f{i}", "ibc")) for i in range(4)))
    for gateway in gateways:
        async with following(runtime, gateway) as (lines, done):
            await until(lambda lines=lines: any("Configuration tasks completed" in line for line in lines), "the login")
            assert lines[1] == ".> Starting IBC/IB gateway"
            bench.api.ask("POST", f"/containers/{gateway.container_id}/stop")
            await asyncio.wait_for(done, 30)
            assert "Gateway finished" in lines
        assert [line async for line in runtime.log(gateway)] == lines


async def test_another_life_has_another_log(bench: Bench) -> None:
    """An operator's restart begins a life of its own: the old life's log is over, the new one's has none of its lines."""
    runtime = await bench.runtime()
    words = "i=0; while [ $i -lt 50 ]; do echo life $(cat /proc/uptime) $i; i=$((i+1)); done; sleep 3600"
    image = derived_image(bench.api, simulator_image(bench.api, "ibc"), {}, command=["sh", "-c", words])
    old = await bench.launch(runtime, bench.spec(image=image))
    async with following(runtime, old) as (old_lines, done):
        await until(lambda: len(old_lines) == 50, "the first life's lines")
        bench.api.ask("POST", f"/containers/{old.container_id}/kill")
        await asyncio.wait_for(done, 30)
    await asyncio.to_thread(lambda: bench.api.ask("POST", f"/containers/{old.container_id}/start"))
    reader, writer = await asyncio.open_unix_connection(bench.engine.socket)
    writer.write(
        f"POST /containers/{old.container_id}/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n"
        "Connection: Upgrade\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"1\nx")
    writer.write_eof()
    new = await runtime.inspect(ContainerId(old.container_id))
    assert new is not None
    assert new.started_at != old.started_at
    async with following(runtime, new) as (new_lines, _):
        await until(lambda: len(new_lines) == 50, "the second life's lines")
        assert not set(new_lines) & set(old_lines)
    assert [line async for line in runtime.log(old)] == []
    writer.close()


async def test_a_flood_through_rotation_is_told_without_repeats(bench: Bench) -> None:
    """The engine drops what it has rotated away and repeats lines when it does; none is told twice, in order, to the end."""
    runtime = await bench.runtime()
    flood = "dd if=/dev/zero bs=1000 count=30 2>/dev/null | tr '\\0' x >/tmp/pad; i=0; while [ $i -lt 1500 ]; do echo line $i $(head -c 20000 /tmp/pad); i=$((i+1)); done; echo the end"
    image = derived_image(bench.api, simulator_image(bench.api, "ibc"), {}, command=["sh", "-c", flood])
    gateway = await bench.launch(runtime, bench.spec(image=image))
    async with following(runtime, gateway) as (lines, done):
        await asyncio.wait_for(done, 60)
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 500
    assert lines[-1] == "the end"


# ---------------------------------------------------------------------------------------------- ending


async def test_a_gateway_that_does_not_stop_is_killed(bench: Bench) -> None:
    """After the grace; and at once without one."""
    runtime = await bench.runtime()
    deaf = derived_image(
        bench.api,
        simulator_image(bench.api, "ibc"),
        {},
        command=["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"],
    )
    for follower, grace in (("slow", 1), ("fast", 0)):
        gateway = await bench.launch(runtime, bench.spec(follower, image=deaf))
        async with following(runtime, gateway) as (lines, _):
            await until(lambda lines=lines: "deaf" in lines, "the trap")
            assert (await runtime.remove(gateway.container_id, grace=grace)).exit_code == 137


async def test_removing_what_others_remove_too(bench: Bench) -> None:
    """Three at once, beside an operator's `docker rm -f`: all return, it is gone."""
    runtime = await bench.runtime()
    for follower in ("a", "b"):
        gateway = await bench.ready(runtime, bench.spec(follower))
        work = [runtime.remove(gateway.container_id, grace=5) for _ in range(3)]
        await asyncio.gather(*work, asyncio.to_thread(bench.api.remove, gateway.container_id))
        assert await runtime.inspect(gateway.container_id) is None
        await runtime.forget_secret(gateway.container_id)


async def test_a_gateway_killed_for_want_of_memory_says_so(bench: Bench) -> None:
    """The kernel's kill is told as what it was, in the notices and in the last words."""
    runtime = await bench.runtime()
    hungry = derived_image(
        bench.api,
        simulator_image(bench.api, "ibc"),
        {},
        command=["python3", "-c", "print('eating', flush=True); x = [bytearray(64 << 20) for _ in range(64)]"],
    )
    async with watching(runtime) as seen:
        gateway = await bench.launch(runtime, bench.spec(image=hungry))
        async with following(runtime, gateway) as (_, done):
            await asyncio.wait_for(done, DEADLINE)
        await until(lambda: seen[-1] == gateway.container_id, "its changes")
    found = await runtime.inspect(gateway.container_id)
    assert found is not None
    assert "OOM-killed at 1024 MiB" in found.notices[0]
    words = await runtime.remove(gateway.container_id, grace=1)
    assert words.exit_code == 137
    assert "OOM-killed" in words.lines[-1]


async def test_a_secret_that_cannot_be_removed_is_said_to_stay(bench: Bench) -> None:
    """When the command inside fails there is an error, so that it is tried again, and no success."""
    runtime = await bench.runtime()
    gateway = await bench.ready(runtime, bench.spec())
    bench.api.execute(gateway.container_id, "sh", "-c", f"rm {SECRET_FILE}; mkdir {SECRET_FILE}")
    with pytest.raises(LaunchError, match="could not be removed"):
        await runtime.forget_secret(gateway.container_id)


async def test_a_paused_gateway_keeps_its_secret_until_it_goes_on(bench: Bench) -> None:
    """Forgetting is refused while nothing can run inside, so that it is done later; it can still be removed."""
    runtime = await bench.runtime()
    gateway = await bench.ready(runtime, bench.spec())
    bench.api.ask("POST", f"/containers/{gateway.container_id}/pause")
    with pytest.raises(LaunchError, match="paused"):
        await runtime.forget_secret(gateway.container_id)
    bench.api.ask("POST", f"/containers/{gateway.container_id}/unpause")
    await runtime.forget_secret(gateway.container_id)
    bench.api.ask("POST", f"/containers/{gateway.container_id}/pause")
    await runtime.remove(gateway.container_id, grace=2)
    assert await runtime.inspect(gateway.container_id) is None
