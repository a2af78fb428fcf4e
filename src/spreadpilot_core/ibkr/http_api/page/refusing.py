"""A refusal as a page, for whoever asked for one."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from spreadpilot_core.ibkr.http_api.models import Refusal
from spreadpilot_core.ibkr.http_api.page.rendering import Pages
from spreadpilot_core.ibkr.http_api.page.routes import sign_in_url

_NOT_SIGNED_IN, _NOT_FOUND = 401, 404
_API = "/v1/"


def refused_page(request: HTTPConnection, code: int, refusal: Refusal, headers: Mapping[str, str]) -> Response | None:
    """The page; None for whoever asked for JSON."""
    pages = getattr(request.app.state, "pages", None)
    scripted = "hx-request" in request.headers
    wants_page = scripted or "text/html" in request.headers.get("accept", "")
    if (
        not isinstance(request, Request)
        or not isinstance(pages, Pages)
        or request.url.path.startswith(_API)
        or not wants_page
    ):
        return None
    if code == _NOT_SIGNED_IN and scripted:
        return Response(status_code=code, headers={"HX-Redirect": "/sign-in"})
    if code == _NOT_SIGNED_IN and request.method == "GET":
        return RedirectResponse(sign_in_url(request), 303)
    return pages.answer(
        "refusal", code=code, headers=headers, sentence=refusal.sentence, hint=refusal.hint, missing=code == _NOT_FOUND
    )
