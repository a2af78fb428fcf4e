"""Why a gateway stands where it stands: a code and facts for programs, a sentence and the next action for people.

No code compares, parses or branches on a sentence: what must be told apart has a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Severity(str, Enum):
    """How much a reason or an event should worry somebody."""

    INFO = "info"
    """As it should be, or on its way there."""
    WARNING = "warning"
    """Something is wrong, and the manager is curing it or waiting until it passes."""
    ERROR = "error"
    """It stays wrong until somebody acts."""


class ReasonCode(str, Enum):
    """Why a gateway is not ready, or what happened to it. The value is what JSON carries; `docs/states.md` lists them."""

    # what is wanted
    STOPPED_BY_OPERATOR = "STOPPED_BY_OPERATOR"
    """An operator stopped it; only `launch` starts it again."""
    NOT_ENABLED = "NOT_ENABLED"
    """Its record does not want it, or is gone."""
    RECORD_INVALID = "RECORD_INVALID"
    """Its record can't be used."""
    RECORD_MISSING = "RECORD_MISSING"
    """Its record is gone, and nobody has said that it should be: its gateway is kept for now."""
    LIVE_TRADING_UNCONFIRMED = "LIVE_TRADING_UNCONFIRMED"
    """Its record asks for live trading, its gateway is paper, and no operator has confirmed the change."""
    MANAGER_STOPPING = "MANAGER_STOPPING"
    """The manager stops, and its gateways with it."""
    MANAGER_DETACHING = "MANAGER_DETACHING"
    """The manager detaches: nothing is begun any more."""
    RESTART_REQUESTED = "RESTART_REQUESTED"
    """An operator asked for a restart."""
    RECONNECT_REQUESTED = "RECONNECT_REQUESTED"
    """An operator asked for a new client connection."""

    # what the manager itself waits for
    NOT_OBSERVED_YET = "NOT_OBSERVED_YET"
    """The manager has just begun, and does not know yet what runs."""
    FOLLOWERS_UNKNOWN = "FOLLOWERS_UNKNOWN"
    """The followers were not read yet."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The record store can't be read."""
    NOT_LEADER = "NOT_LEADER"
    """Another manager is the leader, or may be: this one starts and removes nothing."""
    RUNTIME_UNAVAILABLE = "RUNTIME_UNAVAILABLE"
    """What gateways run on does not answer."""
    GATEWAY_UNCLAIMED = "GATEWAY_UNCLAIMED"
    """A container that runs may be its gateway, and no record says so: it is left alone, and nobody logs in beside it."""
    GATEWAY_LEFT_ELSEWHERE = "GATEWAY_LEFT_ELSEWHERE"
    """A manager before this one left its gateway on another engine: it may be logged in there."""
    RECORD_DAMAGED = "RECORD_DAMAGED"
    """What the record store kept of it can't be understood: which password was rejected, and whether it was stopped."""
    IMAGE_NEEDED = "IMAGE_NEEDED"
    """Its image is being fetched."""
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"
    """Its image can't be had, or can't be driven."""
    CREDENTIALS_NEEDED = "CREDENTIALS_NEEDED"
    """Its secret is being read."""
    CREDENTIALS_UNAVAILABLE = "CREDENTIALS_UNAVAILABLE"
    """Its secret can't be read now."""
    CREDENTIALS_REFUSED = "CREDENTIALS_REFUSED"
    """Its secret is missing, forbidden, or can't be typed."""

    # leave to log in
    PERMIT_REQUESTED = "PERMIT_REQUESTED"
    """It asks for its turn to log in."""
    WAITING_FOR_PERMIT = "WAITING_FOR_PERMIT"
    """Another login of the same user or phone, or too many starts, come first."""
    USER_LOGGED_IN_ELSEWHERE = "USER_LOGGED_IN_ELSEWHERE"
    """Another follower's gateway, or another manager's on this engine, is logged in as the same IBKR user."""
    LOGIN_BEING_RECORDED = "LOGIN_BEING_RECORDED"
    """The end of its last login is being written down."""
    IBKR_RESET_WINDOW = "IBKR_RESET_WINDOW"
    """IBKR resets its servers, and logins typed now would be dropped: it waits until that is over."""
    LOGIN_PAUSE = "LOGIN_PAUSE"
    """A login failed, or IBKR asked for a pause; the next one has its time."""
    LOGIN_BUDGET_SPENT = "LOGIN_BUDGET_SPENT"
    """As many logins of this user failed within 24 hours as `login_budget` allows."""
    FULL_LOGIN_LIMIT = "FULL_LOGIN_LIMIT"
    """As many full logins of this user were made within 24 hours as `full_login_limit` allows."""
    PHONE_PROMPT_LIMIT = "PHONE_PROMPT_LIMIT"
    """A phone was asked as often within 24 hours as may happen by itself."""
    OPERATOR_LOGIN_REFUSED = "OPERATOR_LOGIN_REFUSED"
    """The login that an operator wanted to take would bring the account near IBKR's lock, or came too soon."""
    LOGIN_UNDER_WAY = "LOGIN_UNDER_WAY"
    """A login is under way, and what was asked for would break it off."""
    LOGIN_RESERVATION_REFUSED = "LOGIN_RESERVATION_REFUSED"
    """The record store did not reserve the login."""

    # the container
    CONTAINER_STARTING = "CONTAINER_STARTING"
    """Its container is being created and started."""
    LAUNCH_FAILED = "LAUNCH_FAILED"
    """Its container could not be created or started."""
    PORT_TAKEN = "PORT_TAKEN"
    """Another program took its host port."""
    NAME_TAKEN = "NAME_TAKEN"
    """Something that is not this manager's bears the name of its container, or of what that needs."""
    RANGE_EXHAUSTED = "RANGE_EXHAUSTED"
    """No host port, or no client id, of its range is free."""
    DISK_FULL = "DISK_FULL"
    """What gateways run on has no space left."""
    LAUNCH_RESULT_UNKNOWN = "LAUNCH_RESULT_UNKNOWN"
    """The last launch may have left a container."""
    CONTAINER_CHANGED = "CONTAINER_CHANGED"
    """The runtime said that its container changed, and is asked how."""
    CONTAINER_PAUSED = "CONTAINER_PAUSED"
    """Its container is paused."""
    CONTAINER_NEVER_STARTED = "CONTAINER_NEVER_STARTED"
    """Its container was created and never started."""
    CONTAINER_RESTARTED = "CONTAINER_RESTARTED"
    """Somebody else started its container again, which its password does not outlive."""
    CONTAINER_ENDED = "CONTAINER_ENDED"
    """Its container ended, is ending, or is gone."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    """Its container used more memory than it may, and was killed for it."""
    POD_EVICTED = "POD_EVICTED"
    """The cluster ended its pod: eviction, preemption, a drained node."""
    POD_UNSCHEDULABLE = "POD_UNSCHEDULABLE"
    """No node of the cluster can take its pod."""
    POD_NOT_STARTED = "POD_NOT_STARTED"
    """Its node could not start its pod, or took too long."""
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    """The namespace's quota has no room for its pod."""
    ADMISSION_REFUSED = "ADMISSION_REFUSED"
    """A rule of the cluster does not let its pod in."""
    NODE_LOST = "NODE_LOST"
    """The node of its pod does not answer: it may be logged in there, so that no other one is started."""
    REMOVAL_FAILED = "REMOVAL_FAILED"
    """Its container could not be removed."""
    SESSIONS_UNSTABLE = "SESSIONS_UNSTABLE"
    """Its gateways were lost soon after each login."""

    # the login
    LOGIN_IN_PROGRESS = "LOGIN_IN_PROGRESS"
    """The controller types the login, or IBKR thinks about it."""
    LOGIN_COMPLETED = "LOGIN_COMPLETED"
    """IBKR let it in."""
    LOGIN_FAILED = "LOGIN_FAILED"
    """The login failed."""
    LOGIN_REPEATED = "LOGIN_REPEATED"
    """The controller typed the login again by itself."""
    LOGIN_TIMEOUT = "LOGIN_TIMEOUT"
    """The login did not complete within its time."""
    LOGIN_OUTCOME_UNKNOWN = "LOGIN_OUTCOME_UNKNOWN"
    """The log tells no end of the login, or its container went before one was known."""
    LOGIN_WINDOW_MISSING = "LOGIN_WINDOW_MISSING"
    """Its login window did not appear, and nothing was typed."""
    LOGIN_THROTTLED = "LOGIN_THROTTLED"
    """IBKR refused the login after too many failed ones."""
    PASSWORD_REJECTED = "PASSWORD_REJECTED"  # noqa: S105  # the name of a code
    """IBKR did not accept user name and password."""
    SESSION_REJECTED = "SESSION_REJECTED"
    """IBKR rejected the login of a session that had been logged in, which it does falsely."""
    PHONE_APPROVAL_PENDING = "PHONE_APPROVAL_PENDING"
    """A phone must approve the login."""
    PHONE_APPROVAL_MISSED = "PHONE_APPROVAL_MISSED"
    """Nobody approved the login on the phone in time."""
    PHONE_APPROVALS_USED_UP = "PHONE_APPROVALS_USED_UP"
    """IBKR takes no further approval of this login."""
    PASSKEY_REQUIRED = "PASSKEY_REQUIRED"
    """IBKR wants a passkey, which IB Gateway can't give."""
    API_NOT_INCLUDED = "API_NOT_INCLUDED"
    """The account's pricing plan has no API."""
    PAPER_USER_AMBIGUOUS = "PAPER_USER_AMBIGUOUS"
    """The user name has several paper trading users."""
    GATEWAY_VERSION_REFUSED = "GATEWAY_VERSION_REFUSED"
    """IBKR takes no login of this gateway version any more."""
    IMAGE_TOO_OLD = "IMAGE_TOO_OLD"
    """The image's controller is too old to be trusted with a login."""
    CONTROLLER_FAILED = "CONTROLLER_FAILED"
    """The controller can't work in this image, or with these settings."""
    OPERATOR_INPUT_NEEDED = "OPERATOR_INPUT_NEEDED"
    """IBKR, or the gateway's screen, asks for something that only a human can do."""
    COMPETING_SESSION = "COMPETING_SESSION"
    """Another session of the same user exists."""

    # after the login
    SCHEDULED_RESTART = "SCHEDULED_RESTART"
    """The gateway restarts on its own schedule."""
    SESSION_ENDED = "SESSION_ENDED"
    """IBKR ended the session; the controller may log in again."""
    API_CONNECTING = "API_CONNECTING"
    """Its API is being connected, or must prove itself."""
    PAPER_DISCLAIMER_PENDING = "PAPER_DISCLAIMER_PENDING"
    """The paper disclaimer is being accepted, and clients are turned away until then."""
    API_UNREACHABLE = "API_UNREACHABLE"
    """Its API can't be connected."""
    CLIENT_ID_IN_USE = "CLIENT_ID_IN_USE"
    """Another program holds its client id."""
    WRONG_USER = "WRONG_USER"
    """Its gateway, which was adopted without a record, logs in another IBKR user than that of its stored login."""
    WRONG_ACCOUNT = "WRONG_ACCOUNT"
    """The login does not manage the account that its record names."""
    CONNECTION_CLOSED = "CONNECTION_CLOSED"
    """The API connection was closed."""
    HEARTBEAT_MISSED = "HEARTBEAT_MISSED"
    """A heartbeat got no answer in time."""
    IBKR_LINK_LOST = "IBKR_LINK_LOST"
    """The gateway has lost its link to IBKR; the API connection stays."""

    @property
    def severity(self) -> Severity:
        """How much it should worry somebody, whatever the state: one that waits for a human is always an error."""
        if self in _ERRORS:
            return Severity.ERROR
        return Severity.WARNING if self in _WARNINGS else Severity.INFO


