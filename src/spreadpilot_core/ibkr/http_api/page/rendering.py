"""The templates, compiled once; everything that they are given is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from spreadpilot_core.ibkr.http_api.page import assets as assets_
from spreadpilot_core.ibkr.http_api.page.assets import Assets
from spreadpilot_core.ibkr.http_api.page.bars import Bar
from spreadpilot_core.ibkr.http_api.page.fleet import element_id
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import GatewayStatus
from spreadpilot_core.ibkr.system.printable import printable

TEMPLATES = Path(__file__).parent / "templates"
HEADERS = {"Referrer-Policy": "same-origin"}
"""Of a page: with `no-referrer` a browser would not say where a form comes from, and forms must."""
FETCH = "make setup"
"""What fetches the browser code of others."""


class Pages:
    """Renders. Made off the event loop: it reads files."""

    def __init__(self, assets: Assets | None = None) -> None:
        self.assets = assets or Assets.read()
        sources = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html")}
        self._environment = Environment(
            loader=DictLoader(sources),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._environment.filters |= {"moment": moment, "clock": clock, "element": element_id, "path": _quoted}
        self._environment.globals |= {
            "asset": self.assets.url,
            "has_htmx": self.assets.url(assets_.HTMX) is not None,
            "has_novnc": self.assets.url(assets_.NOVNC) is not None,
            "htmx": assets_.HTMX,
            "novnc": assets_.NOVNC,
            "fetch_by": FETCH,
            "statuses": {each.value: each for each in GatewayStatus},
        }
        self.rows: dict[tuple[str, bool], tuple[GatewaySnapshot, Bar, Markup]] = {}
        """Those that were rendered last, and of what."""
        self._templates = {name: self._environment.get_template(name) for name in sources}

    def text(self, template: str, **values: Any) -> str:
        """As HTML."""
        return self._templates[f"{template}.html"].render(values)

    def answer(
        self, template: str, *, code: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> HTMLResponse:
        """As a response."""
        return HTMLResponse(self.text(template, **values), code, {**HEADERS, **(headers or {})})


def _shown(value: Any) -> Any:
    """What comes from outside shows no character that can't be seen, or turns the text around."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def moment(at: datetime | None) -> str:
    """As people and screen readers read it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at is not None else "never"


def clock(at: datetime | None) -> str:
    """The time alone; the day too where it is another."""
    if at is None:
        return "never"
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}" if at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d %H:%M}"


def _quoted(text: str) -> str:
    return quote(text, safe="")
