"""References to secrets as people write them, made one: `ibkr/f1`, `secret/ibkr/f1` and `secret/data/ibkr/f1` are the same.

The encrypted store and Vault both go by the canonical form, so that a fallback finds what the reference names. Versions are
shown in one form too.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import CredentialsRefusedError

DEFAULT_MOUNT = "secret"
LONGEST_REF = 512
"""Characters; as much as a value in the audit trail may have, so that no reference is cut there."""
_SHOWN = 60


def canonical_ref(ref: str, *, mount: str = DEFAULT_MOUNT) -> str:
    """The path of `ref` below the mount, without the mount and the `data/` of version 2.

    Raises:
        CredentialsRefusedError: the reference can't name a secret.
    """
    if len(ref) > LONGEST_REF:
        msg = f"The reference {ref[:_SHOWN]!r}… has {len(ref)} characters; at most {LONGEST_REF} can name a secret."
        raise CredentialsRefusedError(msg, hint='Write it like "ibkr/follower_123".')
    path = ref.lstrip("/")
    below_mount = path.removeprefix(f"{mount.strip('/')}/")
    if below_mount != path:
        path = below_mount.removeprefix("data/")
    path = path.rstrip("/")
    if not path or not path.isprintable() or any(part in {"", ".", ".."} for part in path.split("/")):
        msg = f"{ref!r:.200} is no reference to a secret."
        raise CredentialsRefusedError(msg, hint='Write it like "ibkr/follower_123".')
    return path


def shown_version(version: str) -> str:
    """What people call this version of a secret: its number, without the mark that tells one made anew under its name."""
    return version.partition("-")[0]
