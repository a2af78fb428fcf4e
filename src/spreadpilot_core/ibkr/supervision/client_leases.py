"""API client ids for programs outside the manager: who holds which, for how long.

    lease      a document is added to what all managers of the store share: one holder for each id, whoever grants it
    renew      in memory alone, so it costs nothing and no outage of the store ends a lease
    expire     the document goes

A manager that has just begun, has become the leader, or stood still for a while gives every lease that it finds its full time:
programs outlive managers, and no two clocks are compared. What it has granted and not freed stays held where the store forgot it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.errors import (
    ClientLeaseLostError,
    SharedClientIdsExhaustedError,
    TooManyClientsError,
    UnavailableError,
)
from spreadpilot_core.ibkr.model.client_leases import LEASE_SECONDS, ClientLease
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.system.clock import Clock

KIND = "client-lease"
_LASTS = timedelta(seconds=LEASE_SECONDS)
_FREED_EVERY = 10.0
"""Seconds between two looks for leases that have expired."""
MOST_OF_A_FOLLOWER = 100
"""A gateway takes 32 clients at once; a program that asks without end takes the ids of no other gateway's."""
_LONGEST_ID = 64


class ClientLeases:
    """The client ids of one range, lent to programs."""

    def __init__(
        self,
        shared: SharedDocuments,
        first: int,
        last: int,
        *,
        clock: Clock,
        may_act: Callable[[], bool],
        running_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`may_act` says whether this manager is the leader: only that one grants and frees.

        `clock` only tells holders until when; whether it is set, and how far, ends no lease.
        """
        self._shared = shared
        self._first, self._last = first, last
        self._clock = clock
        self._running_clock = running_clock
        self._may_act = may_act
        self._held: dict[int, tuple[ClientLease, float]] = {}
        """By client id, with the running clock's time at which it expires."""
        self._is_read = False
        self._one_at_a_time = asyncio.Lock()

    @property
    def counts(self) -> tuple[int, int]:
        """How many are held, and how many there are."""
        return len(self._held), self._last - self._first + 1

    async def held(self) -> list[ClientLease]:
        """All leases, by client id, also where this manager only stands by. Raises `StoreUnavailableError`."""
        return [lease for _, lease in sorted((await self._documents()).items())]

    async def lease(self, follower_id: FollowerId, name: str | None = None) -> tuple[ClientLease, datetime]:
        """An id that nobody holds, and until when; who has a name gets the one that it had, if that is free.

        Raises:
            SharedClientIdsExhaustedError: every id of the range is held.
            TooManyClientsError: this follower's programs hold as many as they may.
            StoreUnavailableError: nothing can be kept now.

        """
        async with self._one_at_a_time:
            await self._read()
            self._must_have_room(follower_id)
            for client_id in self._in_order(follower_id, name):
                lease = ClientLease(
                    id=f"{client_id}-{secrets.token_urlsafe(12)}",
                    follower_id=follower_id,
                    client_id=client_id,
                    name=name,
                )
                if client_id not in self._held and await self._shared.add(KIND, str(client_id), _document(lease)):
                    return self._keep(lease)
        raise SharedClientIdsExhaustedError(self._first, self._last)

    async def renew(self, follower_id: FollowerId, lease_id: str) -> tuple[ClientLease, datetime]:
        """Hold it for another while; one that has expired is its holder's again, unless somebody took it meanwhile.

        Raises:
            ClientLeaseLostError: it is somebody else's now, or never was one.
            StoreUnavailableError: this manager does not know the lease, and can't look now.

        """
        client_id = self._client_id_in(follower_id, lease_id)
        if not self._is_held(client_id, follower_id, lease_id):
            async with self._one_at_a_time:
                await self._read()
                if client_id not in self._held:  # its name is lost with it, and says nothing any more
                    self._must_have_room(follower_id)
                    again = ClientLease(id=lease_id, follower_id=follower_id, client_id=client_id, name=None)
                    if await self._shared.add(KIND, str(client_id), _document(again)):
                        return self._keep(again)
        if not self._is_held(client_id, follower_id, lease_id):
            raise ClientLeaseLostError(follower_id, client_id)
        return self._keep(self._held[client_id][0])

    async def give_back(self, follower_id: FollowerId, lease_id: str) -> bool:
        """It is free for somebody else; whether it was this holder's. Raises `StoreUnavailableError`."""
        client_id = self._client_id_in(follower_id, lease_id)
        async with self._one_at_a_time:
            await self._read()
            if not self._is_held(client_id, follower_id, lease_id):
                return False
            await self._free(client_id)
        return True

    async def keep(self) -> None:
        """Free what is not renewed, until cancelled. What can't be freed now is freed later."""
        checked_at = self._running_clock()
        while True:
            before, checked_at = checked_at, self._running_clock()
            if checked_at - before > 2 * _FREED_EVERY:  # it stood still, and nobody could renew
                self._held = {each: (lease, checked_at + LEASE_SECONDS) for each, (lease, _) in self._held.items()}
            try:
                if self._may_act():
                    await self.free_expired()
                else:  # whoever acts meanwhile knows better
                    self._is_read, self._held = False, {}
            except UnavailableError:
                pass
            await asyncio.sleep(_FREED_EVERY)

    async def free_expired(self) -> None:
        """Look once. Raises `StoreUnavailableError`."""
        async with self._one_at_a_time:
            if not self._is_read:
                await self._read()
            now = self._running_clock()
            for client_id in [each for each, (_, expires) in self._held.items() if expires <= now]:
                await self._free(client_id)

    # ------------------------------------------------------------------

    async def _free(self, client_id: int) -> None:
        await self._shared.open()
        await self._shared.remove(KIND, str(client_id))
        self._held.pop(client_id, None)

    def _keep(self, lease: ClientLease) -> tuple[ClientLease, datetime]:
        self._held[lease.client_id] = lease, self._running_clock() + LEASE_SECONDS
        return lease, self._clock() + _LASTS

    def _must_have_room(self, follower_id: FollowerId) -> None:
        if sum(lease.follower_id == follower_id for lease, _ in self._held.values()) >= MOST_OF_A_FOLLOWER:
            raise TooManyClientsError(follower_id, MOST_OF_A_FOLLOWER)

    def _is_held(self, client_id: int, follower_id: FollowerId, lease_id: str) -> bool:
        found = self._held.get(client_id)
        return (
            found is not None
            and found[0].follower_id == follower_id
            and secrets.compare_digest(found[0].id.encode(), lease_id.encode())
        )

    async def _read(self) -> None:
        """What the store holds is held; what was not known before has its whole time from now on."""
        found = await self._documents()
        now = self._running_clock()
        forgotten = [each for each, (_, expires) in self._held.items() if each not in found and expires > now]
        for client_id in forgotten:  # the store was emptied or is an older copy; whoever renews still has the id
            lease = self._held[client_id][0]
            if await self._shared.add(KIND, str(client_id), _document(lease)):
                found[client_id] = lease
        self._held = {
            client_id: (lease, self._held[client_id][1] if self._knows(lease) else now + LEASE_SECONDS)
            for client_id, lease in found.items()
        }
        self._is_read = True

    def _knows(self, lease: ClientLease) -> bool:
        return lease.client_id in self._held and self._held[lease.client_id][0].id == lease.id

    async def _documents(self) -> dict[int, ClientLease]:
        await self._shared.open()
        found = await self._shared.all(KIND)
        return {lease.client_id: lease for name, document in found.items() if (lease := _lease(name, document))}

    def _in_order(self, follower_id: FollowerId, name: str | None) -> Iterator[int]:
        """Every id once, from one that a name always begins with."""
        size = self._last - self._first + 1
        begin = secrets.randbelow(size) if name is None else _number(f"{follower_id}\0{name}") % size
        yield from range(self._first + begin, self._last + 1)
        yield from range(self._first, self._first + begin)

    def _client_id_in(self, follower_id: FollowerId, lease_id: str) -> int:
        digits, _, rest = lease_id.partition("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 11 and rest and len(lease_id) <= _LONGEST_ID):  # noqa: PLR2004  # 2**31 has ten
            raise ClientLeaseLostError(follower_id, None)
        if not self._first <= int(digits) <= self._last:
            raise ClientLeaseLostError(follower_id, int(digits))
        return int(digits)


def _document(lease: ClientLease) -> Mapping[str, Any]:
    return {"lease": lease.id, "follower_id": lease.follower_id, "name": lease.name}


def _lease(name: str, document: Mapping[str, Any]) -> ClientLease | None:
    """What a document says; None for one that is none of ours."""
    match document:
        case {"lease": str(lease_id), "follower_id": str(follower_id), "name": str() | None as called} if (
            name.isascii() and name.isdigit()
        ):
            return ClientLease(id=lease_id, follower_id=FollowerId(follower_id), client_id=int(name), name=called)
        case _:
            return None


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
