"""Where a request comes from, and where it believes to be."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

_LONGEST = 64


def peer_of(connection: HTTPConnection, *, behind_proxy: bool) -> str:
    """Where a request comes from, as `network_of` has it; behind a proxy where the proxy saw it come from."""
    host = connection.client.host if connection.client is not None else ""
    if behind_proxy and (forwarded := connection.headers.getlist("x-forwarded-for")):
        host = forwarded[-1].rpartition(",")[2].strip()  # the proxy's own word is the last one
    return network_of(host)


def network_of(host: str) -> str:
    """What one customer has: an address of IPv4, or the network of 64 bits that an address of IPv6 lies in."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "".join(filter(str.isprintable, host))[:_LONGEST] or "somewhere"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def own_origin(connection: HTTPConnection, *, scheme: str) -> str:
    """What a browser calls the pages of this address; the host was found to be one of ours before."""
    return f"{scheme}://{connection.headers.get('host', '')}"


def is_ip_address(host: str) -> bool:
    """Whether this host of a header is a number and no name: nobody can have a name point to us by it."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def host_name(header: str) -> str:
    """The host of a `Host` header without its port, in small letters."""
    host, colon, port = header.rpartition(":")
    named = host if colon and port.isdecimal() else header
    return named.lower().removesuffix(".")
