"""What a pod that bears our marks means as a gateway. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args

from spreadpilot_core.ibkr.kubernetes import naming as marks
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER, as_meant
from spreadpilot_core.ibkr.kubernetes.naming import Naming, annotations_of, labels_of
from spreadpilot_core.ibkr.kubernetes.phases import (
    Pod,
    container_state,
    end_of,
    is_collected,
    is_committed,
    is_final,
    is_running,
    waiting_for,
)
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Controller, Endpoint, ForeignGateway, Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.images import CONTRACTS, PASSWORD_FILE, user_in
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

_LONGEST_MARK: Final = 256
"""Characters; whoever annotates a pod may write at any length, and nothing of ours is long."""


def uid_of(pod: Pod) -> ContainerId:
    """What no other pod ever has, under whatever name."""
    return ContainerId(str((pod.get("metadata") or {}).get("uid", "")))


def name_of(pod: Pod) -> str:
    """Its name in the namespace."""
    return str((pod.get("metadata") or {}).get("name", ""))


def is_gateway(pod: Pod) -> bool:
    """Whether it is a gateway's, whoever manages it, and not the probe of an image."""
    return labels_of(pod).get(marks.ROLE) == marks.GATEWAY


def gateway_from(pod: Pod, *, naming: Naming) -> Gateway | None:
    """What a pod says, or None when it bears no identity of this manager."""
    if not naming.owns(pod):
        return None
    said = annotations_of(pod)
    try:
        _must_be_short(said)
        follower_id, mode = FollowerId(said[marks.FOLLOWER]), TradingMode(said[marks.TRADING_MODE])
        client_id, controller, digest = (
            int(said[marks.CLIENT_ID]),
            _controller(said[marks.CONTROLLER]),
            said[marks.SPEC],
        )
        owner = said[marks.OWNER]
        container = _container(pod)
    except (KeyError, ValueError) as fault:
        log.warning("pod with our identity but not all marks", pod=name_of(pod), fault=f"{fault!r:.99}")
        return None
    return Gateway(
        container_id=uid_of(pod),
        name=name_of(pod),
        follower_id=follower_id,
        client_id=client_id,
        endpoint=_endpoint(pod, container, "api"),
        trading_mode=mode,
        user=user_in(_environment(container), controller),
        spec_digest=digest,
        controller=controller,
        image=str(container.get("image", "")),
        reset_hours=said.get(marks.RESET_HOURS),
        vnc=str(screen) if (screen := _endpoint(pod, container, "screen")) is not None else None,
        identity=said[marks.IDENTITY],
        launch_id=said.get(marks.LAUNCH, ""),
        faults=tuple(_faults(pod, container)),
        is_renamed=name_of(pod) != Naming(owner).pod(follower_id),
        **_life(pod),
    )


def _life(pod: Pod) -> dict[str, Any]:
    """The fields that change while it lives."""
    phase, state = _phase(pod), container_state(pod)
    life = state.get("running") or state.get("terminated") or {}
    ended_by, notice = end_of(pod) if phase is GatewayPhase.EXITED else (None, _wait_notice(pod))
    return {
        "phase": phase,
        "started_at": None if phase.precedes_login else parse_time(life.get("startedAt")),
        "exit_code": _exit_code(state) if phase is GatewayPhase.EXITED else None,
        "ended_by": ended_by,
        "notices": (notice,) if notice else (),
    }


def foreign_from(pod: Pod, *, naming: Naming) -> ForeignGateway | None:
    """What a pod with another manager's identity says; None when it has one of ours."""
    if naming.owns(pod):
        return None
    said = annotations_of(pod)
    return ForeignGateway(
        container_id=uid_of(pod),
        name=name_of(pod),
        identity=said.get(marks.IDENTITY, "unknown")[:_LONGEST_MARK],
        follower_id=said.get(marks.FOLLOWER, "")[:_LONGEST_MARK],
        host_port=None,
        user_digest=labels_of(pod).get(marks.USER),
        is_ended=(is_final(pod) or "terminated" in container_state(pod)) and not is_collected(pod),
    )


def _phase(pod: Pod) -> GatewayPhase:
    """Without its password nothing is typed in it, whether it runs or has ended."""
    if not is_committed(pod):
        return GatewayPhase.AWAITING_SECRET if is_running(pod) or is_final(pod) else GatewayPhase.PENDING
    if is_collected(pod):  # its node has not said so
        return GatewayPhase.RUNNING
    return GatewayPhase.EXITED if "terminated" in container_state(pod) or is_final(pod) else GatewayPhase.RUNNING


def _wait_notice(pod: Pod) -> str | None:
    waits = waiting_for(pod)
    return f"Its pod waits: {waits.said.rstrip('.')}." if waits is not None else None


def _exit_code(state: Mapping[str, Any]) -> int | None:
    found = (state.get("terminated") or {}).get("exitCode")
    return found if isinstance(found, int) else None


def _container(pod: Pod) -> Mapping[str, Any]:
    """Raises `ValueError` where there is none of ours."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            found: Mapping[str, Any] = container
            return found
    raise ValueError(CONTAINER)


def _endpoint(pod: Pod, container: Mapping[str, Any], port: str) -> Endpoint | None:
    address = (pod.get("status") or {}).get("podIP")
    numbers = [each["containerPort"] for each in container.get("ports") or () if each.get("name") == port]
    return Endpoint(str(address), int(numbers[0])) if address and numbers else None


def _environment(container: Mapping[str, Any]) -> list[str]:
    return [
        f"{each['name']}={as_meant(each.get('value') or '')}" for each in container.get("env") or () if "name" in each
    ]


def _faults(pod: Pod, container: Mapping[str, Any]) -> Iterator[str]:
    """What about a pod is not as `manifests` has pods made, whatever marks somebody has given it."""
    match container.get("command"):
        case ["/bin/sh", "-c", str(wrapper), "gateway-manager", _] if PASSWORD_FILE in wrapper:
            pass
        case _:
            yield "it has another command"
    if (pod.get("spec") or {}).get("restartPolicy") != "Never":
        yield "its cluster may start it again by itself"


def _must_be_short(said: Mapping[str, str]) -> None:
    for each in (marks.OWNER, marks.IDENTITY, marks.FOLLOWER, marks.LAUNCH, marks.SPEC):
        if len(said.get(each, "")) > _LONGEST_MARK:
            raise ValueError(each)


def _controller(value: str) -> Controller:
    if value not in get_args(Controller):
        raise ValueError(value)
    return next(contract.controller for contract in CONTRACTS if contract.controller == value)


def parse_time(text: object) -> datetime | None:
    """The API's time (RFC 3339); None where there is none."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC) if text else None
    except ValueError:
        return None
