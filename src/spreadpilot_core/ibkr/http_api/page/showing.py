"""What the templates are given: made of what the caller may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from spreadpilot_core.ibkr.access.callers import Caller, Role
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.page import bars
from spreadpilot_core.ibkr.http_api.page.fleet import SORTS, Shown, View, counts, shown
from spreadpilot_core.ibkr.http_api.page.gateway_acts import OTHER_ACTS
from spreadpilot_core.ibkr.http_api.page.needs_you import Need, cure, login_cost, needs
from spreadpilot_core.ibkr.http_api.page.rendering import Pages
from spreadpilot_core.ibkr.http_api.served import ServedApp
from spreadpilot_core.ibkr.http_api.served_manager import ServedDetails
from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Share
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import HistoryPlace, HistoryQuery
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus

MOST_NEEDS = 20
"""Of those who wait, shown one by one; the table has the others."""
LOG_LINES = 200
_UNSHOWN = {"last_heartbeat", "round_trip_ms"}
HISTORY = 50
_MOST_ROWS = 4000
"""That are remembered."""
_COLUMNS = (
    ("Follower", "follower"),
    ("State", "state"),
    ("Since", "since"),
    ("Account", "account"),
    ("Heartbeat", None),
    ("Today", "available"),
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one caller sees of all gateways now."""

    gateways: tuple[GatewaySnapshot, ...]
    shares: dict[str, Share]
    shown: Shown
    view: View
    common: dict[str, Any]
    """Of the template."""

    def bar(self, follower_id: str) -> bars.Bar:
        """Of today."""
        return bars.bar(self.shares.get(follower_id))


async def the_fleet(served: ServedApp, caller: Caller, view: View) -> Fleet:
    """All of it, and the part that `view` asks for."""
    details, after = served.manager.details, served.manager.details.last_event
    gateways = served.manager.list_gateways()
    shares = bars.shares(await _days(details), f"{datetime.now(UTC):%Y-%m-%d}")
    available = {name: share.available for name, share in shares.items() if share.available is not None}
    found = needs(gateways, phone_of(details))
    common = {
        "who": caller,
        "view": view,
        "after": after,
        "counts": counts(gateways),
        "phones": details.phones(),
        "operates": caller.role.covers(Role.OPERATOR),
        "needs": found[:MOST_NEEDS],
        "more_needs": max(0, len(found) - MOST_NEEDS),
    }
    common["needs_digest"] = _digest(found)
    return Fleet(gateways, shares, shown(gateways, view, available), view, common)


def _digest(found: Sequence[Need]) -> str:
    """Tells whether what is shown of those who wait is as it was."""
    return f"{hash(tuple((each.gateway.model_dump_json(exclude=_UNSHOWN), each.cure) for each in found[:MOST_NEEDS])):x}-{len(found)}"


def rows(pages: Pages, fleet: Fleet, gateways: Sequence[GatewaySnapshot], *, swapped: bool) -> list[Markup]:
    """Of the table, each as HTML; one that is as it was is not rendered again, for whichever page."""
    if len(pages.rows) > _MOST_ROWS:
        pages.rows.clear()
    return [_row(pages, each, fleet.bar(each.follower_id), swapped=swapped) for each in gateways]


def _row(pages: Pages, gateway: GatewaySnapshot, bar: bars.Bar, *, swapped: bool) -> Markup:
    known = pages.rows.get((gateway.follower_id, swapped))
    if known is not None and known[0] == gateway and known[1] == bar:
        return known[2]
    html = Markup(pages.text("row", gateway=gateway, bar=bar, swapped=swapped))  # noqa: S704  # rendered
    pages.rows[gateway.follower_id, swapped] = gateway, bar, html
    return html


def fleet_page(pages: Pages, served: ServedApp, fleet: Fleet, done: str | None) -> dict[str, Any]:
    """Of the template `fleet`."""
    return fleet.common | {
        "done": done,
        "notices": served.manager.list_notices(),
        "sorts": SORTS,
        "columns": _COLUMNS,
        "gateways": fleet.shown.gateways,
        "rows": rows(pages, fleet, fleet.shown.gateways, swapped=False),
        "rows_digest": fleet.shown.digest,
        "matching": fleet.shown.matching,
        "pages": fleet.shown.pages,
    }


async def gateway_now(served: ServedApp, caller: Caller, follower_id: str) -> dict[str, Any]:
    """Of the template `gateway_now`. Raises `UnknownFollowerError`."""
    after, gateway = served.manager.details.last_event, served.manager.get_gateway(follower_id)
    phone_of_ = phone_of(served.manager.details)
    operates = caller.role.covers(Role.OPERATOR)
    return {
        "who": caller,
        "after": after,
        "gateway": gateway,
        "swapped": False,
        "operates": operates,
        "trades": caller.role.covers(Role.TRADER),
        "cure": start_of(gateway, phone_of_(gateway.follower_id)) if operates else None,
        "acts": [each for each in OTHER_ACTS if caller.role.covers(each.role) and gateway.status in each.statuses],
    }


def start_of(gateway: GatewaySnapshot, phone: str | None) -> Any:
    """The button that starts it; None where it runs, or is about to."""
    if gateway.status in (GatewayStatus.RUNNING, GatewayStatus.STARTING):
        return None
    return cure(gateway, lambda _: phone)


async def timeline(served: ServedApp, follower_id: str, before: HistoryPlace | None) -> dict[str, Any]:
    """Of the template `timeline`."""
    query = HistoryQuery(follower_id=FollowerId(follower_id), since=None, before=before, limit=HISTORY)
    try:
        page = await served.manager.read_history(query)
    except GatewayManagerError as error:
        return {"entries": None, "history_fault": str(error), "older": None}
    return {"entries": page.entries, "older": str(page.older) if page.older is not None else None}


async def gateway_page(served: ServedApp, gateway: GatewaySnapshot, *, operates: bool) -> dict[str, Any]:
    """Of the template `gateway`, beside what changes by itself."""
    details, follower_id, today = served.manager.details, gateway.follower_id, datetime.now(UTC)
    days = await _days(details)
    lines, fault = await _lines(details, follower_id)
    return {
        "bar": bars.bar(bars.shares(days, f"{today:%Y-%m-%d}").get(follower_id)),
        "causes": bars.causes(days, follower_id),
        "month": f"{today:%Y-%m}",
        "lines": lines,
        "log_fault": fault,
        "pictures": await details.pictures(follower_id) if operates else (),
        "settings": details.settings_of(follower_id),
    }


async def _lines(details: ServedDetails, follower_id: str) -> tuple[list[str], str | None]:
    try:
        return [line async for line in details.log_lines(follower_id, last=LOG_LINES)], None
    except GatewayManagerError as error:
        return [], str(error)


async def _days(details: ServedDetails) -> Sequence[AvailabilityDay]:
    try:
        return await details.availability_days(f"{datetime.now(UTC):%Y-%m}")
    except GatewayManagerError:  # the manager's notices tell of it
        return ()


def phone_of(details: ServedDetails) -> Any:
    """Whose phone a follower's next login asks; nobody's of one whose record is gone meanwhile."""

    def found(follower_id: str) -> str | None:
        try:
            return details.asked_phone(follower_id)
        except GatewayManagerError:
            return None

    return found


def cost_of(served: ServedApp, follower_id: str, act: str) -> str:
    """What a confirmed act costs, in words."""
    phone = phone_of(served.manager.details)(follower_id)
    if act == "restart":
        return f"Its gateway is logged out, and started with the newest spec and secret: {login_cost(phone)}."
    return f"Its gateway is logged out, and stays so until somebody starts it: that costs {login_cost(phone)}."
