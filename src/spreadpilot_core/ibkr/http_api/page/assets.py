"""What a browser loads besides: our style and scripts, and those of npm packages where they were fetched (`make setup`).

All of it is read once, off the event loop, when the application is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATIC = Path(__file__).parent / "static"
VENDOR = "vendor"
"""The folder in it that is never committed."""
HTMX = f"{VENDOR}/htmx.org/htmx.min.js"
NOVNC = f"{VENDOR}/novnc/core/rfb.js"
PREFIX = "/static"
FOREVER = "public, max-age=31536000, immutable"
"""What is told of an asset: its address holds a digest of all of them."""
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content: bytes
    media_type: str


class Assets:
    """All that there are."""

    def __init__(self, files: Mapping[str, Asset]) -> None:
        self._files = files
        digest = hashlib.sha256()
        for name, asset in sorted(files.items()):
            digest.update(name.encode() + b"\0" + asset.content)
        self.version = digest.hexdigest()[:12]

    @classmethod
    def read(cls, folder: Path = STATIC) -> Assets:
        """Those of the package."""
        found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
        files = {
            path.relative_to(folder).as_posix(): Asset(path.read_bytes(), _TYPES.get(path.suffix, _TEXT))
            for path in found
        }
        return cls(files)

    def find(self, name: str) -> Asset | None:
        """By its name below `static`."""
        return self._files.get(name)

    def url(self, name: str) -> str | None:
        """Where a browser finds it; None where it is not there. Scripts that load others find them beside themselves."""
        return f"{PREFIX}/{self.version}/{name}" if name in self._files else None
