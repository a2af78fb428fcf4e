"""Lines as the two controllers stamp them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from spreadpilot_core.ibkr.controller_log.reader import LoginLog
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.model.gateways import Controller

CORPUS = Path(__file__).parents[1] / "data" / "log_corpus" / "ibcontroller-0.1.4"
_ticks = count()


def ibc(text: str) -> str:
    """One line of IBC, each a millisecond later than the one before."""
    tick = next(_ticks)
    return f"2026-11-24 14:{tick // 60000 % 60:02}:{tick // 1000 % 60:02}:{tick % 1000:03} IBC: {text}"


def ibcontroller(text: str, *, module: str = "control_loop", level: str = "INFO") -> str:
    """One line of ibcontroller, each a millisecond later than the one before."""
    tick = next(_ticks)
    moment = f"2026-11-24 14:{tick // 60000 % 60:02}:{tick // 1000 % 60:02},{tick % 1000:03}"
    return f"{moment} {level} ibcontroller.{module}: {text}"


def told(text: str) -> str:
    """One line of ibcontroller with the name most of its messages begin with."""
    return ibcontroller(f"IBController > {text}")


def window(title: str) -> str:
    """Ibcontroller met a window that it has no rule for."""
    return ibcontroller(f"unhandled unprompted window: javax.swing.JDialog {title!r}", module="recognisers")


def read(controller: Controller, lines: Iterable[str]) -> LoginLog:
    """A log that has read these lines."""
    log = LoginLog(controller)
    for line in lines:
        log.read(line)
    return log


def phases(controller: Controller, lines: Iterable[str]) -> list[LoginPhase]:
    """Every phase these lines go through, in order."""
    return list(_phases(LoginLog(controller), lines))


def _phases(log: LoginLog, lines: Iterable[str]) -> Iterator[LoginPhase]:
    serial = 0
    for line in lines:
        log.read(line)
        if log.view.phase_serial != serial:
            serial = log.view.phase_serial
            yield log.view.phase


def corpus() -> dict[str, list[str]]:
    """The lines of every real log, by name."""
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(CORPUS.glob("*.log"))}
