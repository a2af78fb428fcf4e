"""Vault, and the encrypted store for the day Vault is away.

What Vault gave is remembered, after the answer and in one write for a whole burst. The store steps in only while Vault
is unavailable; a confirmed no is never answered from it and revokes what was remembered. An operator's own entry is no
memory: it is never revoked, and steps in even where remembering is forbidden.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from spreadpilot_core.ibkr.credentials.courier.held_secrets import Trail
from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError
from spreadpilot_core.ibkr.credentials.sources.encrypted.sealed_file import StoredEntry
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import (
    Credentials,
    CredentialSource,
    SecretGoneError,
    SecretVersion,
)
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialsUnavailableError, GatewayManagerError
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref

_GATHERED = 0.3
"""Seconds that a memory waits for others of its burst, so that all are one write, beside nobody's read."""


class RememberingCredentials:
    """Fulfils `CredentialSource` by one that may be away and a store that stands in for it."""

    def __init__(
        self,
        vault: CredentialSource,
        store: EncryptedCredentials,
        *,
        remember: bool,
        trail: Trail,
        who: str,
        say: Callable[[str], None],
        mount: str,
    ) -> None:
        self._vault = vault
        self._store = store
        self._remembers = remember
        self._trail = trail
        self._who = who
        self._say = say
        self._mount = mount
        self._writer = ThreadPoolExecutor(1, "remember")
        self._waiting: dict[str, Credentials] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def renew_within(self) -> float | None:
        """As Vault says."""
        return self._vault.renew_within

    def read(self, ref: str) -> Credentials:
        """Vault's answer, or while Vault is unavailable the stored one.

        Raises:
            CredentialsUnavailableError: Vault is away, and nothing stored can be used.
            CredentialsRefusedError: Vault said no.
        """
        path = canonical_ref(ref, mount=self._mount)
        try:
            found = self._vault.read(path)
        except AwayError as away:  # and nothing else: what was asked and answered otherwise is an answer
            return self._stored(path, away)
        except SecretGoneError:
            self._after_writes(lambda: self._revoke(path))
            raise
        self._remember(path, found)
        return found

    def version(self, ref: str) -> SecretVersion:
        """Vault's newest version; a confirmed no revokes here too.

        Raises:
            CredentialsUnavailableError: Vault is away.
            CredentialsRefusedError: Vault said no.
        """
        path = canonical_ref(ref, mount=self._mount)
        try:
            return self._vault.version(path)
        except SecretGoneError:
            self._after_writes(lambda: self._revoke(path))
            raise

    def close(self) -> None:
        """Finish what is to be remembered, and close Vault."""
        self._closing.set()
        self._writer.shutdown(wait=True)
        self._vault.close()

    # ------------------------------------------------------------------ the stand-in

    def _stored(self, path: str, away: AwayError) -> Credentials:
        """What is stored, as a fallback.

        Raises:
            CredentialsUnavailableError: both facts, since Vault may come back.
        """
        self._after_writes(lambda: None)
        try:
            if not self._remembers and self._origin(path) == "vault":
                msg = "Remembering is forbidden (remember_credentials), so nothing stored is used."
                raise CredentialsRefusedError(msg)  # noqa: TRY301  # as when there is nothing
            found = self._store.read(path)
        except (CredentialsRefusedError, CredentialsUnavailableError) as error:
            raise CredentialsUnavailableError(f"{away.what} {error.what}", hint=away.hint) from None
        date = f" of {found.version.written_at:%Y-%m-%d}" if found.version.written_at else ""
        notice = f"{away.what} Using stored credentials{date}, version {found.version.shown}."
        return replace(found, notice=notice, is_fallback=True)

    # ------------------------------------------------------------------ the memory

    def _remember(self, path: str, found: Credentials) -> None:
        """Have it written after the answer; where remembering is forbidden, have an older memory removed."""
        if not self._remembers:
            self._writer.submit(self._safely, lambda: self._revoke(path))
            return
        with self._lock:
            first = not self._waiting
            self._waiting[path] = found
        if first:  # the others of the burst go along
            self._writer.submit(self._safely, self._write_waiting)

    def _write_waiting(self) -> None:
        self._closing.wait(_GATHERED)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        known = {entry.ref: entry for entry in self._store.list()}
        new = {path: found for path, found in waiting.items() if not _is_known(known.get(path), found)}
        if not new:
            return
        if not any(entry.origin == "vault" for entry in known.values()):
            self._say(
                f"Credentials that Vault gives are remembered, encrypted, in {self._store.path} for the day Vault is "
                "away; remember_credentials=false forbids it."
            )
        self._store.remember(new)
        for path, found in new.items():
            self._note("remember", path, found.version.version)

    def _revoke(self, path: str) -> None:
        if self._store.remove(path, only="vault"):
            self._note("revoke", path, None)

    def _origin(self, path: str) -> str | None:
        return next((entry.origin for entry in self._store.list() if entry.ref == path), None)

    def _after_writes(self, work: Callable[[], None]) -> None:
        """Do it after everything that waits to be written, and wait for it."""
        done: Future[None] = self._writer.submit(self._safely, work)
        done.result()

    def _safely(self, work: Callable[[], None]) -> None:
        """The memory is a help and no duty: its trouble is told, and keeps nobody from Vault's answer."""
        try:
            work()
        except GatewayManagerError as error:
            self._say(f"What Vault said could not be put into the stored credentials: {error.what}")

    def _note(self, act: str, path: str, version: str | None) -> None:
        self._trail.append(act, who=self._who, ref=path, version=version, source="vault")


def _is_known(entry: StoredEntry | None, found: Credentials) -> bool:
    known = entry and (entry.origin, entry.user, entry.version)
    return known == ("vault", found.user, found.version.version)
