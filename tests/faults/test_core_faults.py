"""The core of the manager under faults that come at the worst moment: between two of its own steps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from spreadpilot_core.ibkr import gateway_manager
from spreadpilot_core.ibkr.deciding import decision, learning, logging_in
from spreadpilot_core.ibkr.deciding.observation import PermitView
from spreadpilot_core.ibkr.errors import (
    DeliveryError,
    DeliveryExpiredError,
    GatewayManagerError,
    LaunchError,
    RuntimeUnavailableError,
    StoreUnavailableError,
)
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import ClientStale, IbkrLinkRestored, StateChanged
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Gateway,
    GatewaySpec,
    Login,
)
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import ContainerId, LoginAttempt, LoginLimits, LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.store.local.followers import LocalFollowers
from spreadpilot_core.ibkr.supervision import fleet, gateway_view
from spreadpilot_core.ibkr.supervision.ledger import Ledger
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from support.home import PATIENCE, Home, eventually, running, seen
from support.runtimes import host_of

ANNA, BEN = FollowerId("anna"), FollowerId("ben")


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@pytest.fixture
async def runtime(home: Home) -> AsyncIterator[SimulatedRuntime]:
    client = home.runtime()
    await client.open()
    yield client
    await client.close()


def services_of(manager: GatewayManager) -> Services:
    wired = manager._wired  # faults are planted between the manager and its adapters
    assert wired is not None
    return wired.services


async def failed_logins(services: Services) -> list[LoginAttempt]:
    """Of anna's user: what counts against the budget."""
    return [each for each in await services.ledger.full_logins("user-anna") if each.outcome and each.outcome.counts]


def supervisor_of(manager: GatewayManager) -> GatewaySupervisor:
    fleet = manager._fleet
    assert fleet is not None
    return fleet.supervisors[ANNA]


@contextlib.asynccontextmanager
async def running_stopped(home: Home, **settings: Any) -> AsyncIterator[GatewayManager]:
    """A manager whose only gateway was ready once, and was stopped by its operator."""
    await home.add(ANNA)
    async with running(home, **settings) as manager:
        await state(manager, State.READY)
        await manager.stop_gateway(ANNA)
        yield manager


async def all_settled(manager: GatewayManager) -> None:
    """Wait until every login's end is written down, which takes as long as the disk takes."""
    async with asyncio.timeout(PATIENCE):
        while await services_of(manager).ledger.unsettled():
            await asyncio.sleep(0.02)


async def state(manager: GatewayManager, wanted: State, follower_id: str = ANNA) -> None:
    await eventually(lambda: seen(manager, follower_id).state is wanted, lambda: seen(manager, follower_id))


