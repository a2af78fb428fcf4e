"""The routes of the API, a module for each thing they are about."""

from __future__ import annotations

from spreadpilot_core.ibkr.http_api.routes import (
    clients,
    description,
    events,
    followers,
    gateways,
    history,
    manager,
    operations,
    pictures,
    session,
)

ROUTERS = (
    gateways.router,
    pictures.router,
    clients.router,
    operations.router,
    events.router,
    history.router,
    manager.router,
    followers.router,
    description.router,
    gateways.last,
)
"""In the order in which a request is compared with them."""
ADDRESS_ROUTERS = (session.router, *ROUTERS)
"""Those at `http_address`."""
