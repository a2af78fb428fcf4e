"""`EncryptedCredentials`: the embedded store of logins, one file in the state directory, sealed entry by entry.

    credentials.json    mode 0600, as `sealed_file` has it
    credentials.key     mode 0600, made with the first entry, unless a passphrase file is set
    credentials.lock    held while something is changed, by whichever process

Reference, user, version and date of an entry are readable without the key and bound to its password: none can be changed
or moved to another entry. The checksum tells a damaged file from a wrong key. Every change writes the file anew and
renames it into place, so that a crash loses nothing; two writers wait for each other.

Used by the courier and by the `credentials` commands; nothing of it may be imported into the manager's process. It
audits nothing: whoever calls it does.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spreadpilot_core.ibkr.credentials.courier.encoding import UntypableError, check
from spreadpilot_core.ibkr.credentials.sources.encrypted import sealed_file
from spreadpilot_core.ibkr.credentials.sources.encrypted.keys import KeyFile, KeySource, Passphrase
from spreadpilot_core.ibkr.credentials.sources.encrypted.sealed_file import (
    FORMAT,
    Body,
    DamagedError,
    Origin,
    StoredEntry,
    bound,
    checksum,
    decoded,
    encoded,
    entry_of,
    listed,
)
from spreadpilot_core.ibkr.credentials.sources.encrypted.sealing import SealBrokenError, Sealer
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError, CredentialsUnavailableError
from spreadpilot_core.ibkr.model.secret_refs import DEFAULT_MOUNT, canonical_ref
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import STORE_FILE, make_private_directory, write_whole

FILE_NAME = STORE_FILE
KEY_FILE_NAME = "credentials.key"
_CHECK = b"stored credentials of the gateway manager"
_SETTINGS = "See GATEWAY_MANAGER_CREDENTIALS_KEY_FILE and GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE."
_LONGEST_NUMBER = 16
_LOCK_PATIENCE = 10.0
"""Seconds to wait for another writer, who needs milliseconds."""

Say = Callable[[str], None]


class EncryptedCredentials:
    """The stored logins; fulfils `CredentialSource`. Safe to use from threads and processes at once."""

    def __init__(self, directory: Path, key: KeySource, *, mount: str = DEFAULT_MOUNT, say: Say | None = None) -> None:
        self.path = directory / FILE_NAME
        self._key = key
        self._mount = mount
        self._say: Say = say or (lambda _: None)
        self._lock = threading.Lock()
        self._parsed: tuple[tuple[int, ...], Body] | None = None
        """The body that was read last, and what told that the file is still the same; nobody changes it."""

    @classmethod
    def at(
        cls,
        state_dir: Path,
        *,
        key_file: Path | None = None,
        passphrase_file: Path | None = None,
        mount: str = DEFAULT_MOUNT,
        say: Say | None = None,
    ) -> EncryptedCredentials:
        """The store of a state directory, with the key that the settings name. `say` is told once that a key was made."""
        key: KeySource = (
            Passphrase(passphrase_file) if passphrase_file else KeyFile(key_file or state_dir / KEY_FILE_NAME)
        )
        return cls(state_dir, key, mount=mount, say=say)

    # ------------------------------------------------------------------ reading

    def list(self) -> tuple[StoredEntry, ...]:
        """Every entry by reference; needs no key.

        Raises:
            CredentialStoreError: the file is damaged.
        """
        body = self._load()
        return tuple(listed(ref, body["entries"][ref]) for ref in sorted(body["entries"])) if body else ()

    def version(self, ref: str) -> SecretVersion:
        """The entry's version; needs no key.

        Raises:
            CredentialsRefusedError: there is no such entry.
            CredentialStoreError: the file is damaged.
        """
        return _version(self._find(self._known(), ref))

    def read(self, ref: str) -> Credentials:
        """The entry with its password.

        Raises:
            CredentialsRefusedError: there is no such entry.
            CredentialStoreError: the file is damaged, or the key is not the one that sealed it.
        """
        try:
            return self._read(ref)
        except CredentialStoreError:  # perhaps read while another process changed key and store
            with self._exclusive():
                return self._read(ref)

    @property
    def renew_within(self) -> float | None:
        """A file needs nothing kept alive."""
        return None

    def close(self) -> None:
        """Nothing is kept open."""

    # ------------------------------------------------------------------ changing

    def set(self, ref: str, user: str, password: str) -> SecretVersion:
        """Store a login under `ref`; a new version each time.

        Raises:
            CredentialsRefusedError: the reference, user name or password can't be used.
            CredentialStoreError: the store can't be opened.
            CredentialsUnavailableError: it can't be written now.
        """
        return self._store({canonical_ref(ref, mount=self._mount): (user, password)})[0]

    def add(self, logins: Mapping[str, tuple[str, str]]) -> Sequence[SecretVersion]:
        """Store several logins (user and password by reference) whose references are free, all in one write.

        Raises:
            CredentialsRefusedError: a reference is taken, or can't be used, or a user name or password can't; nothing is stored.
            CredentialStoreError: the store can't be opened.
            CredentialsUnavailableError: it can't be written now.
        """
        paths = {canonical_ref(ref, mount=self._mount): login for ref, login in logins.items()}
        return self._store(paths, are_new=True)

    def remember(self, found: Mapping[str, Credentials]) -> None:
        """Keep what Vault gave, by reference, all in one write; what is there already in that version is left alone.

        Raises:
            CredentialStoreError: the store can't be opened.
            CredentialsUnavailableError: it can't be written now.
        """
        with self._changing() as body:
            sealer = self._sealer(body)
            for ref, credentials in found.items():
                entry = _remembered(canonical_ref(ref, mount=self._mount), credentials)
                if _content(listed(entry.ref, body["entries"].get(entry.ref))) != _content(entry):
                    _put(body, entry, sealer, credentials.password)

    def remove(self, ref: str, *, only: Origin | None = None) -> bool:
        """Remove the entry, or only when it has this origin; whether there was one. Needs no key.

        Raises:
            CredentialStoreError: the file is damaged.
            CredentialsUnavailableError: it can't be written now.
        """
        path = canonical_ref(ref, mount=self._mount)
        if not self.path.exists():
            return False
        with self._changing() as body:
            present = body["entries"].get(path)
            if present is None or (only is not None and listed(path, present).origin != only):
                return False
            del body["entries"][path]
        return True

    def rotate_key(self, new: Passphrase | None = None) -> None:
        """Seal everything anew: under a new key in the same key file, or under another passphrase.

        A crash at any moment leaves a store that opens. After a change to another passphrase the setting
        `credentials_passphrase_file` must name its file.

        Raises:
            CredentialStoreError: the store can't be opened with the present key.
            CredentialsUnavailableError: it can't be written now.
        """
        with self._changing() as body:
            passwords = {ref: self._reveal(body, ref) for ref in body["entries"]}
            key = new or self._key
            header = key.new_header()
            sealer = Sealer(key.make_next() if isinstance(key, KeyFile) else key.keys(header)[0])
            body["header"], body["check"] = dict(header), encoded(sealer.seal(_CHECK, bound(header)))
            for ref, password in passwords.items():
                entry = body["entries"][ref]
                entry["sealed"] = encoded(sealer.seal(password.encode(), bound(asdict(entry_of(ref, entry)))))
        self._key = key
        if isinstance(key, KeyFile):
            with self._exclusive():
                key.settle(adopt=True)

    def mark(self, credentials: tuple[str, str, str]) -> str:
        """A name for this content (reference, user, password), where a source keeps no versions of its own.

        Raises:
            CredentialStoreError: the store can't be opened.
            CredentialsUnavailableError: it can't be written now.
        """
        body = self._load()
        if body is None:
            with self._changing() as body:
                pass
        return self._sealer(body).mark(bound(credentials))

    # ------------------------------------------------------------------ inside

    def _store(self, logins: Mapping[str, tuple[str, str]], *, are_new: bool = False) -> Sequence[SecretVersion]:
        for user, password in logins.values():
            for what, value in (("user name", user), ("password", password)):
                _check(what, value)
        versions = []
        with self._changing() as body:
            if are_new and (taken := sorted(logins.keys() & body["entries"].keys())):
                msg = f"There are credentials {taken[0]} in {self.path} already."
                raise CredentialsRefusedError(msg, hint="Nothing was stored.")
            sealer = self._sealer(body)
            for path, (user, password) in logins.items():
                entry = StoredEntry(
                    ref=path, user=user, version=_next_version(body, path), written_at=_now(), origin="operator"
                )
                _put(body, entry, sealer, password)
                versions.append(_version(entry))
        return versions

    def _read(self, ref: str) -> Credentials:
        body = self._known()
        entry = self._find(body, ref)
        assert body is not None  # an entry was found in it
        password = self._reveal(body, entry.ref)
        return Credentials(user=entry.user, password=password, version=_version(entry), source="stored")

    def _known(self) -> Body | None:
        """To be read only: parsed once for each state of the file, so that a secret costs the same among few and many."""
        try:
            there = self.path.stat()
        except OSError:
            return self._load()
        state = (there.st_ino, there.st_mtime_ns, there.st_ctime_ns, there.st_size)
        parsed = self._parsed
        if parsed is None or parsed[0] != state:
            body = self._load()
            if body is None:
                return None
            parsed = self._parsed = (state, body)
        return parsed[1]

    def _load(self) -> Body | None:
        try:
            return sealed_file.parse(read_regular(self.path, longest=sealed_file.LONGEST_FILE))
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"The stored credentials, {self.path}, can't be read ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None
        except DamagedError as damaged:
            raise self._damaged(str(damaged)) from None

    @contextmanager
    def _changing(self) -> Iterator[Body]:
        """The body to change; written when the block ends well and changed something."""
        with self._exclusive():
            body = self._load()
            before = body and checksum(body)
            if body is None:
                body = self._new_body()
            elif isinstance(self._key, KeyFile) and self._key.has_next():
                self._key.settle(adopt=self._sealer(body).key != self._key.keys(body["header"])[0])
            yield body
            if checksum(body) != before:
                write_whole(self.path, sealed_file.written(body))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Nobody else changes the store meanwhile, neither another thread nor another process."""
        try:
            make_private_directory(self.path.parent)
            with self._lock, FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_PATIENCE, mode=0o600):
                yield
        except Timeout:
            msg = f"Another program has been changing {self.path} for {_LOCK_PATIENCE:.0f} s."
            raise CredentialsUnavailableError(msg) from None
        except OSError as error:
            msg = f"The stored credentials, {self.path}, can't be written ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None

    def _new_body(self) -> Body:
        if said := self._key.make():
            self._say(said)
        header = self._key.new_header()
        check = Sealer(self._key.keys(header)[0]).seal(_CHECK, bound(header))
        return {"format": FORMAT, "header": dict(header), "check": encoded(check), "entries": {}}

    def _sealer(self, body: Mapping[str, Any]) -> Sealer:
        """With the key that sealed this store, be it the one of a change of keys that a crash cut short."""
        kind = body["header"].get("kind")
        if kind != self._key.kind:
            msg = f"The stored credentials were sealed with a {kind}, not with a {self._key.kind}."
            raise CredentialStoreError(msg, hint=_SETTINGS)
        for key in self._key.keys(body["header"]):
            sealer = Sealer(key)
            try:
                sealer.open(decoded(body["check"]), bound(body["header"]))
            except SealBrokenError:
                continue
            return sealer
        msg = f"The key is not the one that sealed {self.path}."
        raise CredentialStoreError(msg, hint=f"Use the {kind} it was sealed with, or remove the file and set all anew.")

    def _find(self, body: Mapping[str, Any] | None, ref: str) -> StoredEntry:
        path = canonical_ref(ref, mount=self._mount)
        if body is None or path not in body["entries"]:
            msg = f"There are no stored credentials for {path}."
            raise CredentialsRefusedError(
                msg, hint=f"`gateway-manager credentials set {path} --username USER` stores them."
            )
        return self._entry_of(path, body["entries"][path])

    def _reveal(self, body: Mapping[str, Any], ref: str) -> str:
        entry = body["entries"][ref]
        return self._open(self._sealer(body), self._entry_of(ref, entry), entry["sealed"])

    def _entry_of(self, ref: str, stored: object) -> StoredEntry:
        try:
            return entry_of(ref, stored)
        except DamagedError as damaged:
            raise self._damaged(str(damaged)) from None

    def _open(self, sealer: Sealer, entry: StoredEntry, sealed: str) -> str:
        try:
            return sealer.open(decoded(sealed), bound(asdict(entry))).decode()
        except (SealBrokenError, UnicodeDecodeError):
            raise self._damaged(f"the entry {entry.ref} was altered") from None

    def _damaged(self, how: str) -> CredentialStoreError:
        return CredentialStoreError(
            f"The stored credentials, {self.path}, are damaged: {how}.",
            hint="Put the file back from your backup, or remove it and set the credentials anew.",
        )


