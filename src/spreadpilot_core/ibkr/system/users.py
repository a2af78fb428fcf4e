"""Users of this host, as a sentence names them."""

from __future__ import annotations

import pwd


def by_user(uid: int) -> str:
    """How a person runs a command as that user."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"'#{uid}'"
    return f"`sudo -u {name} gateway-manager …`"
