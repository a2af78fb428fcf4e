"""What must survive the manager, as documents that any store can keep, and back.

Both record stores keep these same documents (SQLite as JSON text, MongoDB as sub-documents), so a field that is added
to a dataclass of `protocols` needs no change here: an older document lacks it and gets its default, a newer one's
unknown fields are left out. Times are ISO 8601 text in UTC with microseconds, so that they sort and nothing is cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.protocols import GatewayMapping, HistoryEntry, LoginAttempt, Record

T = TypeVar("T")


class Documents(Generic[T]):
    """One kind of document."""

    def __init__(self, kind: type[T], *, called: str, key: str) -> None:
        self._adapter = TypeAdapter(kind)
        self._called = called
        self._key = key

    def dump(self, thing: T) -> dict[str, Any]:
        """The document of this thing: text, numbers, booleans and None only."""
        fields = dataclasses.fields(thing)  # type: ignore[arg-type]  # every kind is a dataclass
        return {field.name: _plain(getattr(thing, field.name)) for field in fields}

    def read(self, document: Mapping[str, Any], *, where: str) -> T:
        """The thing of this document.

        Args:
            document: as `dump` made it, perhaps by an older or newer version.
            where: the store, for the error: "records.sqlite3 in /var/lib/…".

        Raises:
            StoreDamagedError: names the document and its first fault.
        """
        try:
            return self._adapter.validate_python(document)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise StoreDamagedError(
                f"The {self._called} {document.get(self._key)!r} in {where} is damaged: {field}: {first['msg']}."
            ) from None


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC, always with microseconds: the text sorts as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return timestamp(value)
    return value.value if isinstance(value, Enum) else value


RECORDS = Documents(Record, called="record of follower", key="follower_id")
LOGINS = Documents(LoginAttempt, called="login attempt", key="id")
MAPPINGS = Documents(GatewayMapping, called="mapping of follower", key="follower_id")
HISTORY = Documents(HistoryEntry, called="history entry", key="id")