def _check(what: str, value: str) -> None:
    try:
        check(value)
    except UntypableError as error:
        msg = f"The {what} {error}."
        raise CredentialsRefusedError(msg) from None


def _put(body: Body, entry: StoredEntry, sealer: Sealer, password: str) -> None:
    sealed = sealer.seal(password.encode(), bound(asdict(entry)))
    fields = {name: value for name, value in asdict(entry).items() if name != "ref"}
    body["entries"][entry.ref] = {**fields, "sealed": encoded(sealed)}


def _version(entry: StoredEntry) -> SecretVersion:
    return SecretVersion(entry.version, datetime.fromisoformat(entry.written_at))


def _remembered(path: str, credentials: Credentials) -> StoredEntry:
    written_at = credentials.version.written_at
    return StoredEntry(
        ref=path,
        user=credentials.user,
        version=credentials.version.version,
        written_at=written_at.isoformat() if written_at else _now(),
        origin="vault",
    )


def _content(entry: StoredEntry) -> tuple[str, ...]:
    return entry.user, entry.version, entry.origin


def _next_version(body: Body, path: str) -> str:
    before = listed(path, body["entries"].get(path)).version.partition("-")[0]
    number = int(before) + 1 if before.isdecimal() and len(before) < _LONGEST_NUMBER else 1
    return f"{number}-{secrets.token_hex(4)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
