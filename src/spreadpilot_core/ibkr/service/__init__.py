"""The program around the manager: the command `gateway-manager`.

    command  -> client.py -> Unix socket in state_dir -> http_api/ -> GatewayManager

It calls `GatewayManager`, and beside it only what needs no running manager: the followers file and the encrypted
credentials. It decides nothing: every sentence it prints was written where the fact is known.
"""

from __future__ import annotations
