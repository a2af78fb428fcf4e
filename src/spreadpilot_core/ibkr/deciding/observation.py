"""All that is known about one gateway at one moment: the input of `decide`, gathered by its supervisor."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateways import Controller, Gateway, Login
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import (
    AUTOMATIC_PROMPTS,
    NO_LIMITS,
    OPERATOR_LIMITS,
    LoginAttempt,
    LoginLimits,
    Record,
)


class Wanted(str, Enum):
    """What should be, by records and operators."""

    RUN = "run"
    KEEP = "keep"
    """The followers were not read yet: what runs stays connected, nothing is started or removed."""
    DETACH = "detach"
    """The manager detaches: likewise, but a login that is over for good, or loops, is still ended."""
    STOP = "stop"
    """An operator stopped it."""
    DISABLED = "disabled"
    """Disabled or deleted in the follower store."""
    INVALID = "invalid"
    SHUTDOWN = "shutdown"
    """The manager stops."""


BEGINS_NOTHING = frozenset({Wanted.KEEP, Wanted.DETACH})
"""Nothing is started, and nothing that runs is given up."""


class ActionKind(str, Enum):
    """Everything a supervisor can begin."""

    CHECK_IMAGE = "check_image"
    """Get the image, which needs no turn and may take minutes."""
    PREPARE = "prepare"
    """Have the secret read for the controller of the image: user, version, and the logins that count."""
    ASK_PERMIT = "ask_permit"
    RETURN_PERMIT = "return_permit"
    LAUNCH = "launch"
    CONNECT = "connect"
    HEARTBEAT = "heartbeat"
    DROP_CONNECTION = "drop_connection"
    FORGET_SECRET = "forget_secret"  # noqa: S105  # the name of an action
    INSPECT = "inspect"
    REMOVE = "remove"


class Failure(str, Enum):
    """Why an action ended without what it was for."""

    UNAVAILABLE = "unavailable"
    """Something we depend on is away."""
    REFUSED = "refused"
    """Will not pass by itself."""
    LOGIN_REFUSED = "login_refused"
    """The ledger did not reserve the login."""
    PORT_TAKEN = "port_taken"
    EXPIRED = "expired"
    """The secret was read too long ago, or changed meanwhile."""
    ID_IN_USE = "id_in_use"
    """326: another program holds our client id."""
    DISCLAIMER = "disclaimer"
    """10141: the controller has not accepted the paper disclaimer yet."""
    WRONG_ACCOUNT = "wrong_account"
    ABORTED = "aborted"
    """Given up because something else is wanted now."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the last action ended. `serial` grows, so that each is learned from once."""

    serial: int
    kind: ActionKind
    failure: Failure | None = None
    sentence: str = ""
    error_code: ReasonCode | None = None
    """What the error says of the reason; None: the kind of action says it."""
    until: datetime | None = None
    """Not again before this time, where the failure named one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What PREPARE brought: who would log in, and what speaks against it."""

    login: Login
    secret_ref: str
    """Where the follower's record said that it is."""
    controller: Controller
    """Of the image: what the secret was read for."""
    logins: Sequence[LoginAttempt]
    """Logins of this user in the last 24 h, whatever their outcome, oldest first."""
    at: datetime
    reset_hours: str | None = None
    """What the runtime states of them."""

    @property
    def counted(self) -> Sequence[LoginAttempt]:
        """Those of them that count against the budget."""
        return [each for each in self.logins if each.counts]


class PermitState(str, Enum):
    """Admission's answer."""

    HELD = "held"
    WAITING = "waiting"
    """Behind somebody; the supervisor is woken when it may ask again."""
    TAKEN = "taken"
    """Another follower's gateway is logged in as this user."""


