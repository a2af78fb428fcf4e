"""Addresses of channels and one try to send by them: the only module that knows apprise, which blocks and so runs in threads.

What apprise and its HTTP library log holds addresses with their secrets; nothing of it leaves a thread of ours. Of why a try
failed, only what can hold no secret is told.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.system.wording import HIDDEN, not_installed

_TALKATIVE = ("apprise", "urllib3", "urllib3.connectionpool", "urllib3.util.retry", "requests", "requests_oauthlib")
_STATUS = re.compile(r"error=(\d{3})\b")
_here = threading.local()


class _Hush(logging.Filter):
    """Keeps what is logged in a thread of ours, and lets nothing of it through."""

    def filter(self, record: logging.LogRecord) -> bool:
        heard: list[str] | None = getattr(_here, "heard", None)
        if heard is None:
            return True
        if record.levelno >= logging.WARNING:
            heard.append(record.getMessage())
        return False


_HUSH = _Hush()


@contextmanager
def _hushed() -> Iterator[list[str]]:
    """A block in which these libraries log to nobody; what they would have warned of is collected."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_HUSH)  # once: the same filter again changes nothing
    _here.heard = []
    try:
        yield _here.heard
    finally:
        _here.heard = None


def must_be_there(setting: str) -> None:
    """Raises `SettingsError` where apprise is not installed. Blocks."""
    try:
        _apprise()
    except ImportError as error:
        raise SettingsError(setting, HIDDEN, not_installed(error)) from None


def must_be_usable(urls: Sequence[SecretStr], setting: str) -> None:
    """Check that apprise is there and knows these addresses; blocks. Raises `SettingsError`, which names no address."""
    if urls:
        must_be_there(setting)
    for place, url in enumerate(urls, 1):
        if kind_of(url) is None:
            raise SettingsError(setting, HIDDEN, f"its address {place} is none that apprise knows ({_scheme(url)}://…)")


def kind_of(url: SecretStr) -> str | None:
    """What it is, such as "Telegram"; None: nothing that apprise knows. Blocks; raises `ImportError` without apprise."""
    with _hushed():
        found = _apprise().Apprise.instantiate(url.get_secret_value())
    return str(getattr(found, "service_name", None) or _scheme(url)) if found is not None else None


def send(url: SecretStr, title: str, body: str, level: str) -> str | None:
    """Send one message; blocks. Why it failed, as a sentence; None: it was sent.

    `level` is apprise's word: "info", "success", "warning" or "failure".
    """
    try:
        with _hushed() as heard:
            library = _apprise()
            channel = library.Apprise.instantiate(url.get_secret_value())
            if channel is None:
                return "Its address is none that apprise knows."
            kind = getattr(library.NotifyType, level.upper())
            done = channel.notify(title=title, body=body, notify_type=kind, body_format="text")
            return None if done else _why(heard)
    except ImportError as error:
        return f"It can't be used: {not_installed(error)}."
    except Exception as error:  # noqa: BLE001  # of a plugin of apprise; its text may hold anything
        return f"{type(error).__name__} inside apprise."


def _why(heard: list[str]) -> str:
    """What the warnings say, without their words."""
    text = " ".join(heard)
    if (status := _STATUS.search(text)) is not None:
        return f"It answered with status {status[1]}."
    if "onnection" in text or "imed out" in text:
        return "It can't be reached, or does not answer."
    return "It did not take the message."


def _scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0]


@cache
def _apprise() -> Any:
    return importlib.import_module("apprise")
