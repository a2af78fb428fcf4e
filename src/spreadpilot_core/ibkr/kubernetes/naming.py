"""What one manager's things in a cluster are called and how they are marked, so that it touches nothing else's.

A name is taken by creating the pod: the API server lets one have it. Labels are short and of few characters, so that whatever must
come back as it was is an annotation; labels are there to be searched by. Pure: no API, no I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.records import NOBODY, Identities

NAMESPACE: Final = "spreadpilot.gateway-manager"
"""Of labels and annotations."""
ROLE: Final = f"{NAMESPACE}/role"
GATEWAY: Final = "gateway"
PROBE: Final = "image-probe"
FOLLOWER_DIGEST: Final = f"{NAMESPACE}/follower-digest"
USER: Final = f"{NAMESPACE}/user"
"""A digest of the IBKR user."""
IDENTITY_DIGEST: Final = f"{NAMESPACE}/identity-digest"

OWNER: Final = f"{NAMESPACE}/owner"
IDENTITY: Final = f"{NAMESPACE}/identity"
FOLLOWER: Final = f"{NAMESPACE}/follower"
CLIENT_ID: Final = f"{NAMESPACE}/client-id"
TRADING_MODE: Final = f"{NAMESPACE}/trading-mode"
SPEC: Final = f"{NAMESPACE}/spec"
VERSION: Final = f"{NAMESPACE}/version"
CONTROLLER: Final = f"{NAMESPACE}/controller"
RESET_HOURS: Final = f"{NAMESPACE}/reset-hours"
LAUNCH: Final = f"{NAMESPACE}/launch"
COMMITTED: Final = f"{NAMESPACE}/committed"
"""Written right before the password is delivered: from then on a login may be typed at any time."""
FINALIZER: Final = f"{NAMESPACE}/confirmed-end"
"""Keeps a pod's object, whoever deletes it and however, until this manager has seen that its node confirmed its end."""
SELECTOR: Final = f"{ROLE}={GATEWAY}"
"""Every manager's gateways."""
FOLLOWED: Final = f"{ROLE} in ({GATEWAY},{PROBE})"
"""The same, and the probes of images."""

_LEGAL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_MAPPED = re.compile(r".*--[0-9a-f]{16}")
_LONGEST_PREFIX, _LONGEST_ID = 24, 34
"""Characters; with a hyphen between them no more than the 63 of a host name."""
_DIGEST = 16


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one manager's things: `prefix` is how they begin, `identities` whose they are."""

    prefix: str
    identities: Identities = NOBODY

    def pod(self, follower_id: FollowerId) -> str:
        """The follower's pod. No two followers under one prefix have the same."""
        return f"{legal(self.prefix, _LONGEST_PREFIX)}-{legal(follower_id, _LONGEST_ID)}"

    def service(self, follower_id: FollowerId) -> str:
        """The follower's name in the cluster's DNS: the pod's, which may not begin with a digit there."""
        name = self.pod(follower_id)
        return f"gw-{name}" if name[0].isdecimal() else name

    @property
    def gateways(self) -> str:
        """What is about all of its gateways."""
        return f"{legal(self.prefix, _LONGEST_PREFIX)}-gateways"

    def claim(self, follower_id: FollowerId, mode: TradingMode, user: str) -> str:
        """The claim of the follower's settings, apart for each user and mode: what two logins leave in one place breaks restarts."""
        return f"{self.pod(follower_id)}-{mode.value}-{digest(user)[:8]}"

    def image_probe(self, reference: str) -> str:
        """How the names of the probes of an image begin."""
        return f"{legal(self.prefix, _LONGEST_PREFIX)}-image-{digest(reference)[:8]}"

    def labels(self, follower_id: FollowerId) -> dict[str, str]:
        """What everything that belongs to one follower is searched by."""
        return {
            "app.kubernetes.io/name": "ib-gateway",
            "app.kubernetes.io/managed-by": "gateway-manager",
            FOLLOWER_DIGEST: digest(follower_id),
            IDENTITY_DIGEST: digest(self.identities.own),
        }

    def marks(self, follower_id: FollowerId) -> dict[str, str]:
        """The annotations of everything that belongs to one follower."""
        return {OWNER: self.prefix, IDENTITY: self.identities.own, FOLLOWER: follower_id}

    def owns(self, thing: Mapping[str, Any]) -> bool:
        """Whether something bears an identity of this manager."""
        return annotations_of(thing).get(IDENTITY) in self.identities

    def others_identity(self, thing: Mapping[str, Any]) -> str | None:
        """Another manager's identity that something bears."""
        return None if self.owns(thing) else annotations_of(thing).get(IDENTITY)


def annotations_of(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """Of anything that the API server has."""
    found = (thing.get("metadata") or {}).get("annotations")
    return found if isinstance(found, dict) else {}


def labels_of(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """Of anything that the API server has."""
    found = (thing.get("metadata") or {}).get("labels")
    return found if isinstance(found, dict) else {}


def legal(text: str, longest: int) -> str:
    """A part of a name: the text itself where it can be, else what is left of it and a digest of it.

    A text that looks like the second form gets a digest too, so that the forms never meet.
    """
    if len(text) <= longest and _LEGAL.fullmatch(text) and not _MAPPED.fullmatch(text):
        return text
    readable = "-".join(re.findall(r"[a-z0-9]+", text.lower()))[: longest - _DIGEST - 2].strip("-")
    return f"{readable or 'x'}--{digest(text)[:_DIGEST]}"


def digest(text: str) -> str:
    """Forty characters that may stand in a label."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