@dataclass(frozen=True, slots=True)
class PermitView:
    """Admission's answer and the sentence that goes with it."""

    state: PermitState
    sentence: str = ""
    user: str | None = None
    """The user that it is about; None: leave to read the secret, which tells the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionView:
    """The API connection as it stands."""

    is_open: bool
    accounts: tuple[str, ...]
    last_heartbeat: datetime | None
    link_lost_since: datetime | None
    data_lost: int = 0
    """How often the link came back after IBKR had dropped the subscriptions (1101)."""
    closed_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings that deciding needs; seconds unless said."""

    max_startup_time: float = 120
    window_time: float = 300
    phone_approval_time: float = 300
    connect_time: float = 60
    healthcheck_interval: float = 30
    heartbeat_timeout: float = 10
    stop_grace: float = 90
    login_budget: int = 3
    full_login_limit: int | None = None
    """Logins; None: as many as it takes."""
    secret_poll_interval: float = 300
    command: str = "gateway-manager"
    """How a shell calls the command so that it reaches this manager."""

    def logins_left(self, logins: Sequence[LoginAttempt]) -> int:
        """How many more of a user's logins may fail, or be made, after these of the last 24 h; at least the one that begins."""
        left = self.login_budget - sum(each.counts for each in logins)
        full = self.full_login_limit - len(logins) if self.full_login_limit is not None else left
        return max(1, min(left, full))

    def of_login(self, *, by_operator: bool, overridden: bool) -> LoginLimits:
        """What a login may not exceed, by whose word it is."""
        if overridden:
            return NO_LIMITS
        if by_operator:
            return OPERATOR_LIMITS
        full = self.full_login_limit
        prompts = min(full, AUTOMATIC_PROMPTS) if full is not None else None
        return LoginLimits(counted=self.login_budget, full=full, prompts=prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """The rest of the fleet, for evidence."""

    total: int = 1
    link_lost: int = 0
    """How many gateways have lost IBKR now."""
    lost: int = 0
    """How many followers have lost a gateway within `SHARED_WITHIN`."""


def typed_in(view: LoginView | None) -> int:
    """How many logins a controller has typed, as far as its log says."""
    return view.attempts if view is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One gateway, now."""

    follower_id: FollowerId
    wanted: Wanted
    wanted_why: Reason | None = None
    follower: Follower | None = None
    runtime_fault: Reason | None = None
    """Why the runtime can't be reached, while it can't."""
    gateway: Gateway | None = None
    record_fault: str | None = None
    """What was kept of this follower can't be understood; a sentence."""
    left_elsewhere: str | None = None
    """Its gateway was left on another engine; a sentence."""
    unclaimed: Reason | None = None
    """About a container that may be this follower's gateway, and that nothing proves to be: it is left alone."""
    gateway_stale: bool = False
    """What is known of the container is in doubt: INSPECT tells, or, where none is known, the fleet's next list."""
    login: LoginView | None = None
    last_login: LoginView | None = None
    """What the log of a container that is gone said, its last words included."""
    log_ended: bool = True
    """The log of this container can bring nothing more (of a container that ended, it was read to its end)."""
    connection: ConnectionView | None = None
    running: ActionKind | None = None
    """The action in flight."""
    image_checked: bool = True
    """The image that is wanted was at hand since the last launch."""
    outcome: Outcome | None = None
    """How the last action ended."""
    preflight: Preflight | None = None
    permit: PermitView | None = None
    attempt: LoginAttempt | None = None
    """The login that is written down and not settled."""
    logins: Sequence[LoginAttempt] = ()
    """Logins of the present gateway's user that ended, oldest first, as far as this manager knows."""
    phone: str | None = None
    """Whose phone a login with the prepared secret asks."""
    user_taken_by: FollowerId | None = None
    """The other follower whose gateway is logged in as the user of the prepared secret."""
    record: Record
    newest_version: str | None = None
    """The newest version of the secret, by metadata."""
    operator_login: bool = False
    """An operator takes one more login on purpose."""
    overridden_user: str | None = None
    """With it, the IBKR user whose account the operator lets be locked for it (`--override-account-lock`)."""
    restart_asked: datetime | None = None
    reconnect_asked: bool = False
    stated_reset_hours: str | None = None
    """The reset hours that the runtime states (see `model.reset_windows`); None: IBKR's own."""
    launch_waits: str | None = None
    """What the launch that is under way waits for, in the runtime's words."""
    reset_window_wait: bool = True
    """No login is begun in the short reset hours."""
    secret_forgotten: bool = True
    """The password file inside the container is gone, or was never there."""
    limits: Limits = field(default_factory=Limits)

    def command(self, what: str, *options: str) -> str:
        """A line for a shell that does `what` with this follower."""
        words = (what, shlex.quote(self.follower_id), *(shlex.quote(each) for each in options))
        return f"`{self.limits.command} {' '.join(words)}`"

    @property
    def books_logins(self) -> bool:
        """Whether logins that the last container's controller typed still have to be written down."""
        return self.gateway is None and typed_in(self.last_login) > max(1, self.record.logins_booked)
