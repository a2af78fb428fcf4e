"""Names in a record that mean nothing to the manager: a slip of its owner, or another program's own field.

In `followers.toml` every name is a wish of the owner, so an unknown one is a fault: `enbled = true` would leave a
follower without its gateway, `read_only_api = true` outside `gateway` would let orders through, and nobody would hear
of it. Documents of MongoDB are shared with other programs, whose fields are nobody's business here and are not even
read. There only the names of options that no other program would have are a fault, and the likely misspellings of a
field that is missing are a notice beside a record that stays usable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions

FIELDS = (
    "id",
    "_id",
    "vault_secret_ref",
    "ibkr_secret_ref",
    "enabled",
    "state",
    "trading_mode",
    "account",
    "phone_owner",
    "region",
    "exchange",
    "notify_urls",
    "notify_min_severity",
    "gateway",
)
"""Every name that a record may hold."""
_ANYBODYS = frozenset({"image", "time_zone", "vnc", "port"})
"""Options whose names another program may well use for something of its own."""
_LONGEST_NAME = 40


def _misspellings(name: str) -> set[str]:
    """The name with one letter left out, with two changed about, and in the other ways of joining words."""
    left_out = {name[:at] + name[at + 1 :] for at in range(len(name))}
    changed_about = {name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1)}
    words = name.split("_")
    joined = {"".join(words), "-".join(words), words[0] + "".join(map(str.capitalize, words[1:]))}
    return (left_out | changed_about | joined | {name.capitalize(), name.upper()}) - {name}


SLIPS = {
    slip: name for name in FIELDS if name not in ("id", "_id") for slip in _misspellings(name) if slip not in FIELDS
}
"""Likely misspelling -> the field that was meant."""
SHARED_FIELDS = (*FIELDS[:1], *FIELDS[2:], *GatewayOptions.model_fields, *SLIPS)
"""All that is read of a document that other programs share, beside its `_id`."""


@dataclass(frozen=True, slots=True)
class Slips:
    """What was found in one record."""

    fault: str | None = None
    """Why it can't be used, as a sentence."""
    notices: tuple[str, ...] = ()


def find_slips(document: Mapping[str, Any], *, shared: bool) -> Slips:
    """Look at the names of a record's fields; `shared`: other programs keep fields of their own in it."""
    unknown = sorted(str(name) for name in document if name not in FIELDS)
    for name in unknown:
        if name in GatewayOptions.model_fields and not (shared and name in _ANYBODYS):
            return Slips(f"{name} stands outside of gateway, where nothing heeds it: it belongs into {_TABLE}.")
    if not shared and unknown:
        return Slips(_unknown(unknown[0], FIELDS[2:], called="the fields are id,"))
    return Slips(notices=tuple(notice for name in unknown if (notice := _notice(name, document)) is not None))


def unknown_option(options: Mapping[Any, Any]) -> str | None:
    """The sentence about a name in `gateway` that is no option: those are the owner's words in every store."""
    unknown = sorted(str(name) for name in options if name not in GatewayOptions.model_fields)
    if not unknown:
        return None
    name = unknown[0]
    if name in FIELDS:
        return f"gateway.{name} is unknown: {name} belongs to the follower itself, before {_TABLE}."
    return f"gateway.{_unknown(name, GatewayOptions.model_fields, called='the options are')}"


_TABLE = "[follower.gateway]"


def _unknown(name: str, known: Iterable[str], *, called: str) -> str:
    known = list(known)
    meant = get_close_matches(name.casefold(), known, n=1)
    guess = f" ({meant[0]} was meant?)" if meant else ""
    return f"{_shown(name)} is unknown{guess}; {called} {', '.join(known)}."


def _notice(name: str, document: Mapping[str, Any]) -> str | None:
    """What a human should hear of a shared record's field; None: it is another program's."""
    if name in GatewayOptions.model_fields:
        return (
            f"{name} stands outside of gateway in its record; if it is meant for the gateway, it belongs into gateway."
        )
    meant = SLIPS.get(name)
    if meant is None or document.get(meant) is not None:
        return None
    return f"{_shown(name)} in its record means nothing to the manager, and {meant} is missing: was {meant} meant?"


def _shown(name: str) -> str:
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
    return name if name.isidentifier() else repr(name)
