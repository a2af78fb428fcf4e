"""What a page shows besides, for a caller who knows some followers only: nothing of the others (see `scoping`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from spreadpilot_core.ibkr.errors import UnknownFollowerError
from spreadpilot_core.ibkr.http_api.served_manager import ServedDetails
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.details import PhoneQueue, Picture, ScreenAddress

SOMEBODY = "another follower"


class ScopedDetails:
    """Of the caller's own gateways."""

    def __init__(self, details: ServedDetails, followers: frozenset[str], redact: Callable[[str], str]) -> None:
        self._details = details
        self._followers = followers
        self._redact = redact

    def _must_be_own(self, follower_id: str) -> None:
        if follower_id not in self._followers:
            raise UnknownFollowerError(follower_id, self._followers)

    @property
    def last_event(self) -> int | None:
        """Of all of them: the caller's own are followed from there on."""
        return self._details.last_event

    async def availability_days(self, month: str) -> tuple[AvailabilityDay, ...]:
        """Of the caller's own."""
        return tuple(
            each for each in await self._details.availability_days(month) if each.follower_id in self._followers
        )

    def phones(self) -> tuple[PhoneQueue, ...]:
        """Those that the caller's own ask or wait for; who else does has no name."""
        return tuple(
            PhoneQueue(self._redact(each.phone), self._shown(each.asked), self._shown(each.waiting))
            for each in self._details.phones()
            if not self._followers.isdisjoint((*each.asked, *each.waiting))
        )

    def _shown(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each if each in self._followers else SOMEBODY for each in names)

    def asked_phone(self, follower_id: str) -> str | None:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        return self._details.asked_phone(follower_id)

    def settings_of(self, follower_id: str) -> Mapping[str, str]:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        return self._details.settings_of(follower_id)

    async def log_lines(self, follower_id: str, *, last: int, follow: bool = False) -> AsyncIterator[str]:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        lines: Any = self._details.log_lines(follower_id, last=last, follow=follow)
        async with aclosing(lines):
            async for line in lines:
                yield self._redact(line)

    async def screen(self, follower_id: str) -> ScreenAddress:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        return await self._details.screen(follower_id)

    async def pictures(self, follower_id: str) -> Sequence[Picture]:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        return await self._details.pictures(follower_id)

    async def picture(self, follower_id: str, picture_id: str) -> bytes | None:
        """Of one of the caller's own."""
        self._must_be_own(follower_id)
        return await self._details.picture(follower_id, picture_id)
