"""IBKR's user names, as IBKR compares them: `Alice123` and `alice123` are one user there, so they are one here.

Whatever names a user goes through `canonical_user`: permits, the ledger and its budgets, records, rejected users, phones.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

_INVISIBLE = frozenset("\N{COMBINING GRAPHEME JOINER}\N{BRAILLE PATTERN BLANK}") | frozenset(
    chr(point)
    for first, last in (
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFFA0, 0xFFA0),
        (0xE0100, 0xE01EF),
    )
    for point in range(first, last + 1)
)
"""Characters without a shape of their own that Unicode does not file under format, control or space."""


@lru_cache(maxsize=8192)
def canonical_user(user: str) -> str:
    """The form in which user names are compared: NFKC, without invisible characters and blanks, without case."""
    before, name = "", user
    while name != before:  # each step may bring what another one takes away
        before, name = name, unicodedata.normalize("NFKC", _visible(unicodedata.normalize("NFKC", name)).casefold())
    return name


def _visible(name: str) -> str:
    return "".join(c for c in name if c not in _INVISIBLE and unicodedata.category(c)[0] not in "CZ")


def differs_in_more_than_case(user: str) -> bool:
    """Whether this is no user name of IBKR's, but resembles one: refused before any login."""
    return user.lower() != canonical_user(user)


def user_digest(user: str) -> str:
    """What a container says in public of the user that it logs in, so that other managers know the user again.

    Whoever may read labels may try names against it: it keeps the name out of sight, and is no secret.
    """
    return hashlib.sha256(f"ibkr-user:{canonical_user(user)}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
