"""To the standard input of a pod's container, through the API server of its cluster.

    {"kind": "kubernetes", "container": UID, "namespace", "pod", "name": of the container, "server", "ca", "token" or "certificate" and "key"}

The address has names of files, and no secret. The container runs and reads its input: what was sent stands in no file of a node. A
cluster that knows the newer protocol closes the input alone and says how it ended; an older one closes it with the connection,
and the length before the secret tells the container whether all of it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from spreadpilot_core.ibkr.credentials.courier.web_stream import WebStream

_CLOSES: Final = "v5.channel.k8s.io"
_OLDER: Final = "v4.channel.k8s.io"
_INPUT, _ERROR, _END = 0, 3, 255
_PIECE: Final = 16 * 1024


def send(target: Mapping[str, str], secret: bytes, timeout: float) -> None:
    """Ask for its standard input, then length and bytes, and the end of input."""
    pod = f"/api/v1/namespaces/{quote(target['namespace'], safe='')}/pods/{quote(target['pod'], safe='')}"
    query = urlencode({"container": target["name"], "stdin": "true", "stdout": "false", "stderr": "false"})
    with WebStream(target, f"{pod}/attach?{query}", (_CLOSES, _OLDER), timeout) as stream:
        content = b"%d\n" % len(secret) + secret
        for at in range(0, len(content), _PIECE):
            stream.send(bytes([_INPUT]) + content[at : at + _PIECE])
        if stream.protocol != _CLOSES:
            stream.close()
            while stream.receive() is not None:
                pass
            return
        stream.send(bytes([_END, _INPUT]))
        while (message := stream.receive()) is not None:
            if message[:1] == bytes([_ERROR]) and len(message) > 1:
                _must_be_success(message[1:])


def _must_be_success(said: bytes) -> None:
    status = json.loads(said)
    if not isinstance(status, dict) or status.get("status") != "Success":
        msg = f"the API server said {said[:500].decode('utf-8', 'replace')}"
        raise ConnectionError(msg)
