"""Followers as `IBGateway` objects: what an object says, and what stands below its `status`. Pure.

The name of an object is the follower's id, its `spec` has the fields of every follower's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from spreadpilot_core.ibkr.kubernetes.naming import NAMESPACE
from spreadpilot_core.ibkr.model.followers import FaultyRecord, Roster
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.rosters import parse_roster

GROUP: Final = NAMESPACE
API_VERSION: Final = f"{GROUP}/v1"
KIND: Final = "IBGateway"
PLURAL: Final = "ibgateways"
_NAMES = ("id", "_id")
"""Fields of other stores' records that the object's name stands for."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What must be known of an object to write its status."""

    uid: str
    generation: int
    """Of its spec."""
    status: Mapping[str, Any]

    @classmethod
    def of(cls, thing: Mapping[str, Any]) -> Mark:
        """As the API server has it."""
        metadata = thing["metadata"]
        return cls(str(metadata["uid"]), int(metadata.get("generation", 0)), thing.get("status") or {})

    def is_same_spec(self, other: Mark) -> bool:
        """Whether the same is asked for."""
        return (self.uid, self.generation) == (other.uid, other.generation)


def name_of(thing: Mapping[str, Any]) -> str:
    """The follower's id."""
    return str(thing["metadata"]["name"])


def roster_of(objects: Sequence[Mapping[str, Any]], *, ports: range | None = None) -> Roster:
    """Usable followers, and faulty records."""
    specs = {name_of(each): _spec_of(each) for each in objects}
    documents = [{**spec, "_id": None, "id": name} for name, spec in specs.items()]
    roster = parse_roster(documents, ports=ports)
    named_twice = {name: spec for name, spec in specs.items() if any(field in spec for field in _NAMES)}
    if not named_twice:
        return roster
    usable = {name: each for name, each in roster.usable.items() if name not in named_twice}
    return replace(roster, usable=usable, faulty={**roster.faulty, **_named_twice(named_twice)})


def _spec_of(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = thing.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _named_twice(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, FaultyRecord]:
    return {
        name: FaultyRecord(
            name,
            f"{next(field for field in _NAMES if field in spec)} is no field of an {KIND}: its name is the follower's id.",
            is_disabled=spec.get("enabled") is False,
        )
        for name, spec in specs.items()
    }


# ---------------------------------------------------------------------------------------------- status


def status_of(snapshot: GatewaySnapshot, mark: Mark) -> dict[str, Any]:
    """How this follower's gateway stands, as `status` says it; a field that is None is not there."""
    status: dict[str, Any] = {
        "state": snapshot.state.value,
        "mode": snapshot.trading_mode.value if snapshot.trading_mode is not None else None,
        "endpoint": snapshot.endpoint,
        "reasonCode": snapshot.reason_code.value if snapshot.reason_code is not None else None,
        "reason": snapshot.reason,
        "nextAction": snapshot.next_action,
        "since": _time(snapshot.since),
        "notices": list(snapshot.notices) or None,
        "observedGeneration": mark.generation,
        "conditions": [_ready(snapshot, mark)],
    }
    return status


def is_written(status: Mapping[str, Any], mark: Mark) -> bool:
    """Whether it is there already."""
    return {name: value for name, value in status.items() if value is not None} == mark.status


def _ready(snapshot: GatewaySnapshot, mark: Mark) -> dict[str, Any]:
    """The condition that `kubectl wait` waits for."""
    holds = "True" if snapshot.state is State.READY else "False"
    known: Iterable[Mapping[str, Any]] = mark.status.get("conditions") or ()
    before = next((each for each in known if each.get("type") == "Ready"), {})
    is_new = before.get("status") != holds
    return {
        "type": "Ready",
        "status": holds,
        "reason": _camel_case(snapshot.reason_code),
        "message": snapshot.reason or "",
        "observedGeneration": mark.generation,
        "lastTransitionTime": _time(snapshot.since) if is_new else before.get("lastTransitionTime"),
    }


def _camel_case(code: ReasonCode | None) -> str:
    return "Ready" if code is None else "".join(word.capitalize() for word in code.value.split("_"))


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
