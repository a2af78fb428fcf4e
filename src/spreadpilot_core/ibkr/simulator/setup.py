"""What a container was given when it was created: the same for both controllers, plain data."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spreadpilot_core.ibkr.simulator import reset_hours

_WORDS: Mapping[str, tuple[str, ...]] = {
    "trading_mode": ("paper", "live"),
    "existing_session_action": ("primary", "primaryoverride", "secondary", "manual"),
    "missed_action": ("exit", "restart"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the container was given when it was created. Raises `ValueError` with what is allowed."""

    user: str
    trading_mode: str
    accounts: Sequence[str]
    read_only: bool
    time_zone: str
    existing_session_action: str = "primary"
    """`primary`, `primaryoverride`, `secondary` or `manual`."""
    auto_restart_time: str | None = None
    """ "hh:mm AM|PM", in `time_zone`."""
    relogin_after_missed: bool = False
    """Whether the controller logs in again by itself after a missed second factor or a throttle."""
    missed_action: str = "exit"
    """`exit` or `restart`: what follows a second factor that led to no login."""
    password_sha256: str | None = None
    """The right password's hash, hexadecimal; None: any password is right that isn't empty."""
    old_controller: bool = False
    """Whether its ibcontroller is older than 0.1.4: it doesn't understand a rejection, and every failure exits with 1."""
    reset_hours: str = ""
    """When its IBKR resets, as "America/New_York 23:45-00:45", several by commas."""
    settings_dir: Path | None = None
    """Survives the container; holds the token of a nightly restart while one is under way."""

    def __post_init__(self) -> None:
        for name, allowed in _WORDS.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(allowed)}")
        reset_hours.check(self.reset_hours)
        if not self.accounts or isinstance(self.accounts, str) or not all(self.accounts):
            raise ValueError(f"accounts is {self.accounts!r}, but must be a list of account numbers, at least one")
        try:
            zoneinfo.ZoneInfo(self.time_zone)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
            raise ValueError(f"time_zone is {self.time_zone!r}, but must be an IANA time zone") from error
        time = self.auto_restart_time
        if time is not None and not re.fullmatch(r"(0[1-9]|1[0-2]):[0-5]\d (AM|PM)", time):
            raise ValueError(f'auto_restart_time is {time!r}, but must look like "11:45 PM"')

    @property
    def live(self) -> bool:
        """Whether real money is traded: a second factor, and no disclaimer."""
        return self.trading_mode == "live"

    @property
    def api_port(self) -> int:
        """The API's port inside the container."""
        return 4001 if self.live else 4002

    @property
    def outer_port(self) -> int:
        """The port inside that is published."""
        return 4003 if self.live else 4004
