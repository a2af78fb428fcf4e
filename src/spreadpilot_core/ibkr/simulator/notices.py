"""The notices about connections that a gateway sends to all its API clients, with their texts. Data and one function."""

from __future__ import annotations

from collections.abc import Mapping

from spreadpilot_core.ibkr.simulator.api_server import ApiServer

TEXTS: Mapping[int, str] = {
    1100: "Connectivity between IBKR and Trader Workstation has been lost.",
    1101: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IBKR and Trader Workstation has been restored - data maintained. "
    "All data farms are connected: usfarm; ushmds; secdefil.",
    1300: "TWS socket port has been reset and this connection is being dropped.",
    2103: "Market data farm connection is broken:usfarm",
    2104: "Market data farm connection is OK:usfarm",
    2105: "HMDS data farm connection is broken:ushmds",
    2106: "HMDS data farm connection is OK:ushmds",
    2107: "HMDS data farm connection is inactive but should be available upon demand.ushmds",
    2108: "Market data farm connection is inactive but should be available upon demand.usfarm",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
    2119: "Market data farm is connecting:usfarm",
    2157: "Sec-def data farm connection is broken:secdefil",
    2158: "Sec-def data farm connection is OK:secdefil",
}


def send(api: ApiServer, code: int, text: str | None = None) -> None:
    """Tell every API client. Raises `ValueError` when the code brings no text and none is given."""
    if text is None and code not in TEXTS:
        raise ValueError(f"notice {code} needs a text; known without are {', '.join(map(str, TEXTS))}")
    api.broadcast(code, TEXTS[code] if text is None else text)
