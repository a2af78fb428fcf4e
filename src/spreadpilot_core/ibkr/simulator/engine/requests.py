"""What callers may ask of an engine: one function for each request, in two tables.

A look changes nothing; an act is in the operations' trail, with what its function puts into `told`. All of them see the
caller's own containers only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from spreadpilot_core.ibkr.simulator.engine.container import Order
from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

Request = Mapping[str, Any]
Answer = dict[str, Any]
Look = Callable[[Engine, str, Request], Answer]
Act = Callable[[Engine, str, Request, Answer], Awaitable[Answer]]


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


def _prepare(engine: Engine, _owner: str, request: Request) -> Answer:
    return {"dialect": engine.scripts.dialect(text(request, "follower_id"))}


def _list(engine: Engine, owner: str, _request: Request) -> Answer:
    return {"containers": [container.describe() for container in engine.find(owner)]}


def _inspect(engine: Engine, owner: str, request: Request) -> Answer:
    return {"container": engine.get(text(request, "container"), owner).describe()}


def _log_size(engine: Engine, owner: str, request: Request) -> Answer:
    log = engine.get(text(request, "container"), owner).log
    return {"first": log.first, "next": log.next}


async def _create(engine: Engine, owner: str, request: Request, told: Answer) -> Answer:
    order = Order.from_json({**mapping(request, "order"), "owner": owner})
    told["user"] = order.user
    container = engine.create(order)
    told["container"] = container.id
    return {"container": container.describe()}


async def _start(engine: Engine, owner: str, request: Request, _told: Answer) -> Answer:
    container = engine.get(text(request, "container"), owner)
    engine.start(container)
    return {"container": container.describe()}


async def _remove(engine: Engine, owner: str, request: Request, told: Answer) -> Answer:
    container = engine.get(text(request, "container"), owner)
    words = await engine.remove(container, seconds(request, "grace"))
    told["exit_code"] = words.exit_code
    return {"exit_code": words.exit_code, "lines": list(words.lines)}


async def _forget(engine: Engine, owner: str, request: Request, _told: Answer) -> Answer:
    engine.get(text(request, "container"), owner).forget_secret()
    return {}


async def _pause(engine: Engine, owner: str, request: Request, _told: Answer) -> Answer:
    engine.of_follower(text(request, "follower_id"), owner).pause()
    return {}


async def _resume(engine: Engine, owner: str, request: Request, _told: Answer) -> Answer:
    engine.of_follower(text(request, "follower_id"), owner).unpause()
    return {}


async def _kill(engine: Engine, owner: str, request: Request, _told: Answer) -> Answer:
    container = engine.of_follower(text(request, "follower_id"), owner)
    container.gateway("running", "paused")
    await container.stop(0)
    return {}


async def _inject(engine: Engine, owner: str, request: Request, told: Answer) -> Answer:
    told["fault"] = fault = text(request, "fault")
    follower_id, arguments = text(request, "follower_id"), mapping(request, "arguments")
    gateway = engine.gateway_of(follower_id, owner)
    try:
        if gateway is not None:
            gateway.inject(fault, **arguments)
        else:
            engine.scripts.add_to_next(owner, follower_id, fault, arguments)
    except (ValueError, TypeError) as error:
        raise Refused("unknown_fault", f"{error}") from error
    return {}


async def _script(engine: Engine, _owner: str, request: Request, _told: Answer) -> Answer:
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
    "inject": _inject,
    "script": _script,
}
