"""All that is known about one gateway at one moment: the input of `decide`, gathered by its supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from spreadpilot_core.ibkr.login_log import LoginView
from spreadpilot_core.ibkr.protocols import Dialect, Follower, FollowerId, Gateway, Login, LoginAttempt, Record


class Wanted(str, Enum):
    """What should be, by records and operators."""

    RUN = "run"
    KEEP = "keep"
    """The followers were not read yet: what runs stays connected, nothing is started or removed."""
    STOP = "stop"
    """An operator stopped it."""
    DISABLED = "disabled"
    """Disabled or deleted in the follower store."""
    INVALID = "invalid"
    SHUTDOWN = "shutdown"
    """The manager stops."""


class ActionKind(str, Enum):
    """Everything a supervisor can begin."""

    PREPARE = "prepare"
    """Get the image and have the secret read: user, version, and the logins that count."""
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
    until: datetime | None = None
    """Not again before this time, where the failure named one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What PREPARE brought: who would log in, and what speaks against it."""

    login: Login
    dialect: Dialect
    counted: Sequence[LoginAttempt]
    """Logins of this user that count against the budget, oldest first."""
    at: datetime


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
    phone_approval_time: float = 300
    connect_time: float = 60
    healthcheck_interval: float = 30
    heartbeat_timeout: float = 10
    stop_grace: float = 90
    login_budget: int = 3
    secret_poll_interval: float = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """The rest of the fleet, for evidence."""

    total: int = 1
    link_lost: int = 0
    """How many gateways have lost IBKR now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One gateway, now."""

    follower_id: FollowerId
    wanted: Wanted
    wanted_why: str = ""
    follower: Follower | None = None
    spec_digest: str | None = None
    runtime_fault: str | None = None
    """A sentence while the runtime can't be reached."""
    gateway: Gateway | None = None
    gateway_stale: bool = False
    """What is known of the container is in doubt: INSPECT tells, or, where none is known, the fleet's next list."""
    login: LoginView | None = None
    log_ended: bool = True
    """The log of this container can bring nothing more (of a container that ended, it was read to its end)."""
    connection: ConnectionView | None = None
    running: ActionKind | None = None
    """The action in flight."""
    outcome: Outcome | None = None
    """How the last action ended."""
    prepared: Prepared | None = None
    permit: PermitView | None = None
    attempt: LoginAttempt | None = None
    """The login that is written down and not settled."""
    record: Record
    newest_version: str | None = None
    """The newest version of the secret, by metadata."""
    operator_login: bool = False
    """An operator takes one more login on purpose."""
    restart_asked: datetime | None = None
    reconnect_asked: bool = False
    secret_forgotten: bool = True
    """The password file inside the container is gone, or was never there."""
    limits: Limits = field(default_factory=Limits)
