"""Turns the documents of any follower store into a `Roster`: usable followers, and faulty records with one sentence each.

Both stores hold the same fields, so a record means the same in `followers.toml`, in MongoDB and to the commands that
edit the file. Nothing here raises: a broken record is named and never disturbs the others. Which fields may be there
besides is in `unknown_fields`; the values of unknown or secret-bearing fields are never shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from reprlib import Repr
from typing import Any

from pydantic import SecretStr, ValidationError

from spreadpilot_core.ibkr.errors import CredentialsRefusedError
from spreadpilot_core.ibkr.model.followers import FaultyRecord, Follower, FollowerId, Roster, TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions, known_time_zones
from spreadpilot_core.ibkr.model.notify_urls import ALLOWED, parse_urls
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.model.reset_windows import DAILY
from spreadpilot_core.ibkr.model.secret_refs import LONGEST_REF, canonical_ref
from spreadpilot_core.ibkr.store.unknown_fields import find_slips, unknown_option

known_time_zones()  # now, at import, and not on the loop at the first record

LONGEST_ID = 128
"""Characters; an id is part of container names, labels and log lines."""
LONGEST_TEXT = 128
"""Characters of any other field."""
_ACCOUNT = re.compile(r"[A-Za-z]{1,4}[0-9]{1,12}[A-Za-z]{0,2}", re.ASCII)
"""IBKR's account ids, wide: U1234567, DU1234567, F1234567, DFP1234567."""


_MIC = re.compile(r"[A-Z0-9]{4}", re.ASCII)
"""Market identifier codes."""

ACTIVE = "ACTIVE"
"""The `state` of a follower who wants a gateway."""
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200
"""Shows what is nested a thousand deep as well."""


class _FaultError(Exception):
    """Why one record can't be used; its text is the whole sentence."""


def parse_roster(documents: Iterable[Any], *, shared: bool = False, ports: range | None = None) -> Roster:
    """Sort the documents of a store into usable followers and faulty records.

    Args:
        documents: one per record, in the store's order; normally mappings, but anything is accounted for.
        shared: other programs keep fields of their own in these documents.
        ports: the host ports from which a follower may pin one; None: any.
    """
    usable: dict[FollowerId, Follower] = {}
    faulty: dict[str, FaultyRecord] = {}
    notices: dict[FollowerId, tuple[str, ...]] = {}
    named = [(place, document, _own_id(document)) for place, document in enumerate(documents, start=1)]
    times = Counter(own_id for _, _, own_id in named if own_id is not None)
    for place, document, own_id in named:
        try:
            follower = _follower(document, own_id, times)
            slips = _slips(document, shared=shared)
            _check_port(follower, ports)
        except _FaultError as fault:
            name = own_id or _free(_place(document, place), taken=faulty.keys() | times.keys())
            is_off = _says_disabled(document) and (name not in faulty or faulty[name].is_disabled)
            faulty[name] = FaultyRecord(name, str(fault), is_disabled=is_off, is_nameless=own_id is None)
        else:
            usable[follower.id] = follower
            notices |= {follower.id: slips} if slips else {}
    return _with_shared_logins(_without_shared_ports(Roster(usable, faulty, notices)))


def _says_disabled(document: object) -> bool:
    return isinstance(document, Mapping) and document.get("enabled") is False


def _slips(document: Mapping[str, Any], *, shared: bool) -> tuple[str, ...]:
    found = find_slips(document, shared=shared)
    if found.fault is not None:
        raise _FaultError(found.fault)
    return found.notices


def _check_port(follower: Follower, ports: range | None) -> None:
    port = follower.gateway.port
    if port is not None and ports is not None and port not in ports:
        raise _FaultError(
            f"gateway.port is {port}, but it must be one of the manager's ports, {ports[0]} to {ports[-1]}"
            " (port_range_start, port_range_end)."
        )


def _without_shared_ports(roster: Roster) -> Roster:
    """The same, but that of several followers who pin one port, and want a gateway, none is usable."""
    pins = Counter(each.gateway.port for each in roster.usable.values() if each.is_wanted)
    shared: dict[str, FaultyRecord] = {
        each.id: FaultyRecord(each.id, _shared_port_fault(each, pins[each.gateway.port]))
        for each in roster.usable.values()
        if each.gateway.port is not None and each.is_wanted and pins[each.gateway.port] > 1
    }
    if not shared:
        return roster
    usable = {name: each for name, each in roster.usable.items() if name not in shared}
    return replace(roster, usable=usable, faulty={**roster.faulty, **shared})


