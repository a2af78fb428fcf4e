"""Which file of the host is behind a path inside a container: Docker secrets and mounted files.

`TWS_PASSWORD_FILE=/run/secrets/tws_password` names a file that only the container has; here it is found by what the compose file
mounts there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from spreadpilot_core.ibkr.system.regular_files import read_regular

_LONGEST = 64 * 1024


class UnreadableError(Exception):
    """What is behind the path can't be had here; a clause that says why."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the content of one secret comes from."""

    path: Path | None = None
    value: str | None = field(default=None, repr=False)
    """What a variable of the shell holds, where the secret names one."""
    why_not: str = ""
    """Why it can't be had, where neither is there."""


@dataclass(frozen=True, slots=True)
class Mounts:
    """What a service has mounted, by the path inside."""

    secrets: Mapping[str, SecretSource]
    binds: Mapping[str, Path]

    def read(self, inside: str) -> str:
        """The text of the file at this path of the container.

        Raises:
            UnreadableError: nothing that can be read here is mounted there, or it is no text.
        """
        secret = self.secrets.get(inside)
        if secret is not None and secret.value is not None:
            return secret.value
        if secret is not None and secret.path is None:
            raise UnreadableError(secret.why_not)
        path = secret.path if secret is not None else self._bound(inside)
        if path is None:
            reason = "nothing that can be read here is mounted there"
            raise UnreadableError(reason)
        try:
            return read_regular(path, longest=_LONGEST).decode()
        except UnicodeDecodeError:
            reason = f"{path} is not UTF-8 text"
        except (OSError, ValueError) as error:
            reason = f"{path} can't be read ({getattr(error, 'strerror', None) or 'it is no path'})"
        raise UnreadableError(reason)

    def _bound(self, inside: str) -> Path | None:
        place = PurePosixPath(inside)
        for each in (place, *place.parents):
            if str(each) in self.binds:
                return self.binds[str(each)] / place.relative_to(each)
        return None
