"""The certificate of `http_address`: read at the start, and again when its files have changed, without a restart."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

CHECK_EVERY = 5.0
"""Seconds between two comparisons of the files' status: a renewal takes months, and nobody waits for it."""
_RENEWING = "http_cert_file"


class Certificate:
    """A TLS context whose certificate is that of the files."""

    def __init__(self, cert_file: Path, key_file: Path, *, tell: Tell = untold) -> None:
        """Raises `SettingsError` where the files are no certificate and its key."""
        self._files = (cert_file, key_file)
        self._tell = tell
        self._tasks = Tasks("certificate")
        self._status = self._status_now()
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(*self._files, password=_no_passphrase)
        except (OSError, ValueError) as error:  # `ssl.SSLError` is one
            why = getattr(error, "strerror", None) or str(error)
            allowed = f"it and http_key_file must be a certificate chain and its key without a passphrase (PEM): {why}"
            raise SettingsError("http_cert_file", str(self._files[0]), allowed) from None
        return context

    def _status_now(self) -> tuple[object, ...]:
        return tuple(_status(each) for each in self._files)

    def begin(self) -> None:
        """Compare now and then."""
        self._tasks.begin("renew", keep_running("read a renewed certificate", self._renew, tell=self._tell))

    async def close(self) -> None:
        """Compare no more."""
        await self._tasks.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await asyncio.to_thread(self._read_again)

    def _read_again(self) -> None:
        """Where the files have changed; connections that stand keep what they have. Both must fit: one may be written first."""
        status = self._status_now()
        if status == self._status:
            return
        try:
            self._load()  # tries them apart, so that what is in use stays whole
            self.context.load_cert_chain(*self._files, password=_no_passphrase)
        except SettingsError as error:
            self._tell(_RENEWING, f"The renewed certificate can't be used, the one before stays: {error}")
            return
        self._status = status
        self._tell(_RENEWING, None)
        log.info("certificate read again", file=str(self._files[0]))


def _no_passphrase() -> str:
    """Instead of asking on the terminal of a service."""
    return ""


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()  # of what a link leads to: certbot changes the link
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
