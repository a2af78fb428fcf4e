"""`EncryptedCredentials`: the embedded store of logins, one file in the state directory, sealed entry by entry.

    credentials.json    mode 0600: {"body": {format, header, check, entries}, "sha256": checksum of the body}
    credentials.key     mode 0600, made with the first entry, unless a passphrase file is set
    credentials.lock    held while something is changed, by whichever process

Reference, user, version and date of an entry are readable without the key and bound to its password: none can be changed
or moved to another entry. The checksum tells a damaged file from a wrong key. Every change writes the file anew and
renames it into place, so that a crash loses nothing; two writers wait for each other.

Used by the courier and by the `credentials` commands; nothing of it may be imported into the manager's process. It
audits nothing: whoever calls it does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from spreadpilot_core.ibkr.credentials.encoding import UntypableError, check
from spreadpilot_core.ibkr.credentials.files import make_private_directory, write_whole
from spreadpilot_core.ibkr.credentials.keys import KeyFile, KeySource, Passphrase
from spreadpilot_core.ibkr.credentials.refs import DEFAULT_MOUNT, canonical_ref
from spreadpilot_core.ibkr.credentials.sealing import SealBrokenError, Sealer
from spreadpilot_core.ibkr.credentials.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.errors import CredentialsRefusedError, CredentialStoreError, CredentialsUnavailableError

FILE_NAME = "credentials.json"
KEY_FILE_NAME = "credentials.key"
_FORMAT = 1
_CHECK = b"stored credentials of the gateway manager"
_SETTINGS = "See GATEWAY_MANAGER_CREDENTIALS_KEY_FILE and GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE."
_LOCK_PATIENCE = 10.0
"""Seconds to wait for another writer, who needs milliseconds."""

Origin = Literal["operator", "vault"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry as it can be read without the key."""

    ref: str
    user: str
    version: str
    dated: str
    """ISO 8601, UTC; of a remembered secret the date that Vault gave."""
    origin: Origin
    """Who put it there: `operator` by command, or `vault`, remembered for the day Vault is away."""


