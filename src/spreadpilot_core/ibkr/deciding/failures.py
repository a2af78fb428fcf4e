"""Why an action failed, as a reason code: by the error where there was one, else by what was tried."""

from __future__ import annotations

from spreadpilot_core.ibkr import errors
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, Outcome
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode

_BY_ERROR: tuple[tuple[type[errors.GatewayManagerError], ReasonCode], ...] = (
    (errors.PortTakenError, ReasonCode.PORT_TAKEN),
    (errors.PinnedPortError, ReasonCode.PORT_TAKEN),
    (errors.PortsExhaustedError, ReasonCode.RANGE_EXHAUSTED),
    (errors.ClientIdsExhaustedError, ReasonCode.RANGE_EXHAUSTED),
    (errors.NoSpaceError, ReasonCode.DISK_FULL),
    (errors.PodUnschedulableError, ReasonCode.POD_UNSCHEDULABLE),
    (errors.PodNotStartedError, ReasonCode.POD_NOT_STARTED),
    (errors.QuotaExceededError, ReasonCode.QUOTA_EXCEEDED),
    (errors.AdmissionRefusedError, ReasonCode.ADMISSION_REFUSED),
    (errors.NameHeldError, ReasonCode.NAME_TAKEN),
    (errors.UserTakenError, ReasonCode.USER_LOGGED_IN_ELSEWHERE),
    (errors.ImageError, ReasonCode.IMAGE_UNAVAILABLE),
    (errors.LoginRefusedError, ReasonCode.LOGIN_RESERVATION_REFUSED),
    (errors.CredentialsRefusedError, ReasonCode.CREDENTIALS_REFUSED),
    (errors.CredentialsUnavailableError, ReasonCode.CREDENTIALS_UNAVAILABLE),
    (errors.DeliveryError, ReasonCode.CREDENTIALS_UNAVAILABLE),
    (errors.StoreUnavailableError, ReasonCode.STORE_UNAVAILABLE),
    (errors.NodeLostError, ReasonCode.NODE_LOST),
    (errors.RuntimeUnavailableError, ReasonCode.RUNTIME_UNAVAILABLE),
    (errors.LeadershipLostError, ReasonCode.NOT_LEADER),
)
"""The first that fits."""
_BY_FAILURE = {
    Failure.WRONG_ACCOUNT: ReasonCode.WRONG_ACCOUNT,
    Failure.ID_IN_USE: ReasonCode.CLIENT_ID_IN_USE,
    Failure.DISCLAIMER: ReasonCode.PAPER_DISCLAIMER_PENDING,
    Failure.PORT_TAKEN: ReasonCode.PORT_TAKEN,
    Failure.EXPIRED: ReasonCode.CREDENTIALS_UNAVAILABLE,
    Failure.REFUSED: ReasonCode.CREDENTIALS_REFUSED,
    Failure.LOGIN_REFUSED: ReasonCode.LOGIN_RESERVATION_REFUSED,
}
_BY_KIND = {
    ActionKind.CHECK_IMAGE: ReasonCode.IMAGE_UNAVAILABLE,
    ActionKind.PREPARE: ReasonCode.CREDENTIALS_UNAVAILABLE,
    ActionKind.CONNECT: ReasonCode.API_UNREACHABLE,
    ActionKind.HEARTBEAT: ReasonCode.HEARTBEAT_MISSED,
    ActionKind.REMOVE: ReasonCode.REMOVAL_FAILED,
    ActionKind.INSPECT: ReasonCode.RUNTIME_UNAVAILABLE,
}


def error_code(error: errors.GatewayManagerError) -> ReasonCode | None:
    """What this error is called as a reason; None: only what was tried tells."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), None)


def reason_of(outcome: Outcome) -> Reason:
    """Why this action failed."""
    by_failure = _BY_FAILURE.get(outcome.failure) if outcome.failure is not None else None
    code = outcome.error_code or by_failure or _BY_KIND.get(outcome.kind, ReasonCode.LAUNCH_FAILED)
    return Reason(code, outcome.sentence)
