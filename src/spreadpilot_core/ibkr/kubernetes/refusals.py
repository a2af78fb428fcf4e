"""What a cluster that refuses to make something means by it: a quota, a rule, or our own rights. Pure."""

from __future__ import annotations

from spreadpilot_core.ibkr.errors import AdmissionRefusedError, LaunchError, QuotaExceededError
from spreadpilot_core.ibkr.kubernetes.api import RefusedError

_BY_RULE = (400, 403, 422)


def refusal_of(refused: RefusedError, what: str) -> LaunchError:
    """The refusal to make this, as one of our errors."""
    if refused.is_denied:
        refused.hint = "Grant the manager's account what docs/kubernetes.md lists."
        return LaunchError(f"The manager's account may not make {what}: {refused.said.rstrip('.')}.", hint=refused.hint)
    if "exceeded quota" in refused.said:
        return QuotaExceededError(what, refused.said)
    if refused.status in _BY_RULE:
        return AdmissionRefusedError(what, refused.said)
    return refused
