"""A command beside a running manager that keeps its followers elsewhere: what the command writes or reads would be nobody's."""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service.client import ControlClient
from spreadpilot_core.ibkr.settings import Settings


class OtherStoreError(GatewayManagerError):
    """The manager that runs here has its followers elsewhere."""

    def __init__(self, settings: Settings, theirs: str) -> None:
        super().__init__(
            f"The manager that runs on {settings.state_dir} has its followers in {theirs}, and this command's settings say"
            f" {settings.followers}.",
            hint="Give the command the manager's settings and environment; `gateway-manager settings show` says where each value of"
            " the command comes from.",
        )


def must_be_the_managers(settings: Settings) -> None:
    """Raise `OtherStoreError` where a manager runs that keeps its followers elsewhere; nothing where none answers."""
    try:
        with ControlClient(settings.state_dir) as client:
            theirs = str(client.manager()["followers"])
    except (GatewayManagerError, KeyError):  # none runs, or it says nothing of its followers
        return
    if _place(settings, theirs) != _place(settings, settings.followers):
        raise OtherStoreError(settings, theirs)


def _place(settings: Settings, url: str) -> str:
    """The same for two names of one local store."""
    there = settings.model_copy(update={"store_url": url})
    return str(there.local_store_dir.resolve()) if there.store_is_local else url
