"""Which gateways the table shows, and in which order: by the query string, so that a page can be linked to. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args
from urllib.parse import urlencode

from spreadpilot_core.ibkr.http_api.page.needs_you import waits
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus

PAGE_SIZE = 100
"""Rows of one page."""
Sort = Literal["need", "follower", "state", "since", "account", "available"]
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
_LONGEST = 200
_MOST_PAGES = 10_000
_ORDER = {each: number for number, each in enumerate(("FAILED", "STARTING", "RUNNING", "STOPPED"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is asked for."""

    search: str = ""
    status: GatewayStatus | None = None
    sort: Sort = "need"
    down: bool = False
    page: int = 1

    @classmethod
    def read(cls, asked: dict[str, str]) -> View:
        """Of a query string; what can't be understood is left out: it was a link, and still shows something."""
        sort, page, status = asked.get("sort", ""), asked.get("page", ""), asked.get("status", "")
        return cls(
            search=asked.get("search", "").strip()[:_LONGEST],
            status=GatewayStatus(status) if status in GatewayStatus.__members__ else None,
            sort=next((each for each in SORTS if each == sort), "need"),
            down="down" in asked,
            page=int(page) if page.isascii() and page.isdecimal() and 0 < int(page[:6]) < _MOST_PAGES else 1,
        )

    def query(self, **changes: Any) -> str:
        """As a query string, with these changes; without a page it begins at the first."""
        view = replace(self, **{"page": 1, **changes})
        said = {
            "search": view.search,
            "status": view.status.value if view.status is not None else "",
            "sort": view.sort if view.sort != "need" else "",
            "down": "1" if view.down else "",
            "page": str(view.page) if view.page > 1 else "",
        }
        return urlencode({name: value for name, value in said.items() if value})

    def sorted_by(self, sort: Sort) -> str:
        """The query of a column's head: a second click turns the order around."""
        return self.query(sort=sort, down=self.sort == sort and not self.down)

    def matches(self, gateway: GatewaySnapshot) -> bool:
        """Whether it is shown."""
        if self.status is not None and gateway.status is not self.status:
            return False
        words = self.search.casefold().split()
        fields = (
            gateway.follower_id,
            *gateway.accounts,
            gateway.state.value,
            gateway.reason or "",
            gateway.endpoint or "",
        )
        text = " ".join(fields).casefold()
        return all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class Shown:
    """A page of the table."""

    gateways: tuple[GatewaySnapshot, ...]
    matching: int
    pages: int

    @property
    def digest(self) -> str:
        """Tells whether the same gateways are on the page, in whatever order."""
        names = sorted(each.follower_id for each in self.gateways)
        return hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest()[:16]


def shown(gateways: Sequence[GatewaySnapshot], view: View, available: dict[str, float]) -> Shown:
    """The part of the fleet that is asked for."""
    found = [each for each in gateways if view.matches(each)]

    def key(gateway: GatewaySnapshot) -> tuple[Any, ...]:
        match view.sort:
            case "need":
                return (not waits(gateway), _ORDER[gateway.status.value])
            case "follower":
                return (gateway.follower_id,)
            case "state":
                return (_ORDER[gateway.status.value], gateway.state.value)
            case "since":
                return (gateway.since,)
            case "account":
                return gateway.accounts or ("~",)
            case "available":
                return (available.get(gateway.follower_id, 2.0),)

    found.sort(key=lambda each: each.follower_id)
    found.sort(key=key, reverse=view.down)
    pages = max(1, -(-len(found) // PAGE_SIZE))
    first = (min(view.page, pages) - 1) * PAGE_SIZE
    return Shown(tuple(found[first : first + PAGE_SIZE]), len(found), pages)


def counts(gateways: Sequence[GatewaySnapshot]) -> dict[str, int]:
    """How many there are of each status."""
    found = Counter(each.status.value for each in gateways)
    return {each.value: found[each.value] for each in GatewayStatus}


def element_id(follower_id: str) -> str:
    """Of its row: a follower's id may be any text, and an element's can't."""
    return f"gateway-{hashlib.sha256(follower_id.encode(errors='surrogatepass')).hexdigest()[:16]}"
