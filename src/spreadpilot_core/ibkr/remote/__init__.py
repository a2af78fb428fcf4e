"""A running manager from another process: its methods, and its gateways' clients connected here.

from spreadpilot_core.ibkr import remote

ib = remote.connect("alice")                       # blocks; a script or, after util.startLoop(), a notebook

async with remote.RemoteGatewayManager() as gateway_manager:
    ib = await gateway_manager.get_client("alice")

What connects clients is imported when it is first used: the commands need the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from spreadpilot_core.ibkr.remote.transport import ManagerAwayError, UntrustedManagerError

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.model.followers import TradingMode
    from spreadpilot_core.ibkr.remote.manager import RemoteGatewayManager

__all__ = ["ManagerAwayError", "RemoteGatewayManager", "UntrustedManagerError", "connect"]

_MANAGERS: dict[tuple[object, ...], RemoteGatewayManager] = {}
"""Those that `connect` made in this program."""


def __getattr__(name: str) -> Any:
    if name != "RemoteGatewayManager":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from spreadpilot_core.ibkr.remote import manager  # noqa: PLC0415  # on first use

    return manager.RemoteGatewayManager


def connect(
    follower_id: str,
    timeout: float | None = None,
    *,
    require: TradingMode | Literal["paper", "live"] | None = None,
    url: str | None = None,
    token: str | None = None,
    name: str | None = None,
    ib_factory: Callable[[], Any] | None = None,
) -> Any:
    """A connected client of the follower's gateway, for a program without `async`: see `RemoteGatewayManager.connect`.

    Call it again whenever the client is not connected any more. Its id is given back when the program ends.
    """
    from spreadpilot_core.ibkr.remote.manager import RemoteGatewayManager  # noqa: PLC0415  # on first use

    key = (url, token, name, ib_factory)
    if key not in _MANAGERS:
        _MANAGERS[key] = RemoteGatewayManager(url, token, name=name, ib_factory=ib_factory)
    return _MANAGERS[key].connect(follower_id, timeout, require=require)
