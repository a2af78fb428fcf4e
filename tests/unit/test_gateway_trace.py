"""One trace per launch and per recovery, told by decisions in made-up time; and what is traced and timed beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spreadpilot_core.ibkr.credentials.spans import MOST, recording, timed
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, PermitState, PermitView, Wanted
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.instrumentation.dependencies import timed_calls
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.gateway_trace import GatewayTrace
from spreadpilot_core.ibkr.seams import UNMEASURED, Instrumentation
from spreadpilot_core.ibkr.telemetry import adopt_spans, begin_span, current_ids, within
from support.decide_world import FOLLOWER, World


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def shown(kept: InMemorySpanExporter) -> list[str]:
    """Names of the ended spans, those below the root indented, failed ones marked."""
    spans = sorted(kept.get_finished_spans(), key=lambda each: (each.start_time or 0, -(each.end_time or 0)))
    return [f"{'  ' if each.parent else ''}{each.name}{'' if each.status.is_unset else ' !'}" for each in spans]


def root(kept: InMemorySpanExporter) -> ReadableSpan:
    """The newest root."""
    return [each for each in kept.get_finished_spans() if each.parent is None][-1]


class Told:
    """A gateway whose trace is told of each cycle."""

    def __init__(self) -> None:
        self.world = World()
        self.trace = GatewayTrace(FOLLOWER)
        self.before: Decision | None = None

    def step(self) -> State:
        """One cycle."""
        seen = self.world.observe()
        decision = self.world.step()
        self.trace.follow(self.before, decision, seen)
        if decision.action is not None:
            self.trace.action_begins(decision.action.kind)
        self.trace.settle(decision)
        self.before = decision
        return decision.state

    def until(self, state: State) -> None:
        """As many as it takes."""
        for _ in range(200):
            if self.step() is state:
                return
        raise AssertionError(state)


def test_a_launch_is_one_trace_until_ready(kept: InMemorySpanExporter) -> None:
    """With the login's phases below it; what happens while it is ready begins none."""
    told = Told()
    told.until(State.READY)
    for _ in range(5):
        told.step()
    assert [name for name in shown(kept) if not name.startswith(" ")] == ["launch"]
    assert "  login authenticating" in shown(kept)
    states = [dict(each.attributes or {})["state"] for each in root(kept).events]
    assert states[-1] == "ready"
    assert (root(kept).attributes or {})["follower"] == FOLLOWER
    assert not told.trace.is_open


def test_a_gateway_that_runs_already_is_adopted(kept: InMemorySpanExporter) -> None:
    """Its trace says so: nothing was launched."""
    first, told = Told(), Told()
    first.until(State.READY)
    kept.clear()
    told.world.gateway, told.world.login, told.world.record = first.world.gateway, first.world.login, first.world.record
    told.until(State.READY)
    assert root(kept).name == "adoption"


def test_what_was_ready_and_is_lost_is_a_recovery(kept: InMemorySpanExporter) -> None:
    """A trace of its own, that ends when it is ready again."""
    told = Told()
    told.until(State.READY)
    assert told.world.connection is not None
    told.world.connection = replace(told.world.connection, is_open=False)
    told.until(State.RECONNECTING)
    assert told.trace.is_open
    told.until(State.READY)
    assert [name for name in shown(kept) if not name.startswith(" ")] == ["launch", "recovery"]


def test_where_a_human_must_act_it_ends_with_the_reason_code(kept: InMemorySpanExporter) -> None:
    """The next one begins when it goes on."""
    told = Told()
    told.world.password_is_right = False
    told.until(State.NEEDS_HUMAN)
    assert told.before is not None
    code = told.before.reason_code
    assert (root(kept).attributes or {})["error.type"] == (code.value if code is not None else "needs_human")
    assert not root(kept).status.is_ok
    assert any(name.endswith(" !") for name in shown(kept) if name.startswith("  login"))
    assert not told.trace.is_open


def test_a_gateway_that_nobody_wants_has_no_trace(kept: InMemorySpanExporter) -> None:
    """Nor has one that was stopped."""
    told = Told()
    told.world.wanted = Wanted.STOP
    for _ in range(3):
        told.step()
    assert not told.trace.is_open
    assert shown(kept) == []


def test_the_wait_for_a_permit_and_the_pause_between_two_connects_are_spans(kept: InMemorySpanExporter) -> None:
    """So that what takes long is seen to be nobody's work."""
    told = Told()
    told.world.permit = PermitView(PermitState.WAITING, "It waits for its turn.")
    told.step()
    told.world.permit = None
    told.step()
    told.trace.action_begins(ActionKind.CONNECT)
    told.trace.action_ended(ActionKind.CONNECT, Failure.FAILED)
    told.trace.action_begins(ActionKind.CONNECT)
    told.trace.action_ended(ActionKind.CONNECT, None)
    told.trace.action_begins(ActionKind.CONNECT)
    told.trace.close()
    assert shown(kept) == ["launch", "  permit wait", "  connect pause"]


