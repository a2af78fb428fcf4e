"""What a manager starts beside itself, by its settings: a web framework is loaded when it is needed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from spreadpilot_core.ibkr.http_api.leader import Leader
from spreadpilot_core.ibkr.http_api.on_demand import OnDemand, Part
from spreadpilot_core.ibkr.http_api.served_manager import ProbedManager
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.tasks import Tell, untold

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.http_api.gates import Auditing
    from spreadpilot_core.ibkr.http_api.probes import Exposed


def parts(
    manager: ProbedManager,
    *,
    detach: Callable[[], None],
    exposition: Exposed | None,
    shared: SharedDocuments,
    auditor: Auditing,
    tell: Tell = untold,
) -> Sequence[Part]:
    """Those that the settings ask for, none started; they are closed in the other order. Call it off the event loop.

    Raises:
        SettingsError: the certificate can't be used.
    """
    settings = manager.settings
    if settings.http_address is None and exposition is None:
        if not settings.control_socket:
            return ()
        leader = Leader(shared, settings, lambda: manager.is_leader)

        def make(listening: socket.socket) -> Sequence[Part]:
            from spreadpilot_core.ibkr.http_api.serving import control_parts  # noqa: PLC0415

            return control_parts(manager, listening, detach=detach, leader=leader, auditor=auditor)

        return leader, OnDemand(settings.state_dir, make, tell=tell)
    from spreadpilot_core.ibkr.http_api.serving import all_parts  # noqa: PLC0415

    return all_parts(manager, detach=detach, exposition=exposition, shared=shared, auditor=auditor, tell=tell)
