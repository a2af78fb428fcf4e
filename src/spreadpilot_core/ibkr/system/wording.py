"""Clauses that several sentences share: numbers of things, the nearest known name, a missing package, what stands for a secret."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

HIDDEN = "set (hidden)"
"""Shown in the place of a value that is a secret, or may hold one."""


def counted(number: int, what: str, *, plural: str | None = None) -> str:
    """One or many: "1 gateway", "3 gateways", "1 entry", "2 entries"."""
    return f"{number} {what if number == 1 else plural or f'{what}s'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None: none is near. Case and spaces at an end count for little."""
    folded = {each.strip().casefold(): each for each in sorted(known, reverse=True)}
    found = get_close_matches(name.strip().casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def not_installed(error: ImportError) -> str:
    """What a setting needs that an extra of this package would have brought; a clause for `SettingsError`."""
    package = (error.name or "").partition(".")[0]
    cure = "`pip install -r requirements/service.txt` in the checkout brings it (docs/installing.md)"
    return f"it needs a package that is not installed ({package}): {cure}"
