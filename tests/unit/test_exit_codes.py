"""What an exit code means depends on the controller."""

from __future__ import annotations

from typing import Any

import pytest

from spreadpilot_core.ibkr.controller_log.exit_codes import ExitKind, exit_meaning

K = ExitKind


@pytest.mark.parametrize(
    ("controller", "code", "kind"),
    [
        ("ibc", 0, K.TIDY), ("ibc", 1, K.CRASH), ("ibc", 2, K.CONFIG), ("ibc", 3, K.CONFIG), ("ibc", 4, K.CONFIG),
        ("ibc", 5, K.CONFIG), ("ibc", 6, K.CONFIG), ("ibc", 7, K.CONFIG), ("ibc", 8, K.CONFIG), ("ibc", 76, K.CRASH),
        ("ibc", 77, K.CONFIG), ("ibc", 78, K.CONFIG), ("ibc", 79, K.CONFIG), ("ibc", 80, K.CONFIG),
        ("ibc", 81, K.CONFIG), ("ibc", 82, K.CONFIG), ("ibc", 83, K.CONFIG), ("ibc", 84, K.CONFIG),
        ("ibc", 85, K.CONFIG), ("ibc", 86, K.CRASH), ("ibc", 87, K.SECOND_FACTOR), ("ibc", 88, K.CRASH),
        ("ibc", 137, K.KILLED), ("ibc", 143, K.TIDY), ("ibc", 159, K.CRASH),
        ("ibcontroller", 0, K.TIDY), ("ibcontroller", 1, K.CRASH), ("ibcontroller", 2, K.CONFIG),
        ("ibcontroller", 69, K.CRASH), ("ibcontroller", 75, K.SECOND_FACTOR),
        ("ibcontroller", 77, K.REJECTED_OR_THROTTLED), ("ibcontroller", 78, K.CONFIG), ("ibcontroller", 137, K.KILLED),
        ("ibc", 96, K.CRASH), ("ibcontroller", 97, K.CRASH),
        ("ibc", 69, K.UNKNOWN), ("ibcontroller", 87, K.UNKNOWN), ("ibc", None, K.UNKNOWN), ("ibcontroller", 255, K.UNKNOWN),
    ],
)  # fmt: skip
def test_exit_code(controller: Any, code: int | None, kind: ExitKind) -> None:
    """Each code of each controller has its kind and a clause; a code of the other controller is unknown."""
    meaning = exit_meaning(controller, code)
    assert meaning.kind is kind
    assert meaning.sentence
    assert not meaning.sentence.endswith(".")
