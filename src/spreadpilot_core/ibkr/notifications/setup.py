"""A manager's notifications by its settings."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.model.notify_urls import split_urls, urls_in_file
from spreadpilot_core.ibkr.notifications.channels import must_be_usable
from spreadpilot_core.ibkr.notifications.notifier import Notifier
from spreadpilot_core.ibkr.notifications.sending import ThreadedSender
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.system.home_paths import in_home
from spreadpilot_core.ibkr.system.regular_files import read_regular


def sender_name() -> str:
    """Who says it, at the end of every message."""
    return f"gateway-manager on {socket.gethostname()}"


def notifier(
    settings: Settings,
    *,
    bus: EventBus,
    notices: Notices,
    shared: SharedDocuments,
    may_act: Callable[[], bool],
    clock: Clock,
) -> Notifier:
    """Blocks. Raises `SettingsError` where a channel of the settings can't be used."""
    urls = fleet_urls(settings)
    must_be_usable(urls, setting_of(settings))
    return Notifier(
        settings,
        urls=urls,
        bus=bus,
        notices=notices,
        shared=shared,
        may_act=may_act,
        send=ThreadedSender(),
        sender_name=sender_name(),
        clock=clock,
    )


def setting_of(settings: Settings) -> str:
    """Which setting names the channels."""
    return "notify_urls_file" if settings.notify_urls is None and settings.notify_urls_file else "notify_urls"


def fleet_urls(settings: Settings) -> list[SecretStr]:
    """The addresses of the settings, then those of the file that they name. Blocks; raises `SettingsError`."""
    return [*split_urls(settings.notify_urls), *split_urls(_of_file(settings))]


def _of_file(settings: Settings) -> SecretStr | None:
    path = settings.notify_urls_file
    if path is None:
        return None
    allowed = "it must be a file with an address of a channel on each line"
    try:
        urls = urls_in_file(read_regular(in_home(path)).decode())
    except OSError as error:
        raise SettingsError("notify_urls_file", str(path), f"{allowed} ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise SettingsError("notify_urls_file", str(path), f"{allowed} (it is no UTF-8 text)") from None
    if urls is None:
        raise SettingsError("notify_urls_file", str(path), f"{allowed} (some line is none, or there is none)")
    return urls
