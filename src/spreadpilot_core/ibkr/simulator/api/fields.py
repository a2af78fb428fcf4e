"""Reads the fields of a request one after the other.

Clients write "no value" as an empty field, as the largest double or as the largest int; all three read as nothing here.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.simulator.books.contracts import Description

_LARGEST_DOUBLE = 1.7976931348623157e308
_LARGEST_INT = 2147483647
_TOO_MUCH = 1e15


class BadRequest(Exception):  # noqa: N818  # what it is, not that it is
    """A request whose fields can't be read."""


class Fields:
    """The fields of one request after its number."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._next = 0

    def text(self) -> str:
        """The next field as it stands.

        Raises:
            BadRequest: there is none.
        """
        if self._next >= len(self._texts):
            raise BadRequest(f"the request ends after field {self._next}")
        self._next += 1
        return self._texts[self._next - 1]

    def number(self) -> float | None:
        """The next field as a number, None when it is unset.

        Raises:
            BadRequest: it is no number.
        """
        text = self.text()
        if not text or text == "Infinite":
            return None
        try:
            value = float(text)
        except ValueError:
            raise BadRequest(f"field {self._next} is no number") from None
        if value in (_LARGEST_DOUBLE, _LARGEST_INT):
            return None
        if not abs(value) < _TOO_MUCH:  # infinite and not-a-number too
            raise BadRequest(f"field {self._next} is out of range")
        return value

    def integer(self) -> int:
        """The next field as a whole number, 0 when it is unset.

        Raises:
            BadRequest: it is no number.
        """
        return int(self.number() or 0)

    def flag(self) -> bool:
        """The next field as a truth value.

        Raises:
            BadRequest: it is none.
        """
        text = self.text()
        return text.lower() == "true" or (text.lower() != "false" and bool(_whole(text, self._next)))

    def skip(self, count: int) -> None:
        """Pass over `count` fields."""
        for _ in range(count):
            self.text()

    def description(self) -> Description:
        """The next twelve fields, an instrument as a client describes it."""
        return Description(
            con_id=self.integer(),
            symbol=self.text(),
            sec_type=self.text(),
            expiry=self.text(),
            strike=self.number() or 0.0,
            right=self.text(),
            multiplier=self.text(),
            exchange=self.text(),
            primary_exchange=self.text(),
            currency=self.text(),
            local_symbol=self.text(),
            trading_class=self.text(),
        )


def _whole(text: str, place: int) -> int:
    try:
        return int(text or 0)
    except ValueError:
        raise BadRequest(f"field {place} is no truth value") from None
