"""What images said of themselves when they were looked at last, in a file of the state directory: for the next manager's first launches.

It is a guess there, and made sure of before a login (see `images`). A file that is damaged, or can't be written, is as good as none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import write_whole
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

NOTES: Final = "kubernetes-images.json"
_MOST: Final = 20
_LONGEST: Final = 64 * 1024
"""Characters that one image may say; a real one's variables have some thousand."""


class ImageNotes:
    """Where `path` is None, nothing is noted."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._said: dict[str, str] = {}
        self._writing = asyncio.Lock()

    async def read(self) -> Mapping[str, str]:
        """What each image said, by its name."""
        if self._path is not None:
            self._said = await asyncio.to_thread(_read, self._path)
        return self._said

    async def note(self, reference: str, said: str) -> None:
        """The newest of them all."""
        if self._path is None or self._said.get(reference) == said or len(said) > _LONGEST:
            return
        self._said.pop(reference, None)
        self._said = dict(list({**self._said, reference: said}.items())[-_MOST:])
        async with self._writing:
            try:
                await asyncio.to_thread(write_whole, self._path, json.dumps(self._said, indent=1).encode())
            except OSError as fault:
                log.warning("what an image said was not noted", image=reference, why=str(fault))


def _read(path: Path) -> dict[str, str]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_regular(path))
        if isinstance(found, dict):
            return {name: said for name, said in found.items() if isinstance(said, str)}
    return {}
