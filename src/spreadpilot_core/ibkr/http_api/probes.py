"""What a running manager answers at `metrics_address`: whether it lives, whether it does its work, and its metrics.

    GET /livez     200 as long as the event loop answers
    GET /readyz    200 when it acts, or stands by for the manager that does; else 503 with the reason
    GET /metrics   for Prometheus

There is nothing to be changed here and no secret to be read, so nobody is asked who they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from spreadpilot_core.ibkr.model.readiness import Readiness


class Exposed(Protocol):
    """The metrics as Prometheus scrapes them."""

    def text(self, accepted: str | None = None) -> tuple[bytes, str]:
        """What is scraped now, and its content type."""


def probes_app(exposed: Exposed, readiness: Callable[[], Readiness]) -> Starlette:
    """The application."""

    async def live(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(_: Request) -> Response:
        found = readiness()
        code = HTTPStatus.OK if found.is_fine else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(asdict(found), status_code=code)

    async def metrics(request: Request) -> Response:
        content, kind = await asyncio.to_thread(exposed.text, request.headers.get("accept"))
        return Response(content, media_type=kind)

    answers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/livez": live,
        "/readyz": ready,
        "/metrics": metrics,
    }
    return Starlette(routes=[Route(path, answer) for path, answer in answers.items()])
