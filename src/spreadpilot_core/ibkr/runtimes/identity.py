"""Which manager this is: the identity that its containers bear, the note of it in the state directory, and the sign of life.

    made once    by the first start on a record store; the store keeps it, and `identity.json` in `state_dir` too
    lost         a store without an identity gets it back from the state directory that comes with it
    adopted      an operator said that another manager has ended (`run --adopt-from`): its identity is added to the store's own

Several managers on one database share its identity. A manager that lives holds an abstract Unix socket whose name says which
identities it has. The kernel takes the socket away with the process, and every manager of an engine sees it: to publish
gateways on the host's loopback they all run in the host's network namespace.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import write_whole

NOTE: Final = "identity.json"
_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SIGN: Final = "spreadpilot-gateway-manager"
_SOCKETS: Final = Path("/proc/net/unix")


def new_identities() -> Identities:
    """For a store that never had any."""
    return Identities(secrets.token_hex(8))


# ---------------------------------------------------------------------------------------------- the state directory


def read_note(settings: Settings) -> Identities | None:
    """What the state directory says of the manager on these settings' record store; None when it says nothing."""
    return _identities(_notes(settings.state_dir / NOTE).get(_store_of(settings)))


def write_note(settings: Settings, identities: Identities) -> None:
    """Note it, for a store that loses it and for commands beside the manager. Raises `OSError`."""
    path = settings.state_dir / NOTE
    notes = _notes(path)
    said = list(identities.all)
    if notes.get(_store_of(settings)) == said:
        return
    write_whole(path, json.dumps({**notes, _store_of(settings): said}, indent=1).encode())


def _store_of(settings: Settings) -> str:
    """Names the record store within this state directory, also once the directory is elsewhere."""
    if not settings.store_is_local:
        return f"{settings.store_scheme}:{settings.mongo_db_name}"
    directory = settings.local_store_dir.absolute()
    return f"{settings.store_scheme}:{'' if directory == settings.state_dir.absolute() else directory}"


def _notes(path: Path) -> dict[str, object]:
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(found := json.loads(read_regular(path)), dict):
            return found
    return {}


def _identities(found: object) -> Identities | None:
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        return None
    own, *adopted = found
    return Identities(own, tuple(adopted)) if all(_FORM.fullmatch(each) for each in found) else None


# ---------------------------------------------------------------------------------------------- the sign of life


@dataclass(frozen=True, slots=True)
class Sign:
    """A manager that lives on this host."""

    identity: str
    """One of those that it takes for its own."""
    own: str
    pid: int

    def __str__(self) -> str:
        return f"the manager with the identity {self.own} (process {self.pid})"


class SignOfLife:
    """This manager's own, from `show` to `close`."""

    def __init__(self) -> None:
        self._shown: list[socket.socket] = []

    def show(self, identities: Identities) -> None:
        """Say that these identities have a living manager; nothing where the system has no abstract sockets."""
        self.close()
        if not sys.platform.startswith("linux"):
            return
        for identity in identities.all:
            sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._shown.append(sign)
            mark = f"{os.getpid()}/{secrets.token_hex(4)}"
            sign.bind(f"\0{_SIGN}/{identity}/{identities.own}/{mark}")

    def is_own(self, inode: int) -> bool:
        """Whether this sign is the present manager's."""
        return any(os.fstat(sign.fileno()).st_ino == inode for sign in self._shown)

    def close(self) -> None:
        """Show nothing any more."""
        for sign in self._shown:
            sign.close()
        self._shown.clear()


def living(identities: Sequence[str], *, but: SignOfLife | None = None) -> list[Sign]:
    """The managers on this host that take one of these identities for their own; none can be seen without `/proc`."""
    return [sign for sign, inode in _signs() if sign.identity in identities and not (but and but.is_own(inode))]


def _signs() -> Iterator[tuple[Sign, int]]:
    try:
        rows = _SOCKETS.read_text(errors="replace").splitlines()
    except OSError:
        return
    for fields in (row.split() for row in rows if f"@{_SIGN}/" in row):
        *_, inode, name = fields
        kind, *parts = name.removeprefix("@").split("/")
        if kind == _SIGN and len(parts) == 4 and parts[2].isdigit() and inode.isdigit():  # noqa: PLR2004  # as `show` binds
            yield Sign(parts[0], parts[1], int(parts[2])), int(inode)
