"""What the host of simulated gateways answers, checked before anything is made of it.

What makes no sense is `RuntimeUnavailableError`, as an engine's that is broken; but a container whose description makes
none harms its own follower alone, as a strange container on an engine does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import (
    ForeignGateway,
    Gateway,
    GatewayPhase,
    LastWords,
)
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.simulator_containers import (
    HostAnswer,
    Name,
    Text,
    checked,
    foreign_from,
    gateway_from,
)
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

SENSELESS = "what the host says of it makes no sense"


class PreparedAnswer(HostAnswer):
    """Of `prepare`."""

    controller: Text
    reset_hours: Text


class MadeAnswer(HostAnswer):
    """Of `create`."""

    id: Name
    name: Name


class LogSizeAnswer(HostAnswer):
    """Of `log_size`."""

    first: int = Field(default=0, ge=0)
    next: int = Field(default=0, ge=0)


class LineAnswer(HostAnswer):
    """One line of a log."""

    line: str
    number: int = Field(ge=0)


class _WordsAnswer(HostAnswer):
    exit_code: int | None = None
    lines: Sequence[str] = ()


class _ChangeAnswer(HostAnswer):
    container_id: Name


class _NamedAnswer(HostAnswer):
    """What is left of a description that makes no sense."""

    id: Name
    follower_id: Name


def listed(answer: Mapping[str, Any], name: str) -> Sequence[object]:
    """A list in the answer. Raises `RuntimeUnavailableError`."""
    found = answer.get(name)
    if not isinstance(found, list):
        raise RuntimeUnavailableError(f"The host of simulated gateways gives answers that make no sense: no {name}.")
    return found


def gateways(found: Sequence[object]) -> list[Gateway]:
    """The containers of a list; one that makes no sense has that fault, and one that names nobody is left out."""
    made = []
    for each in found:
        try:
            made.append(gateway_from(each))
        except RuntimeUnavailableError as error:
            log.warning("a container's description makes no sense", sentence=error.what)
            try:
                named = _NamedAnswer.model_validate(each)
            except ValidationError:
                continue
            made.append(_faulty(named))
    return made


def _faulty(named: _NamedAnswer) -> Gateway:
    return Gateway(
        container_id=ContainerId(named.id),
        name=named.id,
        follower_id=FollowerId(named.follower_id),
        client_id=0,
        endpoint=None,
        trading_mode=TradingMode.PAPER,
        spec_digest="",
        controller="ibc",
        image="",
        phase=GatewayPhase.RUNNING,
        faults=(SENSELESS,),
    )


def foreigners(found: Sequence[object]) -> list[ForeignGateway]:
    """Other managers' gateways; one that makes no sense is left out."""
    made = []
    for each in found:
        try:
            made.append(foreign_from(each))
        except RuntimeUnavailableError as error:
            log.warning("another manager's container makes no sense", sentence=error.what)
    return made


def changed(answer: object) -> ContainerId:
    """The container of one event. Raises `RuntimeUnavailableError`."""
    return ContainerId(checked(_ChangeAnswer, answer).container_id)


def last_words(answer: Mapping[str, Any]) -> LastWords:
    """What a container that was removed said last. It is gone, whatever else makes no sense."""
    try:
        it = _WordsAnswer.model_validate(answer)
    except ValidationError:
        return LastWords(None, ())
    return LastWords(it.exit_code, tuple(it.lines))
