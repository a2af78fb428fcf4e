"""The file of the encrypted store as data: read with every shape checked, and written. Knows no key and no disk.

    {"body": {"format": 1, "header": {…}, "check": BASE64, "entries": {REF: {user, version, written_at, origin, sealed}}},
     "sha256": checksum of the body}

A right checksum says that the file is as somebody wrote it, not that it was us: whoever can write the file can make one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from spreadpilot_core.ibkr.model.secret_refs import LONGEST_REF

FORMAT = 1
LONGEST_FILE = 16 * 2**20
"""Bytes; an entry has some 400."""
_LONGEST_FIELD = 256
_LONGEST_SEAL = 4096
"""Characters; a sealed password of the longest kind has under 400."""

_NEVER = "1970-01-01T00:00:00+00:00"

Origin = Literal["operator", "vault"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry as it can be read without the key."""

    ref: str
    user: str
    version: str
    written_at: str
    """ISO 8601, UTC; of a remembered secret the date that Vault gave."""
    origin: Origin
    """Who put it there: `operator` by command, or `vault`, remembered for the day Vault is away."""


class DamagedError(Exception):
    """The file can't be used; the text says how, as a clause."""


def parse(content: bytes) -> Body:
    """The body of the file.

    Raises:
        DamagedError: it is not whole, not of this format, or something in it is of the wrong kind.
    """
    try:
        file = json.loads(content)
    except (ValueError, RecursionError):
        raise _cut_short() from None
    if not isinstance(file, dict) or not isinstance(body := file.get("body"), dict) or "sha256" not in file:
        raise _cut_short()
    if file["sha256"] != checksum(body):
        how = "its checksum is wrong"
        raise DamagedError(how)
    _check_body(body)
    return body


def written(body: Body) -> bytes:
    """The file of this body."""
    return json.dumps({"body": body, "sha256": checksum(body)}, indent=1, sort_keys=True).encode() + b"\n"


def checksum(body: Body) -> str:
    """What tells a damaged file from a wrong key."""
    return hashlib.sha256(bound(body)).hexdigest()


def bound(value: object) -> bytes:
    """The bytes that stand for this value, the same for the same value: what is sealed is bound to them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def entry_of(ref: str, stored: object) -> StoredEntry:
    """The open part of an entry.

    Raises:
        DamagedError: it is not as this program writes it; no other entry suffers from that.
    """
    if len(ref) > LONGEST_REF or not isinstance(stored, dict) or not _is_entry(stored):
        how = f"the entry {ref:.60} is not as this program writes it"
        raise DamagedError(how)
    return StoredEntry(ref=ref, **{name: stored[name] for name in _OPEN})


def listed(ref: str, stored: object) -> StoredEntry:
    """The same for a list, where a damaged entry is shown as one."""
    try:
        return entry_of(ref, stored)
    except DamagedError:
        return StoredEntry(ref=ref, user="(damaged)", version="", written_at=_NEVER, origin="operator")


def encoded(content: bytes) -> str:
    """Bytes as the file has them."""
    return base64.b64encode(content).decode()


def decoded(text: str) -> bytes:
    """And back."""
    return base64.b64decode(text, validate=True)


_OPEN = tuple(field.name for field in fields(StoredEntry) if field.name != "ref")


def _check_body(body: Body) -> None:
    if body.get("format") != FORMAT:
        how = f"its format {body.get('format')!r:.40} is unknown"
        raise DamagedError(how)
    header, entries = body.get("header"), body.get("entries")
    if not isinstance(header, dict) or not all(isinstance(value, str | int) for value in header.values()):
        raise _wrong("header")
    if not _is_sealed(body.get("check")):
        raise _wrong("check")
    if not isinstance(entries, dict):
        raise _wrong("entries")


def _is_entry(entry: Mapping[str, Any]) -> bool:
    limits = {**dict.fromkeys(_OPEN, _LONGEST_FIELD), "sealed": _LONGEST_SEAL}
    values = [(entry.get(name), limit) for name, limit in limits.items()]
    if not all(isinstance(value, str) and 0 < len(value) <= limit and value.isprintable() for value, limit in values):
        return False
    try:
        datetime.fromisoformat(entry["written_at"])
    except ValueError:
        return False
    return entry["origin"] in get_args(Origin) and _is_sealed(entry["sealed"])


def _is_sealed(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(decoded(text))
    except ValueError:
        return False


def _cut_short() -> DamagedError:
    how = "it is cut short or not JSON"
    return DamagedError(how)


def _wrong(what: str) -> DamagedError:
    how = f"its {what} is not as this program writes it"
    return DamagedError(how)