def _shared_port_fault(follower: Follower, times: int) -> str:
    return f"gateway.port is {follower.gateway.port} in {times} records, but each port may be pinned only once."


def _with_shared_logins(roster: Roster) -> Roster:
    """The same, with a notice for each of several followers who want a gateway with one stored login."""
    sharing: dict[str, list[FollowerId]] = {}
    for each in roster.usable.values():
        if each.is_wanted:
            sharing.setdefault(canonical_ref(each.vault_secret_ref), []).append(each.id)
    notices = dict(roster.notices)
    for ref, several in sharing.items():
        if len(several) == 1:
            continue
        for own in several:
            other = next(each for each in several if each != own)
            beside = f"{other}'s" if len(several) == 2 else f"that of {len(several) - 1} others, such as {other}"  # noqa: PLR2004
            notice = f"Its login {ref} is {beside} as well: IBKR has one user logged in once, so only one of them gets a gateway."
            notices[own] = (*notices.get(own, ()), notice)
    return replace(roster, notices=notices)


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
    if value != value.strip():
        return f"id is {_shown(value)}, but it must not begin or end with a space."
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
        says_enabled=document.get("enabled") is not None,
        state=_state(document),
        trading_mode=_trading_mode(document),
        account=_account(document),
        phone_owner=_text(document, "phone_owner"),
        region=_region(document),
        exchange=_exchange(document),
        notify_urls=_notify_urls(document),
        notify_min_severity=_notify_min_severity(document),
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
    if len(value) > LONGEST_REF:
        raise _FaultError(f"{name} has {len(value)} characters, but at most {LONGEST_REF} can name a secret.")
    if not value.strip():
        raise _FaultError(f"{name} is empty, but it must name the secret that holds the login.")
    try:
        canonical_ref(value)
    except CredentialsRefusedError:
        raise _FaultError(
            f'{name} is {_shown(value)}, but it must be the path of a secret, like "ibkr/alice".'
        ) from None
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


def _state(document: Mapping[str, Any]) -> str:
    value = _text(document, "state") or ACTIVE
    if value != ACTIVE and value.casefold() == ACTIVE.casefold():
        raise _FaultError(f'state is {_shown(value)}, but it must be "{ACTIVE}", or another word for no gateway.')
    return value


def _account(document: Mapping[str, Any]) -> str | None:
    value = _text(document, "account")
    if value is not None and not _ACCOUNT.fullmatch(value):
        raise _FaultError(f'account is {_shown(value)}, but it must be an IBKR account such as "U1234567".')
    return value


def _region(document: Mapping[str, Any]) -> str | None:
    value = _text(document, "region")
    if value is not None and value not in DAILY:
        raise _FaultError(f"region is {_shown(value)}, but it must be one of {', '.join(DAILY)}.")
    return value


def _exchange(document: Mapping[str, Any]) -> str | None:
    value = _text(document, "exchange")
    if value is not None and not _MIC.fullmatch(value):
        raise _FaultError(f'exchange is {_shown(value)}, but it must be a MIC (ISO 10383) such as "XNYS".')
    return value


def _notify_urls(document: Mapping[str, Any]) -> SecretStr | None:
    value = document.get("notify_urls")
    if value is None:
        return None
    urls = parse_urls(value)
    if urls is None:
        raise _FaultError(f"notify_urls can't be used (its value is not shown): it {ALLOWED}.")
    return urls


def _notify_min_severity(document: Mapping[str, Any]) -> Severity | None:
    value = document.get("notify_min_severity")
    if value is None:
        return None
    if value not in [each.value for each in Severity]:
        raise _FaultError(f'notify_min_severity is {_shown(value)}, but it must be "info", "warning" or "error".')
    return Severity(value)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _FaultError(f"{name} is {_shown(value)}, but it must be text.")
    if len(value) > LONGEST_TEXT:
        raise _FaultError(f"{name} has {len(value)} characters, but at most {LONGEST_TEXT} are allowed.")
    if not value.strip():
        raise _FaultError(f"{name} is empty, but it must be text; leave the field out instead.")
    if value != value.strip():
        raise _FaultError(f"{name} is {_shown(value)}, but it must not begin or end with a space.")
    return value


def _gateway(document: Mapping[str, Any]) -> GatewayOptions:
    value = document.get("gateway")
    if value is None:
        return GatewayOptions()
    if not isinstance(value, Mapping):
        raise _FaultError(f"gateway is {_type(value)}, but it must be a table of options.")
    if unknown := unknown_option(value):
        raise _FaultError(unknown)
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
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  # a sentence stays readable
