"""Containers of the simulator's engine: what it is asked to make, and what its descriptions mean. Pure.

The simulated runtime asks an engine in another process, the in-memory one an engine in its own; the words are the same.
They are checked before anything is made of them: what makes no sense is `RuntimeUnavailableError`, as of an engine that is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spreadpilot_core.ibkr.errors import NameTakenError, RuntimeUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewayPhase,
    GatewaySpec,
)
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.runtimes.host_ports import LOOPBACK

T = TypeVar("T", bound=BaseModel)
Text = Annotated[str, Field(max_length=8192)]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Port = Annotated[int, Field(ge=0, le=65535)]
_CONTROLLER: TypeAdapter[Controller] = TypeAdapter(Controller)
_PHASES: Mapping[str, GatewayPhase] = {
    "created": GatewayPhase.AWAITING_SECRET,
    "running": GatewayPhase.RUNNING,
    "paused": GatewayPhase.PAUSED,
    "exited": GatewayPhase.EXITED,
}


class HostAnswer(BaseModel):
    """Nothing is taken for another type, and what a newer host says more is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _ForeignAnswer(HostAnswer):
    id: Name
    name: Name
    identity: Text
    follower_id: Text
    host_port: Port | None
    user_digest: Text
    state: Text


class _ContainerAnswer(HostAnswer):
    id: Name
    name: Name
    follower_id: Name
    host_port: Port
    client_id: int = Field(ge=0, le=2**31 - 1)
    trading_mode: Text
    user: Text | None = None
    spec_digest: Text
    controller: Text
    image: Text
    state: Text
    started_at: Text | None
    exit_code: int | None
    reset_hours: Text
    identity: Text
    launch_id: Text
    restarted: bool


def order_of(
    spec: GatewaySpec, *, owner: str, client_id: int, host_port: int, controller: Controller, reset_hours: str | None
) -> dict[str, Any]:
    """What the engine is asked for; no secret is in it."""
    return {
        "name": f"{owner}-{spec.follower_id}",
        "launch_id": spec.launch_id,
        "user_digest": user_digest(spec.user),
        "follower_id": spec.follower_id,
        "host_port": host_port,
        "client_id": client_id,
        "trading_mode": spec.trading_mode.value,
        "spec_digest": spec.digest,
        "controller": controller,
        "image": spec.options.image or "",
        "user": spec.user,
        "read_only": bool(spec.options.read_only_api),
        "time_zone": spec.options.time_zone or "Etc/UTC",
        "auto_restart_time": spec.options.auto_restart_time,
        "existing_session_action": spec.options.existing_session_action or "primary",
        "reset_hours": reset_hours,
        "logins_left": spec.logins_left,
    }


def checked(kind: type[T], answer: object) -> T:
    """The answer as this kind of it. Raises `RuntimeUnavailableError`."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise _senseless(error) from None


def controller_named(name: str) -> Controller:
    """The controller of this name. Raises `RuntimeUnavailableError`."""
    try:
        return _CONTROLLER.validate_python(name)
    except ValidationError as error:
        raise _senseless(error) from None


def name_taken(sentence: str, other: object, identities: Identities) -> NameTakenError:
    """Why a container can't be made; `other` is what the engine says of one with its name that has another identity."""
    foreign = foreign_from(other) if other is not None else None
    if foreign is None or foreign.identity in identities:
        return NameTakenError(sentence)
    return held_name("container", foreign.name, foreign.identity, remove="its own manager removes it")


def _phase(state: str) -> GatewayPhase:
    """The phase of a container of this state. Raises `ValueError`."""
    if (phase := _PHASES.get(state)) is None:
        raise ValueError(f"{state!r} is no state of a container")
    return phase


def gateway_from(found: object) -> Gateway:
    """One container. Raises `RuntimeUnavailableError`."""
    it = checked(_ContainerAnswer, found)
    try:
        return Gateway(
            container_id=ContainerId(it.id),
            name=it.name,
            follower_id=FollowerId(it.follower_id),
            client_id=it.client_id,
            endpoint=Endpoint(LOOPBACK, it.host_port),
            trading_mode=TradingMode(it.trading_mode),
            user=it.user or None,
            spec_digest=it.spec_digest,
            controller=controller_named(it.controller),
            image=it.image,
            phase=_phase(it.state),
            started_at=datetime.fromisoformat(it.started_at) if it.started_at is not None else None,
            exit_code=it.exit_code,
            reset_hours=it.reset_hours,
            identity=it.identity,
            launch_id=it.launch_id,
            is_restarted=it.restarted,
        )
    except ValueError as error:
        raise _senseless(error) from None


def foreign_from(found: object) -> ForeignGateway:
    """Another manager's gateway. Raises `RuntimeUnavailableError`."""
    it = checked(_ForeignAnswer, found)
    return ForeignGateway(
        container_id=ContainerId(it.id),
        name=it.name,
        identity=it.identity,
        follower_id=it.follower_id,
        host_port=it.host_port,
        user_digest=it.user_digest,
        is_ended=_PHASES.get(it.state) is GatewayPhase.EXITED,
    )


def _senseless(error: ValueError) -> RuntimeUnavailableError:
    why = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return RuntimeUnavailableError(f"The host of simulated gateways gives answers that make no sense: {why:.200}.")
