"""Running a command inside of a pod: a WebSocket whose messages begin with the number of their stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import aiohttp

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER

_PROTOCOL: Final = "v4.channel.k8s.io"
_OUTPUT, _ERRORS, _STATUS = 1, 2, 3
_WITHIN: Final = 30.0
_LONGEST_OUTPUT: Final = 64 * 1024
_FAILED: Final = -1


async def execute(api: Api, pod: str, command: Sequence[str]) -> tuple[int, str]:
    """Run it as the image's user, and give its exit code and output; -1 where it did not run to its end."""
    query = [("container", CONTAINER), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    output, code = bytearray(), _FAILED
    try:
        async with (
            asyncio.timeout(_WITHIN),
            api.websocket(f"run a command in {pod}", f"{api.place('pods', pod)}/exec", query, _PROTOCOL) as connection,
        ):
            async for message in connection:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                stream, content = message.data[0], message.data[1:]
                if stream in (_OUTPUT, _ERRORS):
                    output += content[: _LONGEST_OUTPUT - len(output)]
                elif stream == _STATUS:
                    code = _code(content)
    except (TimeoutError, RuntimeUnavailableError) as fault:
        return _FAILED, str(fault)
    return code, output.decode(errors="replace")


def _code(said: bytes) -> int:
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        status = json.loads(said)
        if status["status"] == "Success":
            return 0
        return next(int(each["message"]) for each in status["details"]["causes"] if each["reason"] == "ExitCode")
    return _FAILED
