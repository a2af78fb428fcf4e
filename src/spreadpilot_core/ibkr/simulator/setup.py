"""What a container was given when it was created: the same for both controllers, plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the container was given when it was created; the same for both controllers."""

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
    settings_dir: Path | None = None
    """Survives the container; holds the token of a nightly restart while one is under way."""

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
