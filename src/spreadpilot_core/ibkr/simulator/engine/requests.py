"""What callers may ask of an engine: one function for each request, in two tables.

A look changes nothing; an act is in the operations' trail, with what its function puts into `told`. All of them see the
caller's own containers only; a list also tells which others there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spreadpilot_core.ibkr.simulator.engine.container import Order
from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

Request = Mapping[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who speaks on one connection."""

    owner: str
    identities: tuple[str, ...]
    """The first is what its new containers bear."""
    manager: str

    @classmethod
    def from_greeting(cls, greeting: Request) -> Caller:
        """Who greets; one that names no identity is known by its owner's name. Raises `Refused`."""
        owner, given = text(greeting, "owner"), greeting.get("identities", [])
        if not isinstance(given, list) or not all(isinstance(each, str) and each for each in given):
            raise Refused("bad_request", f"identities is {given!r}, but must be a list of texts.")
        return cls(owner=owner, identities=tuple(given or [owner]), manager=text(greeting, "manager"))


Look = Callable[[Engine, Caller, Request], Answer]
Act = Callable[[Engine, Caller, Request, Answer], Awaitable[Answer]]


def text(request: Request, name: str) -> str:
    """A text of the request. Raises `Refused`."""
    if isinstance(value := request.get(name), str):
        return value
    raise Refused("bad_request", f"{name} is {value!r}, but must be a text.")


def mapping(request: Request, name: str) -> dict[str, Any]:
    """A mapping of the request. Raises `Refused`."""
    if isinstance(value := request.get(name), dict):
        return value
    raise Refused("bad_request", f"{name} is {value!r}, but must be a mapping.")


def seconds(request: Request, name: str) -> float:
    """A duration of the request. Raises `Refused`."""
    value = request.get(name)
    if isinstance(value, (int, float)) and value >= 0:
        return float(value)
    raise Refused("bad_request", f"{name} is {value!r}, but must be a number of seconds.")


def _prepare(engine: Engine, _caller: Caller, request: Request) -> Answer:
    follower_id = text(request, "follower_id")
    return {
        "controller": engine.scripts.controller(follower_id),
        "reset_hours": engine.scripts.reset_hours(follower_id),
    }


def _list(engine: Engine, caller: Caller, _request: Request) -> Answer:
    foreign = [container.describe_to_others() for container in engine.others(caller.identities)]
    return {"containers": [container.describe() for container in engine.find(caller.identities)], "foreign": foreign}


def _inspect(engine: Engine, caller: Caller, request: Request) -> Answer:
    return {"container": engine.get(text(request, "container"), caller.identities).describe()}


def _log_size(engine: Engine, caller: Caller, request: Request) -> Answer:
    log = engine.get(text(request, "container"), caller.identities).log
    return {"first": log.first, "next": log.next}


async def _create(engine: Engine, caller: Caller, request: Request, told: Answer) -> Answer:
    order = Order.from_json({**mapping(request, "order"), "owner": caller.owner, "identity": caller.identities[0]})
    told["user"] = order.user
    container = engine.create(order)
    told["container"] = container.id
    return {"container": container.describe()}


async def _start(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    container = engine.get(text(request, "container"), caller.identities)
    engine.start(container)
    return {"container": container.describe()}


async def _remove(engine: Engine, caller: Caller, request: Request, told: Answer) -> Answer:
    container = engine.get(text(request, "container"), caller.identities)
    words = await engine.remove(container, seconds(request, "grace"))
    told["exit_code"] = words.exit_code
    return {"exit_code": words.exit_code, "lines": list(words.lines)}


async def _forget(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    engine.get(text(request, "container"), caller.identities).forget_secret()
    return {}


async def _pause(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    engine.of_follower(text(request, "follower_id"), caller.owner).pause()
    return {}


async def _resume(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    engine.of_follower(text(request, "follower_id"), caller.owner).unpause()
    return {}


async def _kill(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    container = engine.of_follower(text(request, "follower_id"), caller.owner)
    if container.state not in ("running", "paused"):
        raise Refused("wrong_state", f"The container {container.order.name} is {container.state}.")
    await container.stop(0)
    return {}


async def _restart(engine: Engine, caller: Caller, request: Request, _told: Answer) -> Answer:
    await engine.of_follower(text(request, "follower_id"), caller.owner).restart()
    return {}


async def _inject(engine: Engine, caller: Caller, request: Request, told: Answer) -> Answer:
    told["fault"] = fault = text(request, "fault")
    follower_id, arguments = text(request, "follower_id"), mapping(request, "arguments")
    gateway = engine.gateway_of(follower_id, caller.owner)
    try:
        if gateway is not None:
            gateway.inject(fault, **arguments)
        else:
            engine.scripts.add_to_next(caller.owner, follower_id, fault, arguments)
    except (ValueError, TypeError) as error:
        raise Refused("unknown_fault", f"{error}") from error
    return {}


async def _script(engine: Engine, _caller: Caller, request: Request, _told: Answer) -> Answer:
    engine.scripts.say(text(request, "follower_id"), mapping(request, "entry"))
    return {}


LOOKS: Mapping[str, Look] = {"prepare": _prepare, "list": _list, "inspect": _inspect, "log_size": _log_size}
ACTS: Mapping[str, Act] = {
    "create": _create,
    "start": _start,
    "remove": _remove,
    "forget": _forget,
    "pause": _pause,
    "resume": _resume,
    "kill": _kill,
    "restart": _restart,
    "inject": _inject,
    "script": _script,
}
