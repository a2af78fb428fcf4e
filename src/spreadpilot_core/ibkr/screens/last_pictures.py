"""The last pictures of each follower's gateways, on this host's disk: `pictures/FOLLOWER/TIME.png` in the state directory.

The follower's part is a digest, since an id may be any text; the time is a picture's id.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.details import Picture, ScreenAddress
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.screens.picture import Pixels, read_pixels
from spreadpilot_core.ibkr.screens.rfb import RfbError, signed_in, writing
from spreadpilot_core.ibkr.system.clock import Clock, utc_now
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import write_whole
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

DIRECTORY = "pictures"
"""In the state directory."""
MOST_PICTURES = 3
"""Pictures of one follower: the newest."""
EXPIRE_AFTER = timedelta(days=90)
"""Of whichever follower, who may be gone."""
MOST_BYTES = 4 * 2**20
"""Of one picture; a login window has some ten thousand."""
TAKEN_WITHIN = 10.0
"""Seconds for the password of the screen and the picture together, however long its taker would wait."""
_TIME = "%Y%m%dT%H%M%S%f"
_ID = re.compile(r"\d{8}T\d{12}", re.ASCII)

AddressOf = Callable[[Gateway], Awaitable[ScreenAddress]]
"""Where a gateway's screen is, and what opens it. Raises `GatewayManagerError`."""


class LastPicturesOnDisk:
    """Fulfils `seams.LastPictures`."""

    def __init__(self, state_dir: Path, address_of: AddressOf, clock: Clock = utc_now) -> None:
        self._state_dir = state_dir
        self._address_of = address_of
        self._clock = clock

    async def take(self, gateway: Gateway) -> None:
        """Take one now and keep it; what keeps it from that is logged."""
        try:
            async with asyncio.timeout(TAKEN_WITHIN), signed_in(await self._address_of(gateway)) as (reader, writer):
                pixels = await read_pixels(reader.readexactly, writing(writer))
            await asyncio.to_thread(self._keep, gateway.follower_id, pixels)  # goes on when its taker waits no more
        except (GatewayManagerError, RfbError, OSError, EOFError, TimeoutError) as error:
            why = str(error) or "its VNC server does not answer"
            log.info("no last picture", follower=gateway.follower_id, why=why)

    def _keep(self, follower_id: str, pixels: Pixels) -> None:
        content = pixels.as_png()
        if len(content) > MOST_BYTES:
            raise RfbError(f"it has {len(content)} bytes")
        now = self._clock()
        for path in (self._state_dir / DIRECTORY).glob("*/*.png"):
            if _is_picture(path) and path.stem < f"{now - EXPIRE_AFTER:{_TIME}}":
                path.unlink(missing_ok=True)
        place = _place(self._state_dir, follower_id)
        write_whole(place / f"{now.astimezone(UTC):{_TIME}}.png", content)
        for path in _newest_first(place)[MOST_PICTURES:]:
            path.unlink(missing_ok=True)

    async def list(self, follower_id: str) -> tuple[Picture, ...]:
        """The newest first."""
        found = await asyncio.to_thread(pictures_of, self._state_dir, follower_id)
        return tuple(picture for picture, _ in found)

    async def read(self, follower_id: str, picture_id: str) -> bytes | None:
        """As PNG; None: there is none of this id."""
        path = _place(self._state_dir, follower_id) / f"{picture_id}.png"
        if not _is_picture(path):
            return None
        try:
            return await asyncio.to_thread(read_regular, path, longest=MOST_BYTES)
        except OSError:
            return None


def pictures_of(state_dir: Path, follower_id: str) -> list[tuple[Picture, Path]]:
    """Those of a follower with their files, the newest first; blocking, so off the event loop."""
    found = []
    for path in _newest_first(_place(state_dir, follower_id)):
        with suppress(OSError):  # it goes just now
            at = datetime.strptime(path.stem, _TIME).replace(tzinfo=UTC)
            found.append((Picture(id=path.stem, at=at, size=path.stat().st_size), path))
    return found


def _place(state_dir: Path, follower_id: str) -> Path:
    return state_dir / DIRECTORY / hashlib.sha256(follower_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _newest_first(place: Path) -> list[Path]:
    return sorted(filter(_is_picture, place.glob("*.png")), reverse=True)


def _is_picture(path: Path) -> bool:
    """Whether its name is one that is given here: no other place is read or cleared."""
    return _ID.fullmatch(path.stem) is not None
