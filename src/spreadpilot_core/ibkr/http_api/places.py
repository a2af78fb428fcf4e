"""Where a request comes from, as far as it matters for what its sender can reach."""

from __future__ import annotations

from ipaddress import ip_address

from starlette.requests import HTTPConnection

from spreadpilot_core.ibkr.model.client_leases import ClientPlace

_FORWARDED = ("forwarded", "x-forwarded-for")


def place_of(request: HTTPConnection) -> ClientPlace:
    """Over the Unix socket or loopback it is on this host; what a proxy hands on is not, whatever address it names."""
    if request.client is None or not request.client.host:  # a Unix socket has no address
        return ClientPlace(is_here=True)
    if any(name in request.headers for name in _FORWARDED):
        return ClientPlace(is_here=False)
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return ClientPlace(is_here=False)
    server = request.scope.get("server")  # who comes from the address that it asks is on this host too
    is_here = address.is_loopback or (server is not None and server[0] == request.client.host)
    return ClientPlace(is_here=is_here, address=str(address))
