"""When the controller shows its login window: from there `max_startup_time` runs, and the start takes no place any more.

A host that boots fifty JVMs at once may need minutes for each window. Until it shows, nothing was typed and nothing can have been
refused: the time until then has a limit of its own, `window_time`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Memory
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Observation
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode

BEFORE_WINDOW = frozenset({LoginPhase.STARTING, LoginPhase.RESTARTING})


def awaits_window(memory: Memory, seen: Observation) -> bool:
    """Whether a program was seen to start, and no login window of it; the API may have proved that the log has lost it."""
    view = seen.login
    if view is None or view.phase not in BEFORE_WINDOW or memory.window_at is not None:
        return False
    return not (memory.was_ready and memory.doubted == view.phase_serial)


def startup_deadline(memory: Memory, seen: Observation) -> datetime:
    """When the time of a login that waits for no phone is over."""
    if awaits_window(memory, seen):
        return memory.clock + timedelta(seconds=max(seen.limits.window_time, seen.limits.max_startup_time))
    began = memory.clock if memory.window_at is None else max(memory.clock, memory.window_at)
    return began + timedelta(seconds=seen.limits.max_startup_time)


def doubt_after(memory: Memory, seen: Observation) -> datetime:
    """When a log that tells no end of such a login may have lost lines: a program that no window is known of may be long in."""
    if awaits_window(memory, seen):
        return memory.clock + timedelta(seconds=seen.limits.max_startup_time)
    return startup_deadline(memory, seen)


def window_missing(seen: Observation) -> Reason:
    """What is known when the time for the window is over."""
    limit = max(seen.limits.window_time, seen.limits.max_startup_time)
    return Reason(
        ReasonCode.LOGIN_WINDOW_MISSING,
        f"The login window did not appear in {limit:g} s (window_time), so nothing was typed: "
        "the host is slow; look at its load and memory.",
    )


def start_is_over(memory: Memory, seen: Observation, now: datetime) -> bool:
    """Whether this follower's start needs no place among the parallel ones any more."""
    if seen.running is ActionKind.LAUNCH or seen.gateway is None or seen.gateway.phase.precedes_login:
        return False  # whoever holds a place without a gateway gives it back with the permit
    if seen.gateway.phase is GatewayPhase.EXITED or memory.window_at is not None:
        return True
    connected = seen.connection is not None and seen.connection.is_open
    return connected or now >= memory.clock + timedelta(seconds=seen.limits.window_time)
