"""What one manager's things on an engine are called and how they are marked, so that it touches nothing else's.

Names are made to be read. The identity in the labels says whose a thing is; a container's must agree with much else before it
is believed (see `containers` and `ownership`), since an image hands its labels on. Pure: no engine, no I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.records import NOBODY, Identities

_NAMESPACE = "spreadpilot.gateway-manager"
OWNER = f"{_NAMESPACE}.owner"
"""The prefix of the names; a filter for this label finds every manager's things."""
IDENTITY = f"{_NAMESPACE}.identity"
LAUNCH = f"{_NAMESPACE}.launch"
USER = f"{_NAMESPACE}.user"
"""A digest of the IBKR user."""
FOLLOWER = f"{_NAMESPACE}.follower"
HOST_PORT = f"{_NAMESPACE}.host-port"
CLIENT_ID = f"{_NAMESPACE}.client-id"
TRADING_MODE = f"{_NAMESPACE}.trading-mode"
SPEC = f"{_NAMESPACE}.spec"
VERSION = f"{_NAMESPACE}.version"
CONTROLLER = f"{_NAMESPACE}.controller"

_LEGAL = re.compile(r"[a-zA-Z0-9_.-]+")
_MAPPED = re.compile(r".*--[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one manager's things: `prefix` is how they begin, `identities` whose they are."""

    prefix: str
    identities: Identities = NOBODY

    @property
    def network(self) -> str:
        """The bridge network."""
        return f"{self.prefix}-network"

    @property
    def own_network(self) -> str:
        """The bridge network where another manager with the same prefix has the first name."""
        return f"{self.network}-{self.identities.own}"

    def container(self, follower_id: FollowerId) -> str:
        """The follower's container. No two followers under one prefix have the same."""
        return f"{self.prefix}-{_legal(follower_id)}"

    def client_network(self, follower_id: FollowerId) -> str:
        """The network of the follower's gateway and the bots that are its clients."""
        return f"{self.container(follower_id)}-clients"

    def volume(self, follower_id: FollowerId, mode: TradingMode, user: str) -> str:
        """The follower's settings, apart for each user and mode: what two logins leave in one place breaks restarts."""
        return f"{self.container(follower_id)}-{mode.value}-{_digest(user)[:8]}"

    def marks(self, follower_id: FollowerId) -> Mapping[str, str]:
        """The labels of everything that belongs to one follower."""
        return {**self.own_marks, FOLLOWER: follower_id}

    @property
    def own_marks(self) -> Mapping[str, str]:
        """The labels of everything that this manager makes."""
        return {OWNER: self.prefix, IDENTITY: self.identities.own}

    def owns(self, labels: Mapping[str, str] | None) -> bool:
        """Whether something with these labels bears an identity of this manager."""
        return labels is not None and OWNER in labels and labels.get(IDENTITY) in self.identities

    def others_identity(self, labels: Mapping[str, str] | None) -> str | None:
        """Another manager's identity that something with these labels bears."""
        marks = labels or {}
        return marks[IDENTITY] if OWNER in marks and IDENTITY in marks and not self.owns(marks) else None


def _legal(follower_id: str) -> str:
    """An id that the engine takes in a name: itself where it can be, else what is left of it and a digest of it.

    An id that looks like the second form gets a digest too, so that the forms never meet.
    """
    if _LEGAL.fullmatch(follower_id) and not _MAPPED.fullmatch(follower_id):
        return follower_id
    readable = "-".join(_LEGAL.findall(follower_id))[:40]
    return f"{readable}--{_digest(follower_id)[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
