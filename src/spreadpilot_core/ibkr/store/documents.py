"""What must survive the manager, as documents that any store can keep, and back.

Both record stores keep these same documents (SQLite as JSON text, MongoDB as sub-documents), so a field that is added
to a dataclass of `model.records` needs no change here: an older document lacks it and gets its default, a newer one's
unknown fields are left out. Times are ISO 8601 text in UTC with microseconds, so that they sort and nothing is cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import SecretStr, TypeAdapter, ValidationError

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.records import GatewayMapping, HistoryEntry, LoadedRecords, LoginAttempt, Record
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")

LONGEST_TEXT = 8192
"""Characters of one value: the last wall before a store, so that nothing that came in from outside can be too much for it."""


class Documents(Generic[T]):
    """One kind of document."""

    def __init__(self, kind: type[T], *, called: str, key: str) -> None:
        self._adapter = TypeAdapter(kind)
        self._called = called
        self._key = key

    def dump(self, thing: T) -> dict[str, Any]:
        """The document of this thing: text, numbers, booleans and None only."""
        return _fields_of(thing)

    def read(self, document: object, *, where: str, name: str | None = None) -> T:
        """The thing of this document.

        Args:
            document: as `dump` made it, perhaps by an older or newer version.
            where: the store, for the error: "records.sqlite3 in /var/lib/…".
            name: what the store keeps it under; None: the error takes the document's word.

        Raises:
            StoreDamagedError: names the document and its first fault.
        """
        try:
            return self._adapter.validate_python(_known_options(document))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            key = document.get(self._key) if name is None and isinstance(document, dict) else name
            raise StoreDamagedError(
                f"The {self._called} {key!r:.200} in {where} is damaged: {field:.100}: {first['msg']:.200}."
            ) from None


def open_logins(documents: Iterable[object], *, where: str) -> list[LoginAttempt]:
    """Those of these login attempts that have no outcome. A damaged one is left out: it keeps its own user from logging in."""
    attempts = []
    for document in documents:
        try:
            attempts.append(LOGINS.read(document, where=where))
        except StoreDamagedError as error:
            log.warning("a login attempt can't be understood", sentence=error.what)
    return [each for each in attempts if each.outcome is None]


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC, always with microseconds: the text sorts as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _fields_of(thing: Any) -> dict[str, Any]:
    names = _names(type(thing))  # type: ignore[arg-type]  # mypy asks a class for the hash of its instances
    return {name: _plain(getattr(thing, name)) for name in names}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _plain(value: object) -> object:
    if value is None or type(value) in (bool, int, float):  # most of them
        return value
    if type(value) is str:
        return _storable(value)
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, GatewayOptions):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return _fields_of(value)
    if isinstance(value, SecretStr):
        return None  # a secret of a follower's record stays where its owner wrote it
    plain = value.value if isinstance(value, Enum) else value
    return _storable(plain) if isinstance(plain, str) else plain


def _storable(text: str) -> str:
    """The text as every store takes it: no half characters, and an end."""
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= LONGEST_TEXT else f"{whole[: LONGEST_TEXT - 1]}…"


def _known_options(document: object) -> object:
    """The document without options of a gateway that only a newer version knows: they are a user's words, and strict."""
    good = document.get("last_good") if isinstance(document, dict) else None
    options = good.get("gateway") if isinstance(good, dict) else None
    if not isinstance(document, dict) or not isinstance(good, dict) or not isinstance(options, dict):
        return document
    known = {name: value for name, value in options.items() if name in GatewayOptions.model_fields}
    return {**document, "last_good": {**good, "gateway": known}}


def is_newer(known: object, document: Mapping[str, Any]) -> bool:
    """Whether this document of a record, as a store holds it, was updated after that one."""
    updated = known.get("updated_at") if isinstance(known, Mapping) else None
    return str(updated or "") > (document["updated_at"] or "")


def parse_records(documents: Iterable[tuple[str, object]], *, where: str) -> LoadedRecords:
    """The records among these documents, each with the follower that the store keeps it under."""
    usable, damaged = {}, {}
    for key, document in documents:
        try:
            record = RECORDS.read(document, where=where, name=key)
        except StoreDamagedError as error:
            damaged[FollowerId(key)] = f"{error.what} {DAMAGED_CURE}"
            continue
        if record.follower_id == key:
            usable[record.follower_id] = record
        else:
            what = f"The record of follower {key!r:.200} in {where} is damaged: it says that it is another's."
            damaged[FollowerId(key)] = f"{what} {DAMAGED_CURE}"
    return LoadedRecords(usable, damaged)


DAMAGED_CURE = (
    "It is left as it is, and this follower is not launched: mend it, or delete it (then its client id, a stop on request"
    " and a rejected password are forgotten), and restart the manager."
)

RECORDS = Documents(Record, called="record of follower", key="follower_id")
LOGINS = Documents(LoginAttempt, called="login attempt", key="id")
MAPPINGS = Documents(GatewayMapping, called="mapping of follower", key="follower_id")
AVAILABILITY = Documents(AvailabilityDay, called="availability", key="id")
AVAILABILITY_RETENTION = 400
"""Days."""
HISTORY = Documents(HistoryEntry, called="history entry", key="id")
