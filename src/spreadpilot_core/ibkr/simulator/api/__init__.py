"""The API server's insides: bytes on the wire, one session per client, one handler per request.

It asks the books (`simulator.books`) and knows nothing of logins, controllers or the gateway's life.
"""

from __future__ import annotations
