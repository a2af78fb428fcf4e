"""What may be chosen for one gateway: the fleet's settings give defaults, a follower's `gateway` table overrides by name."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


@cache
def known_time_zones() -> frozenset[str]:
    """Read once: it walks the disk, which must not happen on the loop for each follower.

    Without the two that are files on some hosts and no zones: a gateway's Java takes what it does not know for UTC.
    """
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _restart_time(value: str) -> str:
    if not re.fullmatch(r"(0[1-9]|1[0-2]):[0-5]\d (AM|PM)", value):
        msg = 'must look like "11:45 PM"'
        raise ValueError(msg)
    return value


def _time_zone(value: str) -> str:
    if value not in known_time_zones():
        msg = 'must be an IANA time zone such as "America/New_York"'
        raise ValueError(msg)
    return value


_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::\w[\w.-]*)?(?:@\w[\w+.-]*:[0-9a-fA-F]{{32,}})?", re.ASCII)
"""Docker's grammar of references, as far as it tells a name from a slip: asked for some slips, an engine answers anything."""


LONGEST_IMAGE_NAME = 512
"""Characters: registries take 255 for the name, 128 for the tag, and a digest has 71."""


def _image_name(value: str) -> str:
    if len(value) > LONGEST_IMAGE_NAME:
        msg = f"must have at most {LONGEST_IMAGE_NAME} characters"
        raise ValueError(msg)
    if not _IMAGE.fullmatch(value):
        msg = 'must be an image\'s name such as "ghcr.io/gnzsnz/ib-gateway:stable"'
        raise ValueError(msg)
    return value


ImageName = Annotated[str, AfterValidator(_image_name)]
RestartTime = Annotated[str, AfterValidator(_restart_time)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]


class GatewayOptions(BaseModel):
    """Per-gateway choices; None means the fleet's setting of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: ImageName | None = None
    """Container image, e.g. "ghcr.io/gnzsnz/ib-gateway:stable"."""
    image_contract: Literal["ibc", "ibcontroller"] | None = None
    """Which generation the image is, where it can't be told by looking; None looks."""
    read_only_api: bool | None = None
    """Refuse orders over the API."""
    existing_session_action: Literal["primary", "primaryoverride", "secondary"] | None = None
    """Who yields when the user logs in elsewhere; `primary` keeps this session."""
    reset_window_wait: bool | None = None
    """Begin no login inside IBKR's short reset hours."""
    auto_restart_time: RestartTime | None = None
    """Daily restart without a new login, in the gateway's time zone, "hh:mm AM|PM"."""
    time_zone: TimeZone | None = None
    """The gateway's time zone (IANA name)."""
    java_heap_mib: int | None = Field(default=None, ge=256, le=16384)
    """Java heap, MiB."""
    vnc: bool | None = None
    """Offer the gateway's screen on a loopback port."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """The host port of the gateway's API, pinned; None keeps the one that the follower had as long as it is free."""

    def filled_from(self, fleet: GatewayOptions) -> GatewayOptions:
        """These options, with what is None taken from the fleet's."""
        return fleet.model_copy(update=self.model_dump(exclude_none=True))
