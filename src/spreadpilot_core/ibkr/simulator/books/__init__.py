"""What lies behind the API: accounts, prices, orders and executions. They outlive every client and every server.

Pure bookkeeping: no socket, no message layout, no event loop.
"""

from __future__ import annotations
