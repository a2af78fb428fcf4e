"""Queries of the cluster that launches share: twenty that begin at once ask the same, or the same of others.

A query answers everybody who asked for it before it began, and nobody who asked later: what it finds is never older than the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.tasks import Tasks

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
_MOST_AT_ONCE: Final = 50
"""Keys in one query: they stand in an address, which has an end."""


class SharedQueries(Generic[Key, Found]):
    """One at a time; whoever asks meanwhile is answered by the next one, together with all others."""

    def __init__(self, name: str, query: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]]) -> None:
        """`query` finds what there is to each of some keys."""
        self._query = query
        self._tasks = Tasks(name)
        self._asked: dict[Key, asyncio.Future[Found]] = {}

    async def at(self, key: Key) -> Found:
        """What a query finds that begins from now on. Raises whatever it raises."""
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = asyncio.get_running_loop().create_future()
        if len(self._tasks) == 0:
            self._tasks.begin("query", self._answer())
        return await asyncio.shield(answer)  # who is cancelled takes it from nobody else

    async def close(self) -> None:
        """Ask for nothing any more; who still waits is told."""
        await self._tasks.cancel()
        self._fail(self._asked, RuntimeUnavailableError("The Kubernetes runtime was closed meanwhile."))
        self._asked = {}

    async def _answer(self) -> None:
        while self._asked:
            now = dict(list(self._asked.items())[:_MOST_AT_ONCE])
            for key in now:
                del self._asked[key]
            try:
                found = await self._query(list(now))
                for key, answer in now.items():
                    answer.set_result(found[key])
            except Exception as fault:  # noqa: BLE001  # whoever asked raises it
                self._fail(now, fault)
            except BaseException:
                self._asked = {**now, **self._asked}  # told at the end
                raise

    def _fail(self, asked: Mapping[Key, asyncio.Future[Found]], fault: Exception) -> None:
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(fault)
                answer.exception()  # nobody need wait any more
