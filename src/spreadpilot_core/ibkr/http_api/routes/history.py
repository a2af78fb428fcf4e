"""`/v1/history` and `/v1/availability`: what was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BeforeValidator

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.description import EXAMPLES
from spreadpilot_core.ibkr.http_api.models import HistoryView
from spreadpilot_core.ibkr.http_api.needs import needs
from spreadpilot_core.ibkr.http_api.pages import Page
from spreadpilot_core.ibkr.http_api.served import Served
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import MOST_OF_A_PAGE, HistoryPlace, HistoryQuery

router = APIRouter(tags=["history"])

_PLACE = r"^[0-9]{1,17}-[0-9A-Za-z._:-]{1,100}$"
"""As `HistoryPlace` is written."""


def _must_be_a_date(text: object) -> object:
    """A bare number, which pydantic takes for seconds since 1970, is none."""
    if isinstance(text, str) and "T" not in text.upper() and " " not in text:
        msg = "it is no date with a time, as 2026-03-02T14:00:00Z is"
        raise ValueError(msg)
    return text


@router.get("/history", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["history"])
async def read_history(
    served: Served,
    follower_id: str | None = None,
    since: Annotated[AwareDatetime, BeforeValidator(_must_be_a_date)] | None = None,
    before: Annotated[str | None, Query(description="`older` of the page before this one.", pattern=_PLACE)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_OF_A_PAGE)] = 200,
) -> HistoryView:
    """What happened, newest first: of one follower, or all of it."""
    place = _place(before) if before is not None else None
    who = FollowerId(follower_id) if follower_id is not None else None
    page = await served.manager.read_history(HistoryQuery(follower_id=who, since=since, before=place, limit=limit))
    return HistoryView(entries=tuple(page.entries), older=str(page.older) if page.older is not None else None)


def _place(text: str) -> HistoryPlace:
    try:
        return HistoryPlace.parse(text)
    except ValueError:
        fault = {"type": "value_error", "loc": ("query", "before"), "msg": "it is no place in the history"}
        raise RequestValidationError([fault]) from None


Month = Annotated[str | None, Query(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]


@router.get("/availability", dependencies=[needs(Role.VIEWER)], responses=EXAMPLES["availability"])
async def show_availability(served: Served, page: Page, month: Month = None) -> list[dict[str, Any]]:
    """How long each gateway was ready, seconds by verdict; where `limit` leaves some out, `Link` names the next page."""
    found = await served.manager.availability(month or f"{datetime.now(UTC):%Y-%m}")
    return [each.as_dict() for each in page.of(found)]
