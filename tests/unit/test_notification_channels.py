"""One try by a channel: real threads and sockets on loopback, nothing of an address in any log, one thread at a time."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.notifications import channels
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.outbox import Message
from spreadpilot_core.ibkr.notifications.sending import ThreadedSender
from spreadpilot_core.ibkr.settings import Settings
from support.made_up_events import at
from support.receivers import hanging, webhook

SECRET = "word-that-nobody-may-see"
MESSAGE = Message(channel="channel 1", at=at(0), severity=Severity.ERROR, title="anna needs somebody", body="Act.")


def test_nothing_that_the_libraries_log_is_let_through(caplog: pytest.LogCaptureFixture) -> None:
    """A program that logs everything sees no address and no message, whether it is sent or not."""
    caplog.set_level(logging.DEBUG)
    for name in ("apprise", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    with webhook(SECRET) as hook:
        assert channels.send(SecretStr(hook.url), "title", "body", "info") is None
        hook.status = 418
        assert channels.send(SecretStr(hook.url), "title", "body", "failure") == "It answered with status 418."
    refused = channels.send(SecretStr(hook.url), "title", "body", "warning")
    assert refused == "It can't be reached, or does not answer."
    assert (
        channels.send(SecretStr(f"nonsense://{SECRET}"), "t", "b", "info") == "Its address is none that apprise knows."
    )
    assert hook.messages == [("title", "body")]
    assert caplog.records == []


def test_what_others_log_by_the_same_libraries_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A program may use apprise for purposes of its own."""
    with webhook(SECRET) as hook:
        channels.send(SecretStr(hook.url), "title", "body", "success")
    logging.getLogger("apprise").warning("of the program's own")
    assert [each.getMessage() for each in caplog.records] == ["of the program's own"]


async def test_a_channel_that_hangs_has_one_thread_however_often_it_is_tried() -> None:
    """The first try is over after its time, the next ones at once, and the loop goes on meanwhile."""

    def threads() -> int:
        return sum(each.name == "notify by channel 1" for each in threading.enumerate())

    with hanging(SECRET) as url:
        send, channel = ThreadedSender(longest_try=0.2), Channel("channel 1", SecretStr(f"{url}?rto=2"))
        for _ in range(5):
            assert await send(channel, MESSAGE) == "It does not answer within 0.2 s."
            assert threads() <= 1
    async with asyncio.timeout(60):
        while threads():
            await asyncio.sleep(0.05)
    with webhook(SECRET) as hook:
        assert await ThreadedSender()(Channel("channel 2", SecretStr(hook.url)), MESSAGE) is None
        assert hook.messages == [("anna needs somebody", "Act.")]


def test_channels_are_a_text_or_a_list_and_are_never_shown() -> None:
    """As an argument either is taken; what is none is an error that shows nothing of it."""
    for urls in (f"json://a/{SECRET} json://b", [f"json://a/{SECRET}", "json://b"]):
        settings = Settings.read(notify_urls=urls)
        assert settings.notify_urls is not None
        assert len(settings.notify_urls.get_secret_value().split()) == 2
        assert SECRET not in repr(settings)
    for wrong in (SECRET, [SECRET], {"a": SECRET}, 7, ""):
        with pytest.raises(SettingsError) as refused:
            Settings.read(notify_urls=wrong)
        assert SECRET not in str(refused.value)
    for name in ("notify_url", "notification_urls", "notifyurls"):
        with pytest.raises(SettingsError) as unknown:
            Settings.read(**{name: f"tgram://{SECRET}"})
        assert SECRET not in str(unknown.value)