_ERRORS = frozenset(
    {
        ReasonCode.RECORD_INVALID,
        ReasonCode.ADMISSION_REFUSED,
        ReasonCode.NODE_LOST,
        ReasonCode.GATEWAY_LEFT_ELSEWHERE,
        ReasonCode.RECORD_DAMAGED,
        ReasonCode.GATEWAY_UNCLAIMED,
        ReasonCode.CREDENTIALS_REFUSED,
        ReasonCode.NAME_TAKEN,
        ReasonCode.USER_LOGGED_IN_ELSEWHERE,
        ReasonCode.LOGIN_BUDGET_SPENT,
        ReasonCode.FULL_LOGIN_LIMIT,
        ReasonCode.PHONE_PROMPT_LIMIT,
        ReasonCode.OPERATOR_LOGIN_REFUSED,
        ReasonCode.SESSIONS_UNSTABLE,
        ReasonCode.PASSWORD_REJECTED,
        ReasonCode.PHONE_APPROVAL_MISSED,
        ReasonCode.PHONE_APPROVALS_USED_UP,
        ReasonCode.PASSKEY_REQUIRED,
        ReasonCode.API_NOT_INCLUDED,
        ReasonCode.PAPER_USER_AMBIGUOUS,
        ReasonCode.GATEWAY_VERSION_REFUSED,
        ReasonCode.IMAGE_TOO_OLD,
        ReasonCode.CONTROLLER_FAILED,
        ReasonCode.OPERATOR_INPUT_NEEDED,
        ReasonCode.WRONG_USER,
        ReasonCode.WRONG_ACCOUNT,
    }
)
_WARNINGS = frozenset(
    {
        ReasonCode.RECORD_MISSING,
        ReasonCode.LIVE_TRADING_UNCONFIRMED,
        ReasonCode.STORE_UNAVAILABLE,
        ReasonCode.RUNTIME_UNAVAILABLE,
        ReasonCode.IMAGE_UNAVAILABLE,
        ReasonCode.CREDENTIALS_UNAVAILABLE,
        ReasonCode.LOGIN_PAUSE,
        ReasonCode.LOGIN_RESERVATION_REFUSED,
        ReasonCode.LAUNCH_FAILED,
        ReasonCode.PORT_TAKEN,
        ReasonCode.RANGE_EXHAUSTED,
        ReasonCode.DISK_FULL,
        ReasonCode.LAUNCH_RESULT_UNKNOWN,
        ReasonCode.CONTAINER_PAUSED,
        ReasonCode.CONTAINER_NEVER_STARTED,
        ReasonCode.CONTAINER_RESTARTED,
        ReasonCode.CONTAINER_ENDED,
        ReasonCode.OUT_OF_MEMORY,
        ReasonCode.POD_EVICTED,
        ReasonCode.POD_UNSCHEDULABLE,
        ReasonCode.POD_NOT_STARTED,
        ReasonCode.QUOTA_EXCEEDED,
        ReasonCode.REMOVAL_FAILED,
        ReasonCode.LOGIN_FAILED,
        ReasonCode.LOGIN_REPEATED,
        ReasonCode.LOGIN_TIMEOUT,
        ReasonCode.LOGIN_OUTCOME_UNKNOWN,
        ReasonCode.LOGIN_WINDOW_MISSING,
        ReasonCode.LOGIN_THROTTLED,
        ReasonCode.SESSION_REJECTED,
        ReasonCode.PHONE_APPROVAL_PENDING,
        ReasonCode.COMPETING_SESSION,
        ReasonCode.SESSION_ENDED,
        ReasonCode.API_UNREACHABLE,
        ReasonCode.CLIENT_ID_IN_USE,
        ReasonCode.CONNECTION_CLOSED,
        ReasonCode.HEARTBEAT_MISSED,
        ReasonCode.IBKR_LINK_LOST,
    }
)


Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, for programs and for people."""

    code: ReasonCode
    sentence: str
    next_action: str | None = None
    """A sentence: what happens next by itself, or what a human must do."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """What the sentence tells, for programs: JSON-able."""

    def __str__(self) -> str:
        return self.sentence
