"""One healthy, logged-in Interactive Brokers Gateway per account, and a connected client for whoever asks.

The way through the house:

    wanted   Follower -> Login (user, version) -> permit -> leases -> GatewaySpec -> created -> password delivered -> started
    seen     runtime events, log, probe, connection, heartbeat -> Observation -> decide -> Decision

    gateway_manager.py  the public API and nothing else
    opening.py          chooses the adapters by URL; house.py holds what all gateways share; state_dir.py owns the directory
    fleet.py            wanted against running: owns the supervisors, routes events
    supervisor.py       one per follower, walks the cycle; presence.py, open_login.py, action_slot.py, requests.py are its parts
    actions.py          what a supervisor can begin
    deciding/           pure: observation, decision, one file per trouble
    admission.py        permits; ledger.py the way to the record store; leases.py ports and client ids
    auditing.py         the manager's lines in the trail of audit.py
    reporting.py        snapshots, mappings, history; telling.py events and log lines
    store/ credentials/ runtimes/   the adapters behind protocols.py
    login_log.py        log lines -> login phase; exit_codes.py
    connections.py      endpoint -> live client: handshake.py probes, live_connection.py watches
    service/            the command and the control socket
    simulator/          an IB Gateway on a real socket; standard library only

Names are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.gateway_manager import GatewayManager, GatewaySnapshot, GatewayStatus

__all__ = ["GatewayManager", "GatewaySnapshot", "GatewayStatus"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from spreadpilot_core.ibkr import gateway_manager  # noqa: PLC0415  # on first use

    return getattr(gateway_manager, name)
