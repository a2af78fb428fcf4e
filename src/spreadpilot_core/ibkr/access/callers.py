"""Who asks, and what that one may do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from spreadpilot_core.ibkr.errors import GatewayManagerError


class Role(str, Enum):
    """What somebody may do; each may do what those before it may."""

    VIEWER = "viewer"
    """Read."""
    TRADER = "trader"
    """Use gateways: lease client ids, have connections replaced."""
    OPERATOR = "operator"
    """Everything."""

    def covers(self, needed: Role) -> bool:
        """Whether this one may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in."""

    name: str
    """Of the token, or who stands behind the control socket."""
    role: Role
    followers: frozenset[str] | None = None
    """The only ones that exist for this caller; None: all of them."""
    peer: str | None = None
    """Where the request comes from; None: from this host, through the control socket."""
    csrf_token: str | None = field(default=None, repr=False)
    """Of a session: what its forms send beside the cookie."""
    key: str = field(default="", repr=False)
    """Tells tokens and sessions apart, also those with one name, and says nothing about them."""

    def may_see(self, follower_id: str | None) -> bool:
        """Whether this follower, or what concerns the whole manager (None), exists for the caller."""
        return self.followers is None or follower_id in self.followers

    @property
    def actor(self) -> str:
        """As the audit trail has it."""
        return self.name if self.peer is None else f"token {self.name}, from {self.peer}"


class RefusedCallerError(GatewayManagerError):
    """The request is refused for who asks, or how; nothing was done."""

    code = 403
    """Of HTTP."""
    headers: Mapping[str, str] = {}
    """What the answer says besides."""


class NotSignedInError(RefusedCallerError):
    """Nobody has shown a token that is valid."""

    code = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}

    def __init__(self, why: str = "The request shows no token.") -> None:
        super().__init__(why, hint="Send `Authorization: Bearer TOKEN`; `gateway-manager tokens add` makes one.")


class ForbiddenError(RefusedCallerError):
    """The token is valid, and does not allow this."""

    def __init__(self, role: Role, needed: Role) -> None:
        super().__init__(f"This needs the role {needed.value}, and the token has the role {role.value}.")


class ForgedRequestError(RefusedCallerError):
    """A browser sends a session's cookie, and nothing shows that the manager's own page made the request."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The request is refused: {why}.",
            hint="Requests with a session's cookie come from the manager's own page, and bring its CSRF token along.",
        )


class TooManyRequestsError(RefusedCallerError):
    """More than is served to one caller."""

    code = 429

    def __init__(self, what: str, retry_after: float) -> None:
        self.headers = {"Retry-After": str(max(1, round(retry_after)))}
        super().__init__(f"Too many {what}.", hint="Go on more slowly; `Retry-After` says when.")


def followers_of(names: Collection[str] | None) -> frozenset[str] | None:
    """As a caller has them."""
    return None if names is None else frozenset(names)