class Gate:
    """Holds back one call of an adapter: `reached` when it came, and it goes on once `opened` is set."""

    def __init__(self, owner: object, method: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._inner: Callable[..., Awaitable[Any]] = getattr(owner, method)
        self._owner, self._method = owner, method
        setattr(owner, method, self._call)

    async def _call(self, *arguments: Any, **named: Any) -> Any:
        setattr(self._owner, self._method, self._inner)
        self.reached.set()
        await self.opened.wait()
        return await self._inner(*arguments, **named)


async def test_a_refused_list_doesnt_end_the_watch(home: Home) -> None:
    """An engine that refuses to list, which is no outage, is asked again, and from then on as before."""
    await home.add(ANNA)
    async with running(home, full_comparison_interval=0.2) as manager:
        await state(manager, State.READY)
        real = services_of(manager).runtime
        find, asked = real.list, 0

        async def refused_once() -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                msg = "The engine says 500."
                raise LaunchError(msg)
            return await find()

        real.list = refused_once  # type: ignore[method-assign]
        await eventually(lambda: asked > 2)
        assert manager.is_healthy(ANNA)


@pytest.mark.parametrize("first", ["followers", "records"])
async def test_a_login_left_open_is_settled_whatever_is_read_first(
    home: Home, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The open login of a dead manager blocks nobody for ever: neither when its container is gone, nor when it runs."""
    await home.add(ANNA, BEN)
    manager = home.manager()
    await manager.start()
    for each in (ANNA, BEN):
        await state(manager, State.READY, each)
    ledger = services_of(manager).ledger
    await manager.stop_gateway(ANNA)
    for each in (ANNA, BEN):
        attempt = ledger.new_attempt(each, user=f"user-{each}", secret_version="1", by_operator=False)
        assert await ledger.reserve(attempt, LoginLimits(counted=3)) is None
    await manager.detach()
    slow, method = (Ledger, "open") if first == "followers" else (LocalFollowers, "load")
    original = getattr(slow, method)

    async def late(self: Any) -> Any:
        await asyncio.sleep(0.5)
        return await original(self)

    monkeypatch.setattr(slow, method, late)
    async with running(home) as manager:
        await eventually(lambda: manager.is_healthy(BEN), lambda: seen(manager, BEN))
        await all_settled(manager)


async def test_an_adopted_login_that_waits_for_a_phone_keeps_others_from_asking_it(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """One prompt at a time per phone owner, also when the login that asks was begun by the manager before."""
    await home.add(ANNA, BEN, live=True)
    text = await asyncio.to_thread(home.followers_file.read_text)
    owned = text.replace("enabled = true", 'enabled = true\nphone_owner = "olga"')
    await asyncio.to_thread(home.followers_file.write_text, owned)
    for each in (ANNA, BEN):
        await runtime.script(each, [{"second_factor": "pending"}])
    manager = home.manager(parallel_starts=1)
    await manager.start()
    asked = {State.AWAITING_2FA}
    await eventually(lambda: asked == {each.state for each in manager.list_gateways()} & asked)
    first = next(each.follower_id for each in manager.list_gateways() if each.state is State.AWAITING_2FA)
    other = BEN if first == ANNA else ANNA
    await state(manager, State.QUEUED, other)
    await manager.detach(wait=0)

    async with running(home) as manager:
        await state(manager, State.AWAITING_2FA, first)
        await eventually(lambda: f"waits for the login of {first}" in (seen(manager, other).reason or ""))
        assert seen(manager, other).state is State.QUEUED


async def test_a_stop_during_a_launch_is_remembered(home: Home) -> None:
    """An operator's stop that comes while the container is being created stays, also over a restart of the manager."""
    async with running_stopped(home) as manager:
        gate = Gate(services_of(manager).runtime, "_create")
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await gate.reached.wait()
        stopping = asyncio.create_task(manager.stop_gateway(ANNA))
        await eventually(lambda: seen(manager, ANNA).state is State.STOPPED)
        gate.opened.set()
        await stopping
        with pytest.raises(GatewayManagerError):
            await launching
        await manager.reload_followers()
        assert seen(manager, ANNA).state is State.STOPPED
    async with running(home) as manager:
        await eventually(lambda: seen(manager, ANNA).state is State.STOPPED)


async def test_a_start_whose_answer_was_lost_is_the_login_that_was_reserved(home: Home) -> None:
    """Found running by the next list, it is adopted with its open login, which succeeds: nothing is counted as a failure."""
    async with running_stopped(home) as manager:
        services = services_of(manager)
        start, inspect = services.runtime._start, services.runtime.inspect

        async def lost(container_id: ContainerId) -> Gateway:
            await start(container_id)
            services.runtime._start, services.runtime.inspect = start, away  # type: ignore[method-assign]
            msg = "The answer was lost."
            raise RuntimeUnavailableError(msg)

        async def away(_: ContainerId) -> Gateway | None:
            services.runtime.inspect = inspect  # type: ignore[method-assign]
            msg = "Nobody can be asked."
            raise RuntimeUnavailableError(msg)

        services.runtime._start = lost  # type: ignore[method-assign]
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await state(manager, State.READY)
        await launching
        await all_settled(manager)
        assert await failed_logins(services) == []


async def test_a_paused_gateway_is_not_ready_and_no_reason_to_launch_another(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """While it is paused nothing is read, reserved or created; resumed, it is ready again in the same container."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        client = await manager.get_client(ANNA)
        heard: list[State] = []
        listening = asyncio.create_task(states_of(manager, heard))
        await asyncio.sleep(0)
        await runtime.pause(ANNA)
        await eventually(lambda: "paused" in (seen(manager, ANNA).reason or ""), lambda: seen(manager, ANNA))
        await asyncio.sleep(0.2)
        assert not manager.is_healthy(ANNA)
        await runtime.resume(ANNA)
        await state(manager, State.READY)

        assert await manager.get_client(ANNA) is client
        await eventually(lambda: set(heard) == {State.RECONNECTING, State.READY}, lambda: heard)
        listening.cancel()


async def states_of(manager: GatewayManager, heard: list[State]) -> None:
    async for event in manager.events():
        heard.extend([event.after] if isinstance(event, StateChanged) else [])


@pytest.mark.parametrize("hanging", [1, 99], ids=["once", "for ever"])
async def test_a_log_that_does_not_end_hides_no_dead_gateway(
    home: Home, runtime: SimulatedRuntime, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    """A stream that hangs is read again, and the gateway is replaced in any case."""
    monkeypatch.setattr(gateway_view, "LOG_ENDS_WITHIN", 0.2)
    async with running_stopped(home) as manager:
        services = services_of(manager)
        read, readings = services.runtime.log, 0

        async def hangs(gateway: Gateway) -> AsyncIterator[str]:
            nonlocal readings
            readings += 1
            hang = readings <= hanging
            async for line in read(gateway):
                yield line
            if hang:
                await asyncio.Event().wait()

        services.runtime.log = hangs  # type: ignore[method-assign]
        await manager.launch_gateway(ANNA)
        await state(manager, State.READY)
        first = supervisor_of(manager).facts.gateway_view.gateway
        assert first is not None
        await runtime.kill(ANNA)

        def is_replaced() -> bool:
            there = supervisor_of(manager).facts.gateway_view.gateway
            return there is not None and there.container_id != first.container_id

        await eventually(is_replaced, lambda: seen(manager, ANNA))
        await state(manager, State.READY)


async def test_a_login_whose_end_the_log_never_tells_is_proven_by_its_api(home: Home) -> None:
    """Lines lost on their way, or worded as no table knows: the same container becomes ready, and its login counts as good."""
    async with running_stopped(home, max_startup_time=4.0) as manager:
        services = services_of(manager)
        read = services.runtime.log

        async def cut(gateway: Gateway) -> AsyncIterator[str]:
            async for line in read(gateway):
                if "login completed" not in line.lower() and "-> " not in line:
                    yield line

        services.runtime.log = cut  # type: ignore[method-assign]
        await manager.launch_gateway(ANNA)
        first = supervisor_of(manager).facts.gateway_view.gateway
        await state(manager, State.READY)
        there = supervisor_of(manager).facts.gateway_view.gateway
        assert first is not None
        assert there is not None
        assert there.container_id == first.container_id
        await all_settled(manager)
        assert await failed_logins(services) == []


async def test_a_list_that_is_older_than_a_launch_says_nothing_about_it(home: Home) -> None:
    """A launch that begins and ends while the runtime still writes its list isn't taken for gone."""
    async with running_stopped(home, full_comparison_interval=0.1) as manager:
        services = services_of(manager)
        find, listed, answer = services.runtime.list, asyncio.Event(), asyncio.Event()

        async def slow() -> Sequence[Gateway]:
            services.runtime.list = find  # type: ignore[method-assign]
            found = await find()
            listed.set()
            await answer.wait()
            return found

        services.runtime.list = slow  # type: ignore[method-assign]
        await listed.wait()
        await manager.launch_gateway(ANNA)
        heard: list[State] = []
        listening = asyncio.create_task(states_of(manager, heard))
        await asyncio.sleep(0)
        answer.set()
        await state(manager, State.READY)
        assert set(heard) <= {State.LOGGING_IN, State.CONNECTING, State.READY}
        listening.cancel()


async def test_a_launch_that_ends_in_doubt_while_the_runtime_is_away_is_cleared_up_at_its_return(home: Home) -> None:
    """The list that then comes is newer than the launch: nobody waits for the next regular one."""
    async with running_stopped(home) as manager:
        services = services_of(manager)
        find, create = services.runtime.list, Gate(services.runtime, "_create")
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await create.reached.wait()
        away = RuntimeUnavailableError("It is away.")
        asked = asyncio.Event()

        async def unanswered(*_: Any) -> Any:
            asked.set()
            raise away

        create._inner = services.runtime.list = unanswered  # type: ignore[method-assign]
        supervisor_of(manager)._relist()
        await asked.wait()  # the runtime's absence is known, and the launch under way
        create.opened.set()
        with pytest.raises(LaunchError):
            await launching
        services.runtime.list = find  # type: ignore[method-assign]
        await state(manager, State.READY)


async def test_a_login_that_an_operator_took_is_taken_once(home: Home) -> None:
    """A start that failed after the login was marked spends the operator's leave: what follows keeps every rule again."""
    async with running_stopped(home) as manager:
        services = services_of(manager)
        start = services.runtime._start

        async def lost(container_id: ContainerId) -> Gateway:
            services.runtime._start = start  # type: ignore[method-assign]
            await services.runtime.remove(container_id, grace=0)
            msg = "It was removed by somebody else."
            raise LaunchError(msg)

        services.runtime._start = lost  # type: ignore[method-assign]
        with pytest.raises(LaunchError, match="somebody else"):
            await manager.launch_gateway(ANNA, retry_login=True)

        assert [each.by_operator for each in await failed_logins(services)] == [True]
        assert not supervisor_of(manager).facts.requests.operator_login
        assert services.runtime.ports.held() == {}


async def test_a_log_that_can_not_be_read_holds_up_no_replacement(
    home: Home, runtime: SimulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that refuses its logs (some drivers can't read them): proven by the API alone, and replaced when it ends."""
    monkeypatch.setattr(gateway_view, "LOG_AGAIN", 0.05)
    monkeypatch.setattr(logging_in, "LOG_SILENCE", timedelta(seconds=0.2))  # long before the API is open
    await home.add(ANNA)
    manager = home.manager()

    async def refused(_: SimulatedRuntime, gateway: Gateway) -> AsyncIterator[str]:
        msg = "configured logging driver does not support reading"
        raise LaunchError(msg)
        yield gateway.name

    monkeypatch.setattr(SimulatedRuntime, "log", refused)
    await manager.start()
    try:
        await state(manager, State.READY)
        (first,) = await runtime.list()
        await runtime.kill(ANNA)
        await eventually(lambda: not manager.is_healthy(ANNA))
        await state(manager, State.READY)
        (second,) = await runtime.list()
        assert first.container_id != second.container_id
    finally:
        await manager.stop()


async def test_a_launch_that_fails_as_nobody_foresaw_gives_its_login_back(home: Home) -> None:
    """A mistake of ours in the middle of a launch leaves no container, no port, and no login that shuts its user out."""
    async with running_stopped(home) as manager:
        services = services_of(manager)
        create = services.runtime._create

        async def wrong(spec: GatewaySpec, client_id: int, port: int) -> DeliveryTarget:
            services.runtime._create = create  # type: ignore[method-assign]
            await create(spec, client_id, port)
            raise KeyError("Id")

        services.runtime._create = wrong  # type: ignore[method-assign]
        with pytest.raises(LaunchError, match="nobody foresaw"):
            await manager.launch_gateway(ANNA)
        await all_settled(manager)
        async with asyncio.timeout(PATIENCE):
            while await services.runtime.list():
                await asyncio.sleep(0.02)
        await eventually(lambda: services.runtime.ports.held() == {})
        await manager.launch_gateway(ANNA)
        await state(manager, State.READY)


async def test_a_door_that_takes_no_password_is_tried_a_few_times_and_then_with_pauses(home: Home) -> None:
    """Each try costs a container and a reservation: no endless quick succession of them, and none counts as a login."""
    async with running_stopped(home) as manager:
        services, tries = services_of(manager), 0

        async def expired(ticket: str, delivery_target: DeliveryTarget) -> None:
            nonlocal tries
            tries += 1
            raise DeliveryExpiredError(f"{ticket} for {delivery_target.kind} has expired.")

        services.broker.deliver = expired  # type: ignore[method-assign]
        with pytest.raises(DeliveryExpiredError):
            await manager.launch_gateway(ANNA)
        await state(manager, State.BACKING_OFF)
        assert tries == 3 * 2  # the secret is read again once for each container
        assert await failed_logins(services) == []


async def test_a_launch_that_the_runtime_took_with_it_is_tried_again_soon(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed because the runtime went away in its middle waits for the runtime, not as long as a wrong image would."""
    monkeypatch.setattr(learning, "LAUNCH_RETRY", (600.0, 600.0))
    async with running_stopped(home) as manager:
        services = services_of(manager)
        deliver, remove = services.broker.deliver, services.runtime.remove

        async def cut(*_: Any) -> None:
            services.broker.deliver = deliver  # type: ignore[method-assign]
            services.runtime.remove = away  # type: ignore[method-assign]
            raise DeliveryError("The container could not be given its password: No such file or directory.")

        async def away(*_: Any, **__: Any) -> None:
            services.runtime.remove = remove  # type: ignore[method-assign]
            raise RuntimeUnavailableError("It is away.")

        services.broker.deliver = cut  # type: ignore[method-assign]
        with contextlib.suppress(GatewayManagerError):
            await manager.launch_gateway(ANNA)
        await state(manager, State.READY)


async def test_a_version_seen_long_ago_is_no_reason_to_read_the_secret_again_and_again(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """A rejected secret that was read after its version was last asked for is read once, not in quick succession."""
    async with running_stopped(home, secret_poll_interval=3600.0) as manager:
        supervisor_of(manager).facts.secret.newest_version = "the version before"
        services, reads = services_of(manager), 0
        read = services.broker.read

        async def counted(ref: str, controller: Controller, *, follower_id: FollowerId) -> Login:
            nonlocal reads
            reads += 1
            return await read(ref, controller, follower_id=follower_id)

        services.broker.read = counted  # type: ignore[method-assign]
        await runtime.script(ANNA, [{"wrong_password": True}])
        await manager.launch_gateway(ANNA)
        await state(manager, State.NEEDS_HUMAN)
        await asyncio.sleep(0.3)
        assert reads <= 2  # for the login, and to see whether the secret is still the rejected one


async def test_a_manager_that_stops_launches_nothing_more(home: Home) -> None:
    """Whoever asks while it stops is told no, and no gateway is left behind."""
    await home.add(ANNA, BEN)
    manager = home.manager()
    await manager.start()
    await state(manager, State.READY)
    await state(manager, State.READY, BEN)
    gate = Gate(services_of(manager).runtime, "remove")
    stopping = asyncio.create_task(manager.stop())
    await gate.reached.wait()
    asked = [asyncio.create_task(manager.launch_gateway(each)) for each in (ANNA, BEN)]
    await eventually(lambda: all(each.done() for each in asked))
    gate.opened.set()
    await stopping

    assert all(isinstance(each.exception(), GatewayManagerError) for each in asked)
    client = home.runtime()
    await client.open()
    assert list(await client.list()) == []
    await client.close()


async def test_a_stop_before_the_first_list_waits_for_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran before is stopped, though the engine answered late; while it never answers, that is said and nothing claimed."""
    await home.add(ANNA)
    before = home.manager()
    await before.start()
    await state(before, State.READY)
    await before.detach()
    monkeypatch.setattr(gateway_manager, "FIRST_LIST_WITHIN", 0.2)
    monkeypatch.setattr(fleet, "LISTED_WITHIN", 0.2)
    host = await asyncio.to_thread(host_of, home.directory)
    assert host is not None
    os.kill(host, signal.SIGSTOP)
    try:
        manager = home.manager()
        await manager.start()
        with pytest.raises(RuntimeUnavailableError, match="could not be listed, and was not stopped"):
            await manager.stop()
        manager = home.manager()
        await manager.start()
        monkeypatch.setattr(fleet, "LISTED_WITHIN", PATIENCE)
        stopping = asyncio.create_task(manager.stop())
        await asyncio.sleep(0.1)
    finally:
        os.kill(host, signal.SIGCONT)
    await stopping
    client = home.runtime()
    await client.open()
    assert list(await client.list()) == []
    await client.close()


async def test_nobody_waits_for_a_manager_that_has_ended(home: Home) -> None:
    """Calls that wait when the manager detaches end, and say why."""
    await home.add(ANNA, BEN)
    manager = home.manager()
    await manager.start()
    await state(manager, State.READY)
    services = services_of(manager)
    removing, creating = Gate(services.runtime, "remove"), Gate(services.runtime, "_create")
    calls = [asyncio.create_task(manager.stop_gateway(ANNA))]
    await removing.reached.wait()
    await manager.stop_gateway(BEN)
    calls.append(asyncio.create_task(manager.launch_gateway(BEN)))
    await creating.reached.wait()
    calls.append(asyncio.create_task(manager.get_client(BEN, timeout=3600.0)))
    await asyncio.sleep(0)
    ending = asyncio.create_task(manager.detach(wait=0))
    creating.opened.set()
    await ending

    async with asyncio.timeout(PATIENCE):
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, GatewayManagerError) for each in ends), ends


async def test_get_client_right_after_a_disconnect_waits_for_the_next_client(home: Home) -> None:
    """A client that its own program closed a moment ago isn't the answer, and neither is None."""
    await home.add(ANNA)
    async with running(home) as manager:
        client = await manager.get_client(ANNA)
        assert client is not None
        client.disconnect()
        again = await manager.get_client(ANNA)

        assert again is not None
        assert again is not client


async def test_a_stop_that_a_launch_overtakes_says_so_and_the_launch_wins(home: Home) -> None:
    """The later word counts; neither call waits for ever, and the stop does not say that it stopped what runs again."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        for _ in range(2):
            gate = Gate(services_of(manager).runtime, "remove")
            stopping = asyncio.create_task(manager.stop_gateway(ANNA))
            await gate.reached.wait()
            launching = asyncio.create_task(manager.launch_gateway(ANNA))
            await asyncio.sleep(0)
            gate.opened.set()
            async with asyncio.timeout(PATIENCE):
                stopped, launched = await asyncio.gather(stopping, launching, return_exceptions=True)
            assert isinstance(stopped, GatewayManagerError)
            assert "launched again" in str(stopped)
            assert launched is None
            await state(manager, State.READY)


async def test_a_launch_while_the_runtime_is_away_says_so_and_happens_later(home: Home) -> None:
    """It raises with the reason instead of waiting for the runtime; what was asked for stays wanted."""
    async with running_stopped(home, full_comparison_interval=0.1) as manager:
        services = services_of(manager)
        find = services.runtime.list

        async def away() -> Sequence[Gateway]:
            if is_away:
                msg = "The engine can't be reached."
                raise RuntimeUnavailableError(msg)
            return await find()

        is_away = True
        services.runtime.list = away  # type: ignore[method-assign]
        await eventually(lambda: supervisor_of(manager).facts.runtime_fault is not None)
        with pytest.raises(LaunchError, match="can't be reached"):
            await manager.launch_gateway(ANNA)
        told = manager.get_gateway(ANNA)
        assert (told.reason_code, told.severity) == (ReasonCode.RUNTIME_UNAVAILABLE, Severity.WARNING)
        is_away = False
        await state(manager, State.READY)


async def test_a_launch_whose_login_was_settled_meanwhile_starts_nothing(home: Home, runtime: SimulatedRuntime) -> None:
    """A manager held up through a takeover, whose reserved login the other one gave back, must not start it any more."""
    async with running_stopped(home) as manager:
        gate = Gate(services_of(manager).runtime, "_create")
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await gate.reached.wait()
        store = services_of(manager).ledger._store
        (reserved,) = await store.unsettled_logins()
        await store.settle_login(reserved.id, LoginOutcome.VOID, reserved.reserved_at)
        gate.opened.set()
        with pytest.raises(LaunchError, match="settled"):
            async with asyncio.timeout(PATIENCE):
                await launching
        assert list(await runtime.list()) == []
        await manager.launch_gateway(ANNA)
        await state(manager, State.READY)


async def test_a_stop_returns_also_when_its_login_can_not_be_settled_now(home: Home, runtime: SimulatedRuntime) -> None:
    """With the record store away the gateway is gone all the same; the error says what was not written."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"login_hangs": True}])
    manager = home.manager()
    await manager.start()
    store = services_of(manager).ledger._store
    await eventually(lambda: seen(manager, ANNA).state is State.LOGGING_IN)

    async def away(*_: Any, **__: Any) -> None:
        if is_away:
            msg = "The store is away."
            raise StoreUnavailableError(msg)

    is_away = True
    monkey = pytest.MonkeyPatch()
    for method in ("save", "settle_login"):
        monkey.setattr(store, method, away)
    with pytest.raises(StoreUnavailableError):
        async with asyncio.timeout(PATIENCE):
            await manager.stop_gateway(ANNA)
    assert list(await runtime.list()) == []
    monkey.undo()
    await manager.stop()


async def test_no_view_says_ready_once_the_socket_is_closed(home: Home) -> None:
    """In the very moment in which a client hears of it, snapshot, status and health agree that nothing is proven any more."""
    await home.add(ANNA)
    async with running(home) as manager:
        client = await manager.get_client(ANNA)
        assert client is not None
        heard: list[tuple[str, bool, str | None]] = []

        def closed() -> None:
            snapshot = seen(manager, ANNA)
            assert snapshot.next_action
            heard.append((manager.get_gateway_status(ANNA).value, manager.is_healthy(ANNA), snapshot.reason))

        client.disconnectedEvent += closed
        client.client.conn.transport.abort()
        await eventually(lambda: bool(heard))

        assert heard[0][:2] == ("STARTING", False)
        assert heard[0][2]


async def test_a_gateway_that_has_lost_ibkr_is_degraded_for_a_new_client_too(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """It tells a new client at once; that client is handed out, named stale like any other, and told how the link came back."""
    await home.add(ANNA)
    async with running(home) as manager:
        await manager.get_client(ANNA)
        heard = manager.events()
        await runtime.inject(ANNA, "link_lost")
        await state(manager, State.DEGRADED)
        for _ in range(2):
            old = await manager.get_client(ANNA)
            assert await manager.reconnect(ANNA)
            assert await manager.get_client(ANNA) not in (None, old)
            assert seen(manager, ANNA).state is State.DEGRADED
        assert not manager.is_healthy(ANNA)
        for data in ("lost", "kept"):
            await runtime.inject(ANNA, "link_restored", data=data)
            await state(manager, State.READY)
            await runtime.inject(ANNA, "link_lost")
            await state(manager, State.DEGRADED)

        told: list[tuple[str, int | bool]] = []
        while len(told) < 4:
            event = await anext(heard)
            told += [("stale", event.client_serial)] if isinstance(event, ClientStale) else []
            told += [("data lost", event.data_lost)] if isinstance(event, IbkrLinkRestored) else []
        assert told == [("stale", 1), ("stale", 2), ("data lost", True), ("data lost", False)]


async def test_a_start_that_is_cancelled_at_any_step_leaves_nothing_behind(home: Home) -> None:
    """Whatever it was doing, the next start finds the state directory free, and no task of it runs on."""
    await home.add(ANNA)
    before = asyncio.all_tasks()
    for steps in range(40):
        manager = home.manager()
        starting = asyncio.create_task(manager.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await manager.detach()
        assert asyncio.all_tasks() <= before
    async with running(home) as manager:
        await state(manager, State.READY)


async def test_who_waits_asks_again_by_itself_and_without_haste(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that was lost costs a look, not the turn; and waiting takes no more than that look now and then."""
    monkeypatch.setattr(decision, "RECHECK_EVERY", 0.5)
    await home.add(ANNA, BEN)
    async with running(home, parallel_starts=1) as manager:
        await state(manager, State.READY)
        await state(manager, State.READY, BEN)
        for each in (ANNA, BEN):
            await manager.stop_gateway(each)
        admission = services_of(manager).admission
        gate = Gate(services_of(manager).runtime, "_create")
        first = asyncio.create_task(manager.launch_gateway(ANNA))
        await gate.reached.wait()
        await manager.launch_gateway(BEN)
        assert "waits for a place" in (seen(manager, BEN).reason or "")
        asked, ask = 0, admission.ask

        def counted(*arguments: Any, **named: Any) -> PermitView:
            nonlocal asked
            asked += 1
            return ask(*arguments, **named)

        admission.ask = counted  # type: ignore[method-assign]
        await eventually(lambda: asked > 0)
        await asyncio.sleep(0.2)
        assert asked < 3
        admission._places.waiting.clear()  # as if another had been woken instead
        gate.opened.set()
        await first
        await state(manager, State.READY, BEN)
