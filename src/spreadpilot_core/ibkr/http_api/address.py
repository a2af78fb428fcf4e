"""Where a running manager listens: the Unix socket in its state directory, also where that path is long, or an address."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spreadpilot_core.ibkr.errors import SettingsError

SOCKET = "control.sock"
_LONGEST = 103 if sys.platform == "darwin" else 107
"""Bytes that the kernel takes for a Unix socket's path."""


def listening_socket(state_dir: Path) -> socket.socket:
    """A socket that listens in the state directory, for its owner alone.

    The caller owns the directory's lock, so a socket that is there already is a dead manager's and is replaced.

    Raises:
        SettingsError: the path is too long for this system, or the socket can't be made there.
    """
    try:
        return _listening(state_dir)
    except OSError as error:
        allowed = f"its {SOCKET} can't be made ({error.strerror or error}); control_socket=False does without"
        raise SettingsError("state_dir", str(state_dir), allowed) from None


def listening_at(setting: str, address: str) -> socket.socket:
    """A socket that listens at "host:port", or "[address]:port" for IPv6.

    Raises:
        SettingsError: that can't be done; the setting is named.
    """
    host, _, port = address.rpartition(":")
    plain = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in plain else socket.AF_INET
        return socket.create_server((plain, int(port)), family=family, backlog=128)
    except OSError as error:
        allowed = f"must be an address of this host that is free ({error.strerror or error})"
        raise SettingsError(setting, address, allowed) from None


def _listening(state_dir: Path) -> socket.socket:
    path = state_dir / SOCKET
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    try:
        with reachable(state_dir) as address:
            server.bind(address)
        path.chmod(0o600)  # until here the directory's mode, 0700, keeps others out
        server.listen(128)
    except BaseException:
        server.close()
        raise
    return server


@contextmanager
def reachable(state_dir: Path) -> Iterator[str]:
    """The socket's address, short enough to bind or connect to inside the block.

    Raises:
        SettingsError: the path is too long for this system.
        FileNotFoundError: there is no such directory.
    """
    path = str(state_dir / SOCKET)
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    if not Path("/proc/self/fd").is_dir():
        raise SettingsError(
            "state_dir", str(state_dir), f"its path may be {_LONGEST - len(SOCKET) - 1} bytes long here"
        )
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)
