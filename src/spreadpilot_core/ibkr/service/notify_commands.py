"""`notify test`: one message by each channel, all at once, and which failed and why; no address is ever shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.notifications import channels
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.audience import channels as channels_of
from spreadpilot_core.ibkr.notifications.sending import LONGEST_TRY
from spreadpilot_core.ibkr.notifications.setup import fleet_urls, sender_name, setting_of
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.registry import read_roster

TITLE = "A test of the gateway manager"
BODY = "Nothing is wrong: somebody ran `gateway-manager notify test`."


class NoChannelError(GatewayManagerError):
    """There is nobody to tell."""

    def __init__(self) -> None:
        super().__init__(
            "There is no channel.", hint="Set notify_urls or notify_urls_file, or notify_urls in a follower's record."
        )


@dataclass(slots=True)
class _Try:
    channel: Channel
    kind: str | None = None
    error: str | None = f"It does not answer within {LONGEST_TRY:g} s."


def test(*, as_json: bool) -> tuple[int, int]:
    """Try every channel and print how that went; how many failed, and how many there are."""
    settings = Settings.read()
    urls = fleet_urls(settings)
    roster = asyncio.run(read_roster(settings))
    tries = [_Try(each) for each in channels_of(urls, roster.usable.values())]
    if not tries:
        raise NoChannelError
    channels.must_be_there(setting_of(settings))
    _carry_out(tries)
    rows = [{"channel": each.channel.name, "kind": each.kind, "error": each.error} for each in tries]
    if as_json:
        tables.print_json(rows)
    else:
        cells = [[row["channel"], row["kind"], row["error"] or "sent"] for row in rows]
        tables.console().print(tables.table(["CHANNEL", "KIND", "RESULT"], cells))
    return sum(each.error is not None for each in tries), len(tries)


def _carry_out(tries: Sequence[_Try]) -> None:
    """Each in a thread of its own, for which nobody waits longer than a try may last."""
    body = f"{BODY}\n({sender_name()})"

    def work(each: _Try) -> None:
        each.kind = channels.kind_of(each.channel.url)
        each.error = channels.send(each.channel.url, TITLE, body, "info")

    threads = [threading.Thread(target=work, args=[each], daemon=True) for each in tries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_TRY)
