from __future__ import annotations

import structlog

from spreadpilot_core.ibkr.telling import Teller


class ClosedPipe:
    """A logger whose reader is gone."""

    def __getattr__(self, name: str) -> object:
        def write(*_: object, **__: object) -> None:
            raise BrokenPipeError

        return write


def test_a_log_that_nobody_reads_any_more_harms_no_gateway() -> None:
    """Telling goes on when writing the log line fails."""
    teller = Teller.__new__(Teller)
    teller._log = structlog.wrap_logger(ClosedPipe(), processors=[], wrapper_class=structlog.BoundLogger)

    teller._say("info", "GatewayReady", sentence="Ready.")
