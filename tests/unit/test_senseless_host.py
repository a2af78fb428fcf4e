"""A host of simulated gateways whose answers make no sense: another version, a defect, or memory gone bad."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.runtimes.simulated import answers
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.runtimes.simulator_containers import gateway_from
from spreadpilot_core.ibkr.simulator.engine.language import PROTOCOL
from support.docker_specs import spec as a_spec

CONTAINER: dict[str, Any] = {
    "id": "c1",
    "name": "gw-anna",
    "follower_id": "anna",
    "host_port": 4100,
    "client_id": 1000,
    "trading_mode": "paper",
    "user": "user",
    "spec_digest": "d",
    "controller": "ibc",
    "image": "i",
    "state": "running",
    "started_at": "2026-11-24T14:00:00+00:00",
    "exit_code": None,
    "reset_hours": "",
    "identity": "me",
    "launch_id": "l1",
    "restarted": False,
}
NONSENSE: list[Any] = [None, 7, -1, "x", [], {}, [[]], {"x": 1}, "9" * 10_000, 1e300, True]


class SenselessHost:
    """It greets as a host does, and answers what it is checked to."""

    def __init__(self, directory: Path) -> None:
        self.answer: Any = {"containers": [], "foreign": []}
        self.answers: dict[str, Any] = {}
        """By operation, before that one."""
        self.then: list[Any] = []
        """What comes after the answer, on a stream."""
        self._path = directory / "host.sock"
        address = {"pid": os.getpid(), "host": "h", "socket": str(self._path)}
        (directory / "simulated-host.json").write_text(json.dumps(address))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readline()
            self._say(writer, {"ok": True, "protocol": PROTOCOL, "host": "h", "pid": os.getpid()})
            if request := await reader.readline():
                answer = self.answers.get(json.loads(request)["op"], self.answer)
                for each in (answer, *self.then):
                    self._say(writer, each)
                await writer.drain()
        writer.close()

    @staticmethod
    def _say(writer: asyncio.StreamWriter, what: object) -> None:
        writer.write(what if isinstance(what, bytes) else json.dumps(what).encode() + b"\n")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SenselessHost]:
    async with SenselessHost(tmp_path) as host:
        yield host


@pytest.fixture
async def runtime(host: SenselessHost, tmp_path: Path) -> AsyncIterator[SimulatedRuntime]:
    assert host
    runtime = SimulatedRuntime(tmp_path, owner="o", manager_id="m", may_start=False, identities=Identities("me"))
    await runtime.open()
    yield runtime
    await runtime.close()


def spoilt() -> list[dict[str, Any]]:
    """The good description with each of its fields gone, or something else."""
    gone = [
        {name: value for name, value in CONTAINER.items() if name != field} for field in CONTAINER if field != "user"
    ]
    return [*gone, *({**CONTAINER, field: value} for field in CONTAINER for value in NONSENSE)]


async def test_one_container_that_makes_no_sense_harms_its_own_follower_alone(
    host: SenselessHost, runtime: SimulatedRuntime
) -> None:
    """The others are found as they are; that one has a fault, or is passed over where it names nobody."""
    good = {**CONTAINER, "id": "c2", "name": "gw-ben", "follower_id": "ben"}
    for bad in [*spoilt(), *NONSENSE, "x"]:
        host.answer = {"ok": True, "containers": [bad, good], "foreign": [bad, {"id": "f"}, *NONSENSE]}
        found = {each.follower_id: each for each in await runtime.list()}
        assert not found[FollowerId("ben")].faults
        anna = found.get(FollowerId("anna"))
        assert anna is None or anna.faults == (answers.SENSELESS,) or anna.name


async def test_a_list_of_a_large_fleet_is_as_good_as_any(host: SenselessHost, runtime: SimulatedRuntime) -> None:
    """Some megabytes: with 1,664 gateways a fleet once stopped growing."""
    names = [f"f{number}" for number in range(5000)]
    made = [{**CONTAINER, "id": name, "name": f"gw-{name}", "follower_id": name} for name in names]
    host.answer = {"ok": True, "containers": made, "foreign": []}
    assert [each.follower_id for each in await runtime.list()] == names


@pytest.mark.parametrize("answer", [*NONSENSE, b"\xff\n", b"no json\n", b"", {"error": 7}, {"error": "port_taken"}])
async def test_an_answer_that_makes_no_sense_is_an_engine_that_is_away(
    host: SenselessHost, runtime: SimulatedRuntime, answer: Any
) -> None:
    """Whatever was asked: an error of ours, which is checked and tried again, and never a traceback."""
    host.answer, container = answer, ContainerId("c1")
    for asking in (runtime.list(), runtime.prepare(a_spec("anna")), runtime.inspect(container)):
        with pytest.raises(GatewayManagerError):
            await asking
    with suppress(GatewayManagerError):
        assert (await runtime.remove(container, grace=0)).exit_code is None


@pytest.mark.parametrize("answer", [*NONSENSE, b"\xff\n", b"no json\n", b"", {"error": 7}, {"error": "port_taken"}])
@pytest.mark.parametrize("operation", ["create", "start"])
async def test_a_launch_whose_answers_make_no_sense_fails_as_one(
    host: SenselessHost, runtime: SimulatedRuntime, operation: str, answer: Any
) -> None:
    """Whichever step they are of; the login is committed only where the container was made."""
    made = {"ok": True, "container": {"id": "c1", "name": "gw-anna"}}
    host.answers = {"prepare": {"ok": True, "controller": "ibc", "reset_hours": ""}, "create": made, operation: answer}
    delivered: list[DeliveryTarget] = []
    committed: list[ContainerId] = []

    async def secret(target: DeliveryTarget) -> None:
        delivered.append(target)

    async def commit(container_id: ContainerId) -> None:
        committed.append(container_id)

    with pytest.raises(GatewayManagerError):
        await runtime.launch(a_spec("anna"), 1000, secret=secret, commit=commit)
    assert [each.container_id for each in delivered] == committed == ([] if operation == "create" else ["c1"])


@pytest.mark.parametrize("line", NONSENSE)
async def test_a_stream_that_makes_no_sense_is_begun_anew(
    host: SenselessHost, runtime: SimulatedRuntime, line: Any
) -> None:
    """Anything may have changed, so everything is listed again; a log is an engine's that broke."""
    host.answer, host.then = {"ok": True}, [line]
    async with asyncio.timeout(60), aclosing(runtime.changes()) as changes:
        assert [await anext(changes) for _ in range(2)] == [None, None]
    gateway = gateway_from(CONTAINER)
    host.then = [{"line": line, "number": line}]
    with suppress(RuntimeUnavailableError, TimeoutError):
        async with asyncio.timeout(5), aclosing(runtime.log(gateway)) as lines:
            async for said in lines:
                assert isinstance(said, str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CONTAINER]), json_values))
def test_no_description_raises_anything_else(changes: dict[str, Any]) -> None:
    """A gateway, or the one error."""
    with suppress(RuntimeUnavailableError):
        assert gateway_from({**CONTAINER, **changes}).container_id
    assert len(answers.gateways([changes, {**CONTAINER, **changes}])) <= 2
