"""To the host process of simulated gateways.

{"kind": "simulated", "socket": PATH, "container": ID}
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from spreadpilot_core.ibkr.credentials.courier.unix_stream import UnixStream

_LONGEST_SAYING = 500


def send(target: Mapping[str, str], secret: bytes, timeout: float) -> None:
    """Name the container, then length and bytes; the host closes once it took everything."""
    with UnixStream(target["socket"], timeout) as stream:
        _attach(stream, target["container"])
        stream.send(b"%d\n" % len(secret) + secret)
        stream.finish(wait=True)


def _attach(stream: UnixStream, container: str) -> None:
    stream.send(json.dumps({"attach": container}).encode() + b"\n")
    answer = json.loads(stream.read_until(b"\n"))
    if not isinstance(answer, dict) or not answer.get("ok"):
        refusal = answer.get("error") if isinstance(answer, dict) else None
        msg = str(refusal or "the host refused")[:_LONGEST_SAYING]
        raise ConnectionError(msg)
