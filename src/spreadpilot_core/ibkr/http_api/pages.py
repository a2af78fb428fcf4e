"""Lists in pages: a part of the list, and the header `Link` with the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request, Response

from spreadpilot_core.ibkr.http_api.served_manager import OfFollower

MOST_OF_A_LIST = 1000

E = TypeVar("E", bound=OfFollower)


class Pages:
    """Which part of a list by follower id is wanted; the list is whole where nobody says."""

    def __init__(
        self,
        request: Request,
        response: Response,
        limit: Annotated[int | None, Query(ge=1, le=MOST_OF_A_LIST, description="Without it all of them.")] = None,
        after: Annotated[str | None, Query(description="The last follower id of the page before.")] = None,
    ) -> None:
        self._request = request
        self._response = response
        self._limit = limit
        self._after = after

    def of(self, found: Sequence[E]) -> tuple[E, ...]:
        """The part that is wanted; the response is told where the next one is, where there is one."""
        following = [each for each in found if self._after is None or each.follower_id > self._after]
        page = tuple(following[: self._limit])
        if len(page) < len(following):
            url = self._request.url.include_query_params(limit=self._limit, after=page[-1].follower_id)
            self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return page


Page = Annotated[Pages, Depends()]
"""What a route's function takes to answer in pages."""
