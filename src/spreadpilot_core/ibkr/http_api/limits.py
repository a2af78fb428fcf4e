"""What a request may bring: a body of some kilobytes, soon, and whatever its content type says.

`curl -d '{"retry_login": true}'` calls its body a form; nothing but JSON is ever meant here, so the type is not asked for.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_BODY = 16 * 1024
"""Bytes: what can be said here takes a hundred."""
BODY_WITHIN = 10.0
"""Seconds in which the body must have come."""

M = TypeVar("M", bound=BaseModel)


class BodyLimit:
    """Refuses a request whose body is too long, before it was read, and one whose body does not come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a `receive` that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = 0

        async def limited() -> Message:
            nonlocal counted
            message = await receive()
            counted += len(message.get("body", b""))
            if counted > LONGEST_BODY:
                raise _too_long()
            return message

        await self._app(scope, limited, send)


def _too_long() -> HTTPException:
    return HTTPException(413, f"its body is longer than {LONGEST_BODY // 1024} KiB")


async def read_body(request: Request, model: type[M]) -> M:
    """What the body says; nothing said is the model's default.

    Raises:
        HTTPException: it is too long, or does not come.
        RequestValidationError: it is no JSON, or says something else.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and len(stated) > len(str(LONGEST_BODY)) + 1:
        raise _too_long()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            body = await request.body()
    except TimeoutError:
        raise HTTPException(408, f"its body did not come within {BODY_WITHIN:g} s") from None
    try:
        return model.model_validate_json(body) if body.strip() else model()
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


def described(model: type[BaseModel], example: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    """The body for `/v1/openapi.json`, which can't see what is read by hand."""
    content = {"application/json": {"schema": model.model_json_schema(), "example": example}}
    return {"requestBody": {"required": required, "content": content}}
