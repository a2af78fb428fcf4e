"""Followers as objects of a cluster: what is read of them, what is written, and the definition that the chart brings."""

from __future__ import annotations

from typing import Any

from spreadpilot_core.ibkr.kubernetes.follower_objects import (
    GROUP,
    KIND,
    PLURAL,
    Mark,
    is_written,
    roster_of,
    status_of,
)
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.reset_windows import DAILY
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.unknown_fields import FIELDS
from support.fake_manager import a_snapshot
from support.follower_objects import definition

UNREAD = Mark("uid", 3, {})


def an_object(name: str = "anna", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": "uid", "generation": 3}, "spec": {"vault_secret_ref": "ibkr/a", **spec}}


def test_a_slip_is_named_as_in_every_store() -> None:
    """What the API server keeps though its schema does not know it; the others are usable."""
    roster = roster_of([an_object(), an_object("ben", enbled=True), an_object("cleo", gateway={"ram": 1})])
    assert list(roster.usable) == ["anna"]
    assert roster.faulty["ben"].fault.startswith("enbled is unknown (enabled was meant?); the fields are id, ")
    assert roster.faulty["cleo"].fault.startswith("gateway.ram is unknown")


def test_the_objects_name_is_the_id_and_a_second_one_is_a_fault() -> None:
    """Whose word would count could only be guessed; that it is disabled is understood all the same."""
    roster = roster_of([an_object(id="anna"), an_object("ben", _id="x", enabled=False), an_object("cleo")])
    assert list(roster.usable) == ["cleo"]
    assert roster.faulty["anna"].fault == "id is no field of an IBGateway: its name is the follower's id."
    assert roster.faulty["ben"].fault.startswith("_id is no field")
    assert (roster.faulty["anna"].is_disabled, roster.faulty["ben"].is_disabled) == (False, True)


def test_a_ready_gateways_status() -> None:
    """State, endpoint, mode and the condition; fields that say nothing are not there."""
    status = status_of(a_snapshot("anna", endpoint="10.0.0.7:4002"), UNREAD)
    assert {name: value for name, value in status.items() if value is not None} == {
        "state": "ready",
        "mode": "paper",
        "endpoint": "10.0.0.7:4002",
        "since": "2026-11-24T09:30:00Z",
        "observedGeneration": 3,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "observedGeneration": 3,
                "lastTransitionTime": "2026-11-24T09:30:00Z",
            }
        ],
    }


def test_the_condition_changes_its_time_with_its_status_alone() -> None:
    """From one reason to the next it is as old as it was, so that `kubectl` tells since when it is not ready."""
    first = status_of(a_snapshot("anna", State.QUEUED, reason_code=ReasonCode.NOT_ENABLED), UNREAD)
    (condition,) = first["conditions"]
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "NotEnabled", "It is queued.")
    later = a_snapshot("anna", State.NEEDS_HUMAN, since="2026-11-24T10:00:00Z")
    (condition,) = status_of(later, Mark("uid", 4, first))["conditions"]
    assert (condition["lastTransitionTime"], condition["observedGeneration"]) == ("2026-11-24T09:30:00Z", 4)
    ready = a_snapshot("anna", since="2026-11-24T11:00:00Z")
    assert status_of(ready, Mark("uid", 4, first))["conditions"][0]["lastTransitionTime"] == "2026-11-24T11:00:00Z"


def test_what_is_there_is_not_written_again() -> None:
    """As the API server gives it back, without what is None; another generation of the spec is something new."""
    snapshot = a_snapshot("anna")
    there = {name: value for name, value in status_of(snapshot, UNREAD).items() if value is not None}
    assert is_written(status_of(snapshot, Mark("uid", 3, there)), Mark("uid", 3, there))
    assert not is_written(status_of(snapshot, Mark("uid", 4, there)), Mark("uid", 4, there))


def test_a_status_alone_asks_for_nothing_new() -> None:
    """Else each one written would have everything read again; another spec does, and another object of the same name."""
    first = Mark.of(an_object())
    assert first.is_same_spec(Mark.of(an_object() | {"status": {"state": "ready"}}))
    for changed in ({"generation": 4}, {"uid": "another"}):
        other = an_object()
        other["metadata"] |= changed
        assert not first.is_same_spec(Mark.of(other))


def test_the_definition_knows_the_fields_of_a_record() -> None:
    """All of them, with the choices that the manager has, and the name under which the manager asks."""
    made = definition()
    assert (made["spec"]["group"], made["spec"]["names"]["plural"]) == (GROUP, PLURAL)
    assert made["spec"]["names"]["kind"] == KIND
    (version,) = made["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    spec, status = properties["spec"]["properties"], properties["status"]["properties"]
    assert {*spec} == {*FIELDS} - {"id", "_id"}
    assert {*spec["gateway"]["properties"]} == {*GatewayOptions.model_fields}
    assert spec["region"]["enum"] == [*DAILY]
    assert spec["notify_min_severity"]["enum"] == [each.value for each in Severity]
    assert {*status} == {*status_of(a_snapshot("anna"), UNREAD)}
