"""Turns the documents of any follower store into a `Roster`: usable followers, and faulty records with one sentence each.

Both stores hold the same fields, so a record means the same in `followers.toml` and in MongoDB. Nothing here raises: a
broken record is named and never disturbs the others. Fields that are not listed in `Follower` are left alone, and the
values of unknown or secret-bearing fields are never shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from spreadpilot_core.ibkr.deciding.reset_windows import DAILY
from spreadpilot_core.ibkr.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.protocols import FaultyRecord, Follower, FollowerId, Roster, TradingMode

LONGEST_ID = 128
"""Characters; an id is part of container names, labels and log lines."""


class _FaultError(Exception):
    """Why one record can't be used; its text is the whole sentence."""


def parse_roster(documents: Iterable[Any]) -> Roster:
    """Sort the documents of a store into usable followers and faulty records.

    Args:
        documents: one per record, in the store's order; normally mappings, but anything is accounted for.
    """
    usable: dict[FollowerId, Follower] = {}
    faulty: dict[str, FaultyRecord] = {}
    named = [(place, document, _own_id(document)) for place, document in enumerate(documents, start=1)]
    times = Counter(own_id for _, _, own_id in named if own_id is not None)
    for place, document, own_id in named:
        try:
            follower = _follower(document, own_id, times)
        except _FaultError as fault:
            name = own_id or _free(_place(document, place), taken=faulty.keys() | times.keys())
            faulty[name] = FaultyRecord(name, str(fault))
        else:
            usable[follower.id] = follower
    return Roster(usable, faulty)


def id_fault(value: object) -> str | None:
    """Why this can't be a follower's id, as a sentence; None when it can."""
    if not isinstance(value, str):
        return f"id is {_type(value)}, but it must be text of 1 to {LONGEST_ID} printable characters."
    if not value:
        return f"id is empty, but it must have 1 to {LONGEST_ID} printable characters."
    if len(value) > LONGEST_ID:
        return f"id has {len(value)} characters, but at most {LONGEST_ID} are allowed."
    if not value.isprintable():
        return f"id is {_shown(value)}, but it must have printable characters only."
    return None


def written_id(document: Mapping[str, Any]) -> Any:
    """What the record says its id is: `id`, else `_id`; None when it has neither."""
    value = document.get("id")
    return document.get("_id") if value is None else value


def _own_id(document: object) -> str | None:
    """The record's legal id, or None."""
    if not isinstance(document, Mapping):
        return None
    value = written_id(document)
    return value if isinstance(value, str) and id_fault(value) is None else None


def _place(document: object, place: int) -> str:
    """What to call a record without a legal id: by the store's own key where it has one, else by its place."""
    if isinstance(document, Mapping):
        key = document.get("_id")
        if isinstance(key, str) and id_fault(key) is None:
            return f"record {key}"
    return f"record {place}"


def _free(name: str, *, taken: Iterable[str]) -> str:
    while name in taken:
        name += "'"
    return name


# ---------------------------------------------------------------------------------------------- one record


def _follower(document: object, own_id: str | None, times: Mapping[str, int]) -> Follower:
    if not isinstance(document, Mapping):
        raise _FaultError(f"The record is {_type(document)}, but it must be a mapping of field names to values.")
    if own_id is None:
        raise _FaultError(_missing_id_fault(document))
    if times[own_id] > 1:
        raise _FaultError(f"id is {own_id!r} in {times[own_id]} records, but each id may be there only once.")
    return Follower(
        id=FollowerId(own_id),
        vault_secret_ref=_secret_ref(document),
        enabled=_enabled(document),
        state=_text(document, "state") or "ACTIVE",
        trading_mode=_trading_mode(document),
        account=_text(document, "account"),
        phone_owner=_text(document, "phone_owner"),
        region=_region(document),
        gateway=_gateway(document),
    )


def _missing_id_fault(document: Mapping[str, Any]) -> str:
    value = written_id(document)
    if value is None:
        return f"id is missing, and so is _id: one must have 1 to {LONGEST_ID} printable characters."
    return id_fault(value) or ""


def _secret_ref(document: Mapping[str, Any]) -> str:
    name = "vault_secret_ref" if document.get("vault_secret_ref") is not None else "ibkr_secret_ref"
    value = document.get(name)
    if value is None:
        raise _FaultError("vault_secret_ref is missing, but it must name the secret that holds the login.")
    if not isinstance(value, str):
        raise _FaultError(f"{name} is {_type(value)}, but it must be text that names the secret.")
    if not value.strip():
        raise _FaultError(f"{name} is empty, but it must name the secret that holds the login.")
    return value


def _enabled(document: Mapping[str, Any]) -> bool:
    value = document.get("enabled")
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _FaultError(f"enabled is {_shown(value)}, but it must be true or false.")
    return value


def _trading_mode(document: Mapping[str, Any]) -> TradingMode:
    value = document.get("trading_mode")
    if value is None:
        return TradingMode.PAPER
    if value not in [mode.value for mode in TradingMode]:
        raise _FaultError(f'trading_mode is {_shown(value)}, but it must be "paper" or "live".')
    return TradingMode(value)


def _region(document: Mapping[str, Any]) -> str | None:
    value = _text(document, "region")
    if value is not None and value not in DAILY:
        raise _FaultError(f"region is {_shown(value)}, but it must be one of {', '.join(DAILY)}.")
    return value


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _FaultError(f"{name} is {_shown(value)}, but it must be text.")
    if not value.strip():
        raise _FaultError(f"{name} is empty, but it must be text; leave the field out instead.")
    return value


def _gateway(document: Mapping[str, Any]) -> GatewayOptions:
    value = document.get("gateway")
    if value is None:
        return GatewayOptions()
    if not isinstance(value, Mapping):
        raise _FaultError(f"gateway is {_type(value)}, but it must be a table of options.")
    unknown = [str(name) for name in value if name not in GatewayOptions.model_fields]
    if unknown:
        known = ", ".join(GatewayOptions.model_fields)
        raise _FaultError(f"gateway.{min(unknown)[:LONGEST_ID]} is unknown; the options are {known}.")
    try:
        return GatewayOptions(**value)
    except ValidationError as error:
        first = error.errors()[0]
        name, allowed = first["loc"][0], _allowed(first["msg"])
        raise _FaultError(f"gateway.{name} is {_shown(first['input'])}, but {allowed}.") from None


def _allowed(message: str) -> str:
    """Pydantic's "Input should be …" and "Value error, must …" as the end of our sentence."""
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return f"it {text}" if text.startswith("must") else f"it must be {text[0].lower()}{text[1:]}"


def _type(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table"}
    return next((words for kind, words in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  # a sentence stays readable
