"""What a request is answered with that the simulator doesn't serve, or that asks for what there is none of.

Data only. No request of the protocol is met with silence, except those that have no answer at IBKR either.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """An error for a request."""

    code: int
    text: str
    id_at: int | None = 0
    """Which field after the request's number is its id; None when it has none."""


_NOT_SERVED = "Error validating request.-'bW' : cause - The simulator does not serve this request."
_NO_SCANNER = "Historical Market Data Service error message:The simulator runs no scanner."

REFUSALS: dict[int, Refusal] = {
    10: Refusal(10092, "Deep market data is not supported for this combination of security type/exchange", 1),
    18: Refusal(321, "Error validating request.-'bV' : cause - FA data operations ignored for non FA customers.", None),
    19: Refusal(321, "Error validating request.-'bV' : cause - FA data operations ignored for non FA customers.", None),
    21: Refusal(321, _NOT_SERVED, 1),
    22: Refusal(162, _NO_SCANNER),
    24: Refusal(162, _NO_SCANNER, None),
    50: Refusal(420, "Invalid Real-time Query:The simulator serves no real-time bars.", 1),
    52: Refusal(430, "We are sorry, but fundamentals data for the security specified is not available.", 1),
    54: Refusal(321, _NOT_SERVED, 1),
    55: Refusal(321, _NOT_SERVED, 1),
    65: Refusal(321, _NOT_SERVED, None),
    66: Refusal(321, _NOT_SERVED, None),
    68: Refusal(321, _NOT_SERVED, 1),
    69: Refusal(321, _NOT_SERVED, 1),
    71: Refusal(321, "Error validating request.-'bW' : cause - The API session has already started.", None),
    72: Refusal(321, _NOT_SERVED, None),
    73: Refusal(321, _NOT_SERVED, None),
    84: Refusal(10276, "News feed is not allowed."),
    86: Refusal(10276, "News feed is not allowed."),
    88: Refusal(162, "Historical Market Data Service error message:The simulator serves no histograms."),
    96: Refusal(162, "Historical Market Data Service error message:The simulator serves no historical ticks."),
    97: Refusal(10189, "Failed to request tick-by-tick data.:The simulator serves none."),
    100: Refusal(10276, "News feed is not allowed."),
    102: Refusal(10276, "News feed is not allowed."),
}

UNANSWERED = frozenset({11, 12, 13, 14, 23, 51, 53, 56, 57, 70, 89, 98, 101, 103})
"""Cancellations of what is never served, news bulletins that never come, the log level."""
