"""One healthy, logged-in Interactive Brokers Gateway per account, and a connected client for whoever asks.

A reconcile loop for each follower: desired state and observed state -> decision -> at most one action.

    gateway_manager.py  the public API and nothing else
    wiring.py           the composition root: settings -> adapters -> services
    settings.py         every setting
    settings_sources.py  where each setting's value comes from
    seams.py            the protocols that adapters fulfil, and nothing else
    errors.py           every error, with its sentence
    tasks.py            the one place that creates tasks, and retries
    telemetry.py        logs and spans
    state_dir.py        the state directory belongs to one manager at a time

    service/            the command and the doctor
    demo/               the whole product on one machine
    remote/             the manager of another process, and clients connected in this one
    http_api/           what a running manager answers on its Unix socket and at http_address
    supervision/        fleet, supervisor and their facts; actions/ what a supervisor can begin, one file each
    notifications/      messages to people, on the channels that they chose
    reporting/          what the outside is told: events, log lines, mappings, history, notices
    kubernetes/         gateways as pods of a cluster, followers as objects
    deciding/           pure: observation -> decision, one policy file per trouble
    api_client/         from an endpoint to a live client, and whether it still lives
    credentials/        the broker; courier/ the process that alone holds a password; sources/ where secrets come from
    instrumentation/    OpenTelemetry behind the seam: metrics, and how they leave the process
    runtimes/           where gateways run: docker/, simulated/, in_memory/
    store/              who should have a gateway, and what must survive the manager: local/, mongodb/, or memory
    controller_log/     what a controller prints and ends with, read into one view of the login
    access/             who may ask over the network: tokens, sessions, roles
    leadership/         which of several managers acts
    screens/            gateways' screens: signed in at their VNC servers, and the last picture of one that was given up
    audit/              the append-only trail, and the manager's lines in it
    model/              the data that crosses seams
    system/             files, sockets, terminals, the wall clock
    simulator/          an IB Gateway on a real socket; standard library only

`docs/architecture.md` follows a client, a launch and a crash through these files. A package imports only what stands below it;
the contract in `pyproject.toml` says in which order.

Names are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.gateway_manager import GatewayManager
    from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
    from spreadpilot_core.ibkr.model.states import GatewayStatus

__all__ = ["GatewayManager", "GatewaySnapshot", "GatewayStatus"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from spreadpilot_core.ibkr import gateway_manager  # noqa: PLC0415  # on first use

    return getattr(gateway_manager, name)
