"""Authenticated encryption, from `cryptography` and nowhere else: AES-256-GCM with a nonce per value, keys by scrypt.

Knows bytes only. What is bound to a value (`bound`) must be the same when it is opened, so that no value can be moved
to another place.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

KEY_BYTES = 32
_NONCE_BYTES = 12
_BLOCK = 64
"""Values are padded to whole blocks, so that the stored length tells little of a password's."""

SCRYPT_COST = 2**16
"""64 MiB and about 0.2 s for each guess; paid once per courier."""
_SCRYPT_COSTS = {2**power for power in range(10, 21)}


class SealBrokenError(Exception):
    """Another key, or not the bytes that were sealed."""


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._cipher = AESGCM(key)
        self._marking = hmac.digest(key, b"marks", hashlib.sha256)

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Nonce and ciphertext of `plain`, which holds no zero bytes at its end."""
        nonce = os.urandom(_NONCE_BYTES)
        padded = plain.ljust((len(plain) // _BLOCK + 1) * _BLOCK, b"\0")
        return nonce + self._cipher.encrypt(nonce, padded, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """What was sealed.

        Raises:
            SealBrokenError: the key, the bytes or what is bound to them is another.
        """
        if len(sealed) < _NONCE_BYTES + 16:
            raise SealBrokenError
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound).rstrip(b"\0")
        except InvalidTag:
            raise SealBrokenError from None

    def mark(self, content: bytes) -> str:
        """A short name of `content`: the same for the same content, and of no use to guess it without the key."""
        return hmac.digest(self._marking, content, hashlib.sha256).hex()[:12]


def new_key() -> bytes:
    """A random key."""
    return os.urandom(KEY_BYTES)


def new_salt() -> bytes:
    """A random salt for `key_from_passphrase`."""
    return os.urandom(16)


def key_from_passphrase(passphrase: bytes, *, salt: bytes, cost: int) -> bytes:
    """The key that belongs to a passphrase.

    Raises:
        ValueError: `cost` is none that this program ever wrote.
    """
    if cost not in _SCRYPT_COSTS:
        msg = f"a scrypt cost of {cost}"
        raise ValueError(msg)
    return Scrypt(salt=salt, length=KEY_BYTES, n=cost, r=8, p=1).derive(passphrase)
