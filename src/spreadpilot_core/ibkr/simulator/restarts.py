"""The daily restart without credentials: when it is due, its marker on disk, and whether IBKR still accepts it.

The program writes a marker into the settings just before it ends, and the started one removes it: a container that is
killed in between leaves it behind. Once a week, on Sunday at 01:00 in New York, IBKR ends all tokens: the next restart
fails and needs a full login. This module knows files and clocks, and nothing of processes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from spreadpilot_core.ibkr.simulator.setup import Setup

SETTINGS_PATH = "/home/ibgateway/tws_settings"
"""Where the container's programs see their settings."""
SESSION_HASH = "jedlhheopbnfkmn"
MARKER_PATH = f"{SETTINGS_PATH}/{SESSION_HASH}/autorestart"
_NEW_YORK = ZoneInfo("America/New_York")


class Restarts:
    """The nightly restarts of one container."""

    def __init__(self, setup: Setup) -> None:
        self.token_lost = False
        """Whether IBKR refuses the next restart without credentials, whatever the calendar says."""
        self._time = setup.auto_restart_time
        self._zone = ZoneInfo(setup.time_zone)
        directory = setup.settings_dir
        self._marker: Path | None = None if directory is None else directory / SESSION_HASH / "autorestart"
        self._full_login: datetime | None = None

    def seconds_to_next(self) -> float | None:
        """How long until the daily restart that the settings ask for; None when they ask for none."""
        if self._time is None:
            return None
        now = datetime.now(self._zone)
        wanted = datetime.strptime(self._time, "%I:%M %p").time()  # noqa: DTZ007  # a time of day
        at = datetime.combine(now.date(), wanted, self._zone)
        if at <= now:
            at = datetime.combine(now.date() + timedelta(days=1), wanted, self._zone)
        return at.timestamp() - now.timestamp()

    # ------------------------------------------------------------------ the marker

    def has_marker(self) -> bool:
        """Whether a restart is under way, or a container ended in the middle of one."""
        return self._marker is not None and self._marker.exists()

    def write_marker(self) -> None:
        """The program is about to restart by itself."""
        if self._marker is not None:
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.write_text("a simulated restart\n")

    def use_marker(self) -> None:
        """The started program has read it; it is gone."""
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)

    # ------------------------------------------------------------------ the token

    def remember_full_login(self) -> None:
        """A login with credentials is complete: IBKR's token is new."""
        self._full_login = datetime.now(_NEW_YORK)
        self.token_lost = False

    def is_refused(self) -> bool:
        """Whether IBKR refuses a restart without credentials now."""
        if self.token_lost or self._full_login is None:
            return self.token_lost
        return self._full_login < last_end_of_tokens(datetime.now(_NEW_YORK))


def last_end_of_tokens(now: datetime) -> datetime:
    """The latest Sunday, 01:00 in New York, that isn't after `now`."""
    now = now.astimezone(_NEW_YORK)
    sunday = now - timedelta(days=(now.weekday() + 1) % 7)
    at = sunday.replace(hour=1, minute=0, second=0, microsecond=0)
    return at if at <= now else at - timedelta(days=7)
