"""What an engine refuses, as a code that programs tell apart and a sentence that people read."""

from __future__ import annotations

from typing import Any, Literal

Code = Literal[
    "bad_request",
    "gone",
    "name_taken",
    "user_taken",
    "port_taken",
    "no_secret",
    "wrong_state",
    "unknown_fault",
    "failed",
]


class Refused(Exception):  # noqa: N818  # it is an answer, not a failure of the engine
    """The engine won't do it."""

    def __init__(self, code: Code, sentence: str, **facts: Any) -> None:
        self.facts = facts
        """What a program wants to know beyond the code."""
        self.code = code
        self.sentence = sentence
        super().__init__(sentence)
