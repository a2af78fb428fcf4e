"""Policy: a gateway that was adopted without a record is compared with the follower's login before anybody trades on it.

Its labels say whose gateway it is, and labels prove nothing: it may be logged in as somebody else. Nothing is logged out for it.
"""

from __future__ import annotations

from dataclasses import replace

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind, Observation, Wanted
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.model.users import canonical_user

COMPARE = Action(ActionKind.PREPARE, "its gateway was adopted without a record, and its user is compared")


def comparing_user(s: Situation) -> Decision | None:
    """Hold the gateway back until its user is known to be that of the stored login; one that is not waits for a human."""
    gateway = s.seen.gateway
    if gateway is None or not gateway.phase.is_alive or not s.record.user_unproven:
        return None
    stored = _stored_user(s.seen)
    if stored is not None:
        return _wrong(s, gateway, stored)
    if s.memory.was_ready or s.memory.prepare_failures:  # the secret can't be had: `compare_later`
        return None
    if _is_unconfirmed(s.seen.wanted_why):  # its login is that of before the change
        return None
    if s.seen.wanted in BEGINS_NOTHING:
        begun = s.seen.wanted_why or Reason(ReasonCode.FOLLOWERS_UNKNOWN, "The followers were not read yet.")
        return s.verdict(State.CONNECTING, begun, "The user of its gateway is compared with its stored login then.")
    reading = "Its gateway was adopted without a record, and its secret is being read to compare its IBKR user."
    reason = Reason(ReasonCode.CREDENTIALS_NEEDED, reading)
    return s.verdict(State.CONNECTING, reason, "It is connected when they are the same.", action=COMPARE)


def compare_later(s: Situation, decision: Decision) -> Decision:
    """What could not be compared, or was another user's, is looked at again beside whatever else is the case."""
    gateway = s.seen.gateway
    due = gateway is not None and gateway.phase.is_alive and s.record.user_unproven and _stored_user(s.seen) is None
    if not due or decision.action is not None or s.seen.running is not None or s.seen.wanted is not Wanted.RUN:
        return decision
    left = (s.memory.not_before - s.now).total_seconds() if s.memory.prepare_failures else 0
    if left > 0:
        return replace(decision, recheck_after=min(decision.recheck_after, left))
    return replace(decision, action=COMPARE)


def is_proven(seen: Observation, gateway: Gateway) -> bool:
    """Whether this gateway's user is that of the stored login."""
    return gateway.user is not None and _stored_user(seen) == canonical_user(gateway.user)


def uncompared_notice(record: Record, *, failed: Reason | None, begins_nothing: Reason | None) -> str | None:
    """A sentence for the snapshot of one that is used without the proof.

    Args:
        record: the follower's.
        failed: why its secret could not be read, where that was tried.
        begins_nothing: why nothing begins for it, where that is so.

    """
    hindrance = failed.sentence if failed is not None else None
    if _is_unconfirmed(begins_nothing):
        hindrance = "its record asks for live trading, for which the stored login may be another one."
    if not record.user_unproven or hindrance is None:
        return None
    user = record.user or "unknown"
    return (
        f"Its gateway was adopted without a record, and its IBKR user ({user}) could not be compared with its stored login"
        f" yet: {hindrance}"
    )


def _is_unconfirmed(why: Reason | None) -> bool:
    return why is not None and why.code is ReasonCode.LIVE_TRADING_UNCONFIRMED


def _stored_user(seen: Observation) -> str | None:
    """The user of the secret that the record refers to now; None where that was not read since it changed."""
    read, follower = seen.preflight, seen.follower
    if read is None or follower is None or read.secret_ref != follower.vault_secret_ref:
        return None
    return read.login.user if seen.newest_version in (None, read.login.version) else None


def _wrong(s: Situation, gateway: Gateway, stored: str) -> Decision:
    user = gateway.user or "a user that its container does not name"
    sentence = (
        f"Its gateway, which was adopted without a record, logs in the IBKR user {user}, and its stored login is {stored}'s:"
        " nobody is given a client of it."
    )
    reason = Reason(ReasonCode.WRONG_USER, sentence, facts={"gateway_user": gateway.user, "stored_user": stored})
    then = (
        f"{s.seen.command('restart')} ends it and logs in as {stored}; where {user} is right, correct vault_secret_ref in"
        " its record, or the secret, and it is used as it is."
    )
    is_open = s.seen.connection is not None and s.seen.connection.is_open
    action = Action(ActionKind.DROP_CONNECTION, sentence) if is_open else None
    return s.verdict(State.NEEDS_HUMAN, reason, then, action=action)