def test_without_a_tracer_that_keeps_spans_nothing_is_made() -> None:
    """No SDK, no trace."""
    told = Told()
    told.until(State.READY)
    assert not told.trace.is_open
    assert current_ids() is None


# ---------------------------------------------------------------------------------------------- the courier's spans


def test_what_a_courier_did_becomes_spans_below_the_one_that_asked(kept: InMemorySpanExporter) -> None:
    """With their own times, parents, facts and errors; a request to Vault is told to whoever measures."""
    with recording() as spans, timed("courier read"):
        with pytest.raises(LookupError), timed("vault try"):
            raise LookupError("pl4nted")
        with timed("vault request", http_request_method="GET") as facts:
            facts["http.response.status_code"] = 200
    heard: list[Any] = []
    asked = begin_span("credentials read")
    with within(asked):
        adopt_spans(spans, lambda *told: heard.append(told))
    asked.end()
    found = {each.name: each for each in kept.get_finished_spans()}
    assert {name: found[name].parent.span_id for name in ("vault try", "vault request")} == dict.fromkeys(  # type: ignore[union-attr]  # they have one
        ("vault try", "vault request"), found["courier read"].context.span_id
    )
    assert found["courier read"].parent is not None
    assert found["courier read"].parent.span_id == found["credentials read"].context.span_id
    assert dict(found["vault try"].attributes or {}) == {"error.type": "LookupError"}
    assert dict(found["vault request"].attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
    }
    assert [(name, operation, error) for name, operation, _, error in heard] == [
        ("courier read", "courier read", None),
        ("vault try", "vault try", "LookupError"),
        ("vault request", "GET", None),
    ]
    assert "pl4nted" not in str([each.to_json() for each in found.values()])


@pytest.mark.parametrize(
    "told",
    [
        [None, 7, "x", []],
        [{"name": 1, "begin": 1, "end": 2, "facts": {}}],
        [{"name": "x", "begin": "now", "end": 2, "facts": {}}],
        [{"name": "x", "begin": 1, "end": 2}],
    ],
)
def test_spans_that_make_no_sense_are_left_out(kept: InMemorySpanExporter, told: list[Any]) -> None:
    """They come from another process."""
    adopt_spans(told, lambda *_: None)
    assert kept.get_finished_spans() == ()


def test_nothing_is_recorded_unasked_and_never_without_an_end() -> None:
    """A courier that reads hundreds of secrets keeps nothing of it."""
    with timed("courier read") as facts:
        assert facts == {}
    with recording() as spans:
        for _ in range(2 * MOST):
            with timed("vault try"):
                pass
    assert len(spans) == MOST


# ---------------------------------------------------------------------------------------------- dependencies


class Store:
    """An adapter with a property that is set from outside."""

    def __init__(self) -> None:
        self.guard = "none"

    async def load(self, what: str) -> str:
        """Answer, or not."""
        await asyncio.sleep(0)
        if what == "away":
            raise StoreUnavailableError("It is away.")
        return what

    def plain(self) -> str:
        """No coroutine."""
        return self.guard


class Heard(Instrumentation):
    """What is told of dependencies."""

    is_on = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str | None]] = []

    def dependency_called(self, dependency: str, operation: str, seconds: float, error: str | None) -> None:
        """Keep it."""
        assert seconds >= 0
        self.calls.append((dependency, operation, error))


async def test_each_call_of_a_dependency_is_timed_and_traced_where_it_belongs_to_a_trace(
    kept: InMemorySpanExporter,
) -> None:
    """With the kind of its error; what is no coroutine, and what is set, goes to the adapter itself."""
    heard, adapter = Heard(), Store()
    store = timed_calls(adapter, "store", heard)
    store.guard = "ours"
    assert (adapter.guard, store.plain()) == ("ours", "ours")
    assert await store.load("x") == "x"
    asked = begin_span("gateway launch")
    with within(asked), pytest.raises(StoreUnavailableError):
        await store.load("away")
    asked.end()
    cut_short = asyncio.ensure_future(store.load("x"))
    await asyncio.sleep(0)
    cut_short.cancel()
    await asyncio.wait([cut_short])
    assert heard.calls == [
        ("store", "load", None),
        ("store", "load", "StoreUnavailableError"),
        ("store", "load", "cancelled"),
    ]
    assert shown(kept) == ["gateway launch", "  store load !"]


def test_where_nobody_measures_an_adapter_stays_what_it_is() -> None:
    """No call costs anything more."""
    store = Store()
    assert timed_calls(store, "store", UNMEASURED) is store
