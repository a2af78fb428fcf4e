"""What takes longer than a request waits: it goes on by itself, and its answer is fetched later.

    POST …/stop?wait=30     answers when it is done, or after 30 s with 202, the snapshot, and `Location: /v1/operations/ID`
    GET  /v1/operations/ID  the same answer again, with the same rule: the result, the refusal, or 202 for as long as it takes

Whoever hangs up ends nothing: what was begun is done.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query

from spreadpilot_core.ibkr.access.callers import Caller, RefusedCallerError, Role
from spreadpilot_core.ibkr.tasks import Tasks

DEFAULT_WAIT = 2.0
LONGEST_WAIT = 86_400.0
MOST_OPERATIONS = 1000
"""Those that are remembered; the one that ended longest ago is forgotten for the next."""
MOST_RUNNING = 2000
"""Many times a fleet; whoever begins more is told to wait."""
MOST_OF_A_GATEWAY = 20
"""Begun by one caller and under way: a program that asks and asks about its one gateway leaves the others to theirs."""

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=LONGEST_WAIT,
        allow_inf_nan=False,
        description="Seconds to wait for the end; what takes longer is answered with 202 and goes on.",
    ),
]


class UnknownOperationError(RefusedCallerError):
    """There is none with this id, or it is somebody else's."""

    code = 404

    def __init__(self) -> None:
        super().__init__(
            "There is no such operation here, or no longer.",
            hint="What it was about is asked at /v1/gateways/FOLLOWER.",
        )


class TooManyOperationsError(RefusedCallerError):
    """More is under way than anybody needs."""

    code = 503

    def __init__(self) -> None:
        super().__init__("Too much is under way already.", hint="Wait until some of it has ended.")


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that was begun."""

    id: str
    caller: str
    follower_id: str | None
    """Whose gateway it is about."""
    task: asyncio.Task[Any]

    async def has_ended(self, *, within: float) -> bool:
        """Whether it has, after so many seconds at most."""
        await asyncio.wait({self.task}, timeout=within)
        return self.task.done()


class Operations:
    """What was begun by requests to one manager, through whichever listener."""

    def __init__(self) -> None:
        self._tasks = Tasks("operations")
        self._known: OrderedDict[str, Operation] = OrderedDict()

    async def start(self) -> None:
        """There is nothing to begin."""

    async def close(self) -> None:
        """Whatever still runs waits for a manager that has ended."""
        await self._tasks.cancel()

    def begin(self, caller: Caller, follower_id: str | None, work: Coroutine[Any, Any, Any]) -> Operation:
        """Have it done. Raises `TooManyOperationsError`."""
        same = (caller.name, follower_id)
        running = sum((each.caller, each.follower_id) == same and not each.task.done() for each in self._known.values())
        if len(self._tasks) >= MOST_RUNNING or running >= MOST_OF_A_GATEWAY:
            work.close()
            raise TooManyOperationsError
        operation_id = secrets.token_urlsafe(12)
        task = self._tasks.begin(f"answer {operation_id}", work, then=_ended)
        operation = Operation(operation_id, caller.name, follower_id, task)
        self._known[operation_id] = operation
        ended = [each.id for each in self._known.values() if each.task.done()]
        for each in ended[: max(0, len(self._known) - MOST_OPERATIONS)]:
            del self._known[each]
        return operation

    def find(self, operation_id: str, caller: Caller) -> Operation:
        """The one with this id, if it is this caller's, or the caller is an operator. Raises `UnknownOperationError`."""
        operation = self._known.get(operation_id)
        is_theirs = operation is not None and operation.caller == caller.name and caller.may_see(operation.follower_id)
        if operation is None or not (is_theirs or caller.role is Role.OPERATOR):
            raise UnknownOperationError
        return operation


def _ended(task: asyncio.Task[Any]) -> None:
    """Its failure is the answer to whoever asks."""
    if not task.cancelled():
        task.exception()
