"""`/v1/openapi.json`: all of this, for programs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.needs import needs

router = APIRouter()


@router.get("/openapi.json", dependencies=[needs(Role.VIEWER)], include_in_schema=False)
async def describe(request: Request) -> dict[str, Any]:
    """The description of what is served here."""
    described: dict[str, Any] = request.app.openapi()
    return described
