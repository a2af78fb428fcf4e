"""The guard in a simulated container: it ends one whose controller logs in again and again, as the real container's does.

Two logins typed, none completed and the controller about to begin anew, or three typed: that is a loop, unless the API is
open. Where the order said that a single one is left, one typed, or two. It reads what the container prints, line by line, and knows nothing else of it.
"""

from __future__ import annotations

import re

LOGIN_LOOP = 98
"""Exit code of a container that it ended."""
_MOST_FAILED = 2
_IBC = re.compile(
    r"\d{4}-\d\d-\d\d [\d:]{12} IBC: (?:(Login attempt: )|(Login has completed)|.*Cold restart in progress)"
)
_IBCONTROLLER = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]{12} [A-Z]+ ibcontroller\.\S*: IBController > "
    r"(?:(credentials submitted)|(login completed)|.*-- relaunching)"
)


class LoginGuard:
    """Counts the logins of one container."""

    def __init__(self, controller: str, logins_left: int = _MOST_FAILED) -> None:
        self._most_failed = max(1, min(logins_left, _MOST_FAILED))
        self._sign = _IBC if controller == "ibc" else _IBCONTROLLER
        self.typed = 0
        """Since a login last completed."""

    def sees_loop(self, line: str) -> bool:
        """Take in a line; True when it is one too many."""
        sign = self._sign.match(line)
        if sign is None:
            return False
        typed, completed = sign.groups()
        if completed:
            self.typed, self._most_failed = 0, _MOST_FAILED
        elif typed:
            self.typed += 1
        return self.typed > self._most_failed if typed else self.typed >= self._most_failed