class EncryptedCredentials:
    """The stored logins; fulfils `CredentialSource`. Safe to use from threads and processes at once."""

    def __init__(self, directory: Path, key: KeySource, *, mount: str = DEFAULT_MOUNT, say: Say | None = None) -> None:
        self.path = directory / FILE_NAME
        self._key = key
        self._mount = mount
        self._say: Say = say or (lambda _: None)
        self._turn = threading.Lock()

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
        return tuple(_entry(ref, body["entries"][ref]) for ref in sorted(body["entries"])) if body else ()

    def version(self, ref: str) -> SecretVersion:
        """The entry's version; needs no key.

        Raises:
            CredentialsRefusedError: there is no such entry.
            CredentialStoreError: the file is damaged.
        """
        return _version(self._find(self._load(), ref))

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
        path = canonical_ref(ref, mount=self._mount)
        for what, value in (("user name", user), ("password", password)):
            _check(what, value)
        with self._changing() as body:
            entry = StoredEntry(ref=path, user=user, version=_next_version(body, path), dated=_now(), origin="operator")
            _put(body, entry, self._sealer(body), password)
        return _version(entry)

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
                if _content(body["entries"].get(entry.ref)) != _content(asdict(entry)):
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
            if present is None or (only is not None and present["origin"] != only):
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
            body["header"], body["check"] = dict(header), _text(sealer.seal(_CHECK, _bound(header)))
            for ref, password in passwords.items():
                entry = body["entries"][ref]
                entry["sealed"] = _text(sealer.seal(password.encode(), _bound(asdict(_entry(ref, entry)))))
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
        return self._sealer(body).mark(_bound(credentials))

    # ------------------------------------------------------------------ inside

    def _read(self, ref: str) -> Credentials:
        body = self._load()
        entry = self._find(body, ref)
        assert body is not None  # an entry was found in it
        password = self._reveal(body, entry.ref)
        return Credentials(user=entry.user, password=password, version=_version(entry), source="stored")

    def _load(self) -> dict[str, Any] | None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"The stored credentials, {self.path}, can't be read ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None
        try:
            file = json.loads(content)
            body: dict[str, Any] = file["body"]
            if file["sha256"] != _checksum(body):
                raise self._damaged("its checksum is wrong")
            if body["format"] != _FORMAT:
                raise self._damaged(f"its format {body['format']!r} is unknown")
            for ref, entry in body["entries"].items():
                _entry(ref, entry)
        except (ValueError, KeyError, TypeError):
            raise self._damaged("it is cut short or not JSON") from None
        return body

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The body to change; written when the block ends well and changed something."""
        with self._exclusive():
            body = self._load()
            before = body and _checksum(body)
            if body is None:
                body = self._new_body()
            elif isinstance(self._key, KeyFile) and self._key.has_next():
                self._key.settle(adopt=self._sealer(body).key != self._key.keys(body["header"])[0])
            yield body
            if _checksum(body) != before:
                write_whole(self.path, _file(body))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Nobody else changes the store meanwhile, neither another thread nor another process."""
        try:
            make_private_directory(self.path.parent)
            with self._turn, FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_PATIENCE, mode=0o600):
                yield
        except Timeout:
            msg = f"Another program has been changing {self.path} for {_LOCK_PATIENCE:.0f} s."
            raise CredentialsUnavailableError(msg) from None
        except OSError as error:
            msg = f"The stored credentials, {self.path}, can't be written ({error.strerror})."
            raise CredentialsUnavailableError(msg) from None

    def _new_body(self) -> dict[str, Any]:
        if said := self._key.make():
            self._say(said)
        header = self._key.new_header()
        check = Sealer(self._key.keys(header)[0]).seal(_CHECK, _bound(header))
        return {"format": _FORMAT, "header": dict(header), "check": _text(check), "entries": {}}

    def _sealer(self, body: Mapping[str, Any]) -> Sealer:
        """With the key that sealed this store, be it the one of a change of keys that a crash cut short."""
        kind = body["header"].get("kind")
        if kind != self._key.kind:
            msg = f"The stored credentials were sealed with a {kind}, not with a {self._key.kind}."
            raise CredentialStoreError(msg, hint=_SETTINGS)
        for key in self._key.keys(body["header"]):
            sealer = Sealer(key)
            try:
                sealer.open(_bytes(body["check"]), _bound(body["header"]))
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
        return _entry(path, body["entries"][path])

    def _reveal(self, body: Mapping[str, Any], ref: str) -> str:
        entry = body["entries"][ref]
        return self._open(self._sealer(body), _entry(ref, entry), entry["sealed"])

    def _open(self, sealer: Sealer, entry: StoredEntry, sealed: str) -> str:
        try:
            return sealer.open(_bytes(sealed), _bound(asdict(entry))).decode()
        except SealBrokenError:
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


def _put(body: dict[str, Any], entry: StoredEntry, sealer: Sealer, password: str) -> None:
    sealed = sealer.seal(password.encode(), _bound(asdict(entry)))
    fields = {name: value for name, value in asdict(entry).items() if name != "ref"}
    body["entries"][entry.ref] = {**fields, "sealed": _text(sealed)}


def _entry(ref: str, stored: Mapping[str, Any]) -> StoredEntry:
    return StoredEntry(
        ref=ref, user=stored["user"], version=stored["version"], dated=stored["dated"], origin=stored["origin"]
    )


def _version(entry: StoredEntry) -> SecretVersion:
    return SecretVersion(entry.version, datetime.fromisoformat(entry.dated))


def _remembered(path: str, credentials: Credentials) -> StoredEntry:
    dated = credentials.version.dated
    return StoredEntry(
        ref=path,
        user=credentials.user,
        version=credentials.version.version,
        dated=dated.isoformat() if dated else _now(),
        origin="vault",
    )


def _content(entry: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    return (entry["user"], entry["version"], entry["origin"]) if entry else None


def _next_version(body: Mapping[str, Any], path: str) -> str:
    before = body["entries"].get(path, {}).get("version", "0").partition("-")[0]
    number = int(before) + 1 if before.isdecimal() else 1
    return f"{number}-{secrets.token_hex(4)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _bound(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_bound(body)).hexdigest()


def _file(body: Mapping[str, Any]) -> bytes:
    return json.dumps({"body": body, "sha256": _checksum(body)}, indent=1, sort_keys=True).encode() + b"\n"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
