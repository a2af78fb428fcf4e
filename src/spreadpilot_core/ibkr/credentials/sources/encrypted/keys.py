"""Where the encrypted store's key comes from: a key file, made at first use, or a passphrase in a file.

The store's header says which kind sealed it, and what a passphrase needs besides (salt, cost). A key is read when it is
needed and kept nowhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from spreadpilot_core.ibkr.credentials.sources.encrypted import sealing
from spreadpilot_core.ibkr.errors import CredentialStoreError
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import write_whole

Header = Mapping[str, Any]

LONGEST_KEY = 2**16
"""Bytes of a key's or passphrase's file."""


class KeySource(Protocol):
    """Gives the key for a store."""

    kind: str

    def new_header(self) -> Header:
        """What a new store must remember to find this key again."""

    def keys(self, header: Header) -> list[bytes]:
        """The key, and after it those that a half-finished change of keys may have used."""

    def make(self) -> str | None:
        """Have a key for a store that is new; a sentence when one was made here."""


class KeyFile:
    """A file with 32 random bytes in base64."""

    kind = "key file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = path.with_name(f"{path.name}.new")

    def new_header(self) -> Header:
        """Nothing but the kind."""
        return {"kind": self.kind}

    def keys(self, header: Header) -> list[bytes]:  # noqa: ARG002  # a passphrase needs it
        """The file's key, and the one a change of keys left beside it.

        Raises:
            CredentialStoreError: there is no such file, or it holds no key.
        """
        found = [key for path in (self.path, self._next) if (key := _read_key(path)) is not None]
        if not found:
            msg = f"The key of the stored credentials, {self.path}, is missing."
            raise CredentialStoreError(msg, hint="Put it back from your backup; without it they can't be opened.")
        return found

    def make(self) -> str | None:
        """Write a new key where there is none."""
        if self.path.exists():
            return None
        write_whole(self.path, _written(sealing.new_key()))
        return f"Made a key for stored credentials, {self.path}: keep a copy of it apart from the store."

    def make_next(self) -> bytes:
        """Write the key that takes the present one's place when `settle` is told to adopt it."""
        key = sealing.new_key()
        write_whole(self._next, _written(key))
        return key

    def has_next(self) -> bool:
        """Whether a change of keys is not finished."""
        return self._next.exists()

    def settle(self, *, adopt: bool) -> None:
        """Finish a change of keys: the next key takes the place of the present one, or is dropped."""
        if adopt:
            write_whole(self.path, read_regular(self._next, longest=LONGEST_KEY))
        self._next.unlink()


class Passphrase:
    """A passphrase in a file; one line break at its end doesn't count."""

    kind = "passphrase"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._derived: dict[tuple[str, int], bytes] = {}

    def new_header(self) -> Header:
        """A new salt, today's cost."""
        return {
            "kind": self.kind,
            "salt": base64.b64encode(sealing.new_salt()).decode(),
            "cost": sealing.SCRYPT_COST,
        }

    def keys(self, header: Header) -> list[bytes]:
        """The key derived from the passphrase; derived once, since it is slow on purpose.

        Raises:
            CredentialStoreError: the file is missing or empty, or the header is damaged.
        """
        try:
            wanted = (str(header["salt"]), int(header["cost"]))
            if wanted not in self._derived:
                salt = base64.b64decode(wanted[0], validate=True)
                self._derived[wanted] = sealing.key_from_passphrase(self._passphrase(), salt=salt, cost=wanted[1])
        except (KeyError, ValueError, TypeError) as error:
            msg = f"The header of the stored credentials is damaged ({error})."
            raise CredentialStoreError(msg) from None
        return [self._derived[wanted]]

    def make(self) -> str | None:
        """Nothing to make: the passphrase is the user's."""
        self._passphrase()
        return None

    def _passphrase(self) -> bytes:
        try:
            passphrase = read_regular(self.path, longest=LONGEST_KEY)
        except OSError as error:
            msg = f"The passphrase file {self.path} can't be read ({error.strerror})."
            raise CredentialStoreError(msg, hint="See the setting credentials_passphrase_file.") from None
        passphrase = passphrase.removesuffix(b"\n").removesuffix(b"\r")
        if not passphrase:
            msg = f"The passphrase file {self.path} is empty."
            raise CredentialStoreError(msg)
        return passphrase


def _written(key: bytes) -> bytes:
    return base64.b64encode(key) + b"\n"


def _read_key(path: Path) -> bytes | None:
    try:
        key = base64.b64decode(read_regular(path, longest=LONGEST_KEY).strip(), validate=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"The key file {path} can't be read ({error.strerror})."
        raise CredentialStoreError(msg) from None
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != sealing.KEY_BYTES:
        msg = f"{path} holds no key ({sealing.KEY_BYTES} bytes in base64)."
        raise CredentialStoreError(msg, hint="Put the right file back from your backup.")
    return key
