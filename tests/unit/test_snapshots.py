"""The snapshot: the same object in Python and in JSON."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.snapshots import CredentialsView, GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus, State

AT = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)
SNAPSHOT = GatewaySnapshot(
    follower_id="anna",
    status=GatewayStatus.RUNNING,
    state=State.READY,
    reason=None,
    since=AT,
    next_action=None,
    endpoint="127.0.0.1:4100",
    client_id=1234,
    accounts=("DU1234567",),
    trading_mode=TradingMode.PAPER,
    container="ibgateway-follower-anna",
    container_health="healthy",
    image="ghcr.io/gnzsnz/ib-gateway:stable",
    credentials=CredentialsView(source="vault", version="3", date=date(2026, 11, 1)),
    notices=("A new password waits for the next restart.",),
    last_heartbeat=AT,
    round_trip_ms=0.25,
)


def test_its_json_has_the_documented_fields_and_forms() -> None:
    """Words for states, ISO 8601 in UTC for times, lists, and null for what is not there."""
    assert SNAPSHOT.model_dump(mode="json") == {
        "follower_id": "anna",
        "status": "RUNNING",
        "state": "ready",
        "reason": None,
        "reason_code": None,
        "severity": "info",
        "facts": {},
        "since": "2026-11-24T14:00:00Z",
        "next_action": None,
        "endpoint": "127.0.0.1:4100",
        "client_id": 1234,
        "accounts": ["DU1234567"],
        "trading_mode": "paper",
        "container": "ibgateway-follower-anna",
        "container_health": "healthy",
        "image": "ghcr.io/gnzsnz/ib-gateway:stable",
        "outdated": False,
        "credentials": {"source": "vault", "version": "3", "date": "2026-11-01"},
        "notices": ["A new password waits for the next restart."],
        "last_heartbeat": "2026-11-24T14:00:00Z",
        "round_trip_ms": 0.25,
        "vnc": None,
    }


def test_it_comes_back_from_its_json_and_does_not_change() -> None:
    """What the control socket sends is the object again at the other end."""
    assert GatewaySnapshot.model_validate_json(SNAPSHOT.model_dump_json()) == SNAPSHOT
    with pytest.raises(ValueError, match="frozen"):
        SNAPSHOT.state = State.DEGRADED


@pytest.mark.parametrize("state", State)
def test_every_state_has_one_of_the_four_statuses_whose_value_is_its_word(state: State) -> None:
    """A `(str, Enum)`: equal to the word, also in JSON."""
    assert state.status.value == state.status.name
    assert state.status in {"STARTING", "RUNNING", "STOPPED", "FAILED"}
    assert (state.status is GatewayStatus.RUNNING) == (state in (State.READY, State.DEGRADED))


def test_documentation_and_code_name_the_same_reasons_with_the_same_severity() -> None:
    """A program that meets a code finds it in the documentation, and none that does not exist."""
    page = (Path(__file__).parents[2] / "docs/states.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z][A-Z_0-9]+)` \| (\w+) \| \S", page, re.MULTILINE)

    assert sorted(documented) == sorted((code.value, code.severity.value) for code in ReasonCode)
