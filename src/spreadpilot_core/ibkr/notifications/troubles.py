"""What is wrong now and since when, made of events and notices; pure, in whatever time it is given.

    StateChanged, GatewayLaunched, SecondFactorRequested, SecretRotated  -> about one follower's gateway
    the faulty records of a reading, the notices that stand              -> about a record, about the manager

A gateway has one trouble at a time, which may get worse: an outage at first, then somebody is needed. It is over once the
gateway is ready and has stayed so for a while: one that comes and goes is one trouble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State


class Kind(str, Enum):
    """What a message is about."""

    HUMAN = "human"
    """Nothing happens before somebody acts."""
    PHONE = "phone"
    """A phone must approve a login."""
    OUTAGE = "outage"
    """A gateway that should be ready is not."""
    MANAGER = "manager"
    """A notice of the manager stands."""
    ROTATED = "rotated"
    """A secret has a new version; told once, and never over."""


Place = tuple[str, str]
"""Where a trouble is kept: "gateway", "phone", "manager" or "rotated", and whose it is."""
_PLACES = {Kind.PHONE: "phone", Kind.MANAGER: "manager", Kind.ROTATED: "rotated"}
OWN_CAUSE = "notifications"
"""How the causes of notices begin that are about notifications: those are shown by `status` and told on no channel."""
MOST_SETTLING = timedelta(minutes=30)
REMEMBERED = timedelta(hours=2)
"""For how long an outage that ended makes the next one's end be waited for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """What was told of a trouble last."""

    kind: Kind
    code: str | None
    version: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that is wrong."""

    kind: Kind
    subject: str
    """The follower's id, or the notice's cause."""
    severity: Severity
    code: str | None = None
    version: str | None = None
    """Of the secret that it is about."""
    sentence: str
    action: str | None = None
    since: datetime
    changed: datetime
    """When it became what it is: an outage, or somebody is needed."""
    notified: Notified | None = None
    tried: bool = False
    """A login was begun since it was told."""
    again: bool = False
    """It became so anew after that."""
    is_loaded: bool = False
    """An earlier manager told it, and nothing was heard of it since."""
    over: datetime | None = None
    """Since when it is over; it closes when that has lasted."""
    closes: datetime | None = None
    end: str = ""
    """How it ended, as a sentence."""

    @property
    def place(self) -> Place:
        """Its key."""
        return _PLACES.get(self.kind, "gateway"), self.subject

    @property
    def follower_id(self) -> str | None:
        """Whose it is; None: the manager's."""
        return None if self.kind is Kind.MANAGER else self.subject

    @property
    def is_news(self) -> bool:
        """Whether it must be told: not yet told, or worse, or the same again after another try."""
        if self.over is not None:
            return False
        if self.notified is None:
            return True
        same = (self.notified.kind, self.notified.code, self.notified.version) == (self.kind, self.code, self.version)
        return self.kind is Kind.HUMAN and (self.again or not same)

    def as_document(self) -> dict[str, Any]:
        """What must outlive the manager of one that was told."""
        assert self.notified is not None
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "severity": self.severity.value,
            "code": self.code,
            "version": self.version,
            "sentence": self.sentence,
            "action": self.action,
            "since": self.since.isoformat(),
            "notified": {
                "kind": self.notified.kind.value,
                "code": self.notified.code,
                "version": self.notified.version,
                "at": self.notified.at.isoformat(),
            },
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Trouble:
        """Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
        notified = document["notified"]
        since = datetime.fromisoformat(document["since"])
        return cls(
            kind=Kind(document["kind"]),
            subject=str(document["subject"]),
            severity=Severity(document["severity"]),
            code=document["code"],
            version=document["version"],
            sentence=str(document["sentence"]),
            action=document["action"],
            since=since,
            changed=since,
            notified=Notified(
                kind=Kind(notified["kind"]),
                code=notified["code"],
                version=notified["version"],
                at=datetime.fromisoformat(notified["at"]),
            ),
            is_loaded=True,
        )


class Troubles:
    """All that is wrong."""

    def __init__(self, *, outage_delay: float, phone_time: float = 300.0) -> None:
        """`outage_delay`: seconds after which an outage is told, and for which its end must last."""
        self._settling = timedelta(seconds=outage_delay)
        self._phone_time = timedelta(seconds=phone_time)
        self.open: dict[Place, Trouble] = {}
        self._states: dict[str, events.StateChanged] = {}
        """The last of each follower."""
        self._was_ready: set[str] = set()
        self._prompts: dict[str, events.SecondFactorRequested] = {}
        self._faulty: Mapping[str, str] = {}
        self._notices: Mapping[str, str] = {}
        self._ended: dict[Place, list[datetime]] = {}
        """When troubles of one place that were told have ended of late."""

    # ------------------------------------------------------------------ what happens

    def see(self, event: events.Event) -> None:
        """An event of the bus; most say nothing of a trouble."""
        if event.follower_id is None:
            return
        match event:
            case events.StateChanged():
                self._states[event.follower_id] = event
                self._take_state(event)
            case events.GatewayLaunched():
                self._change("gateway", event.follower_id, tried=True)
            case events.SecondFactorRequested():
                self._prompts[event.follower_id] = event
                self._take_prompt(event)
            case events.SecretRotated():
                name, sentence, then = event.follower_id, event.sentence, event.next_action
                self._begin(Kind.ROTATED, name, event.at, sentence, severity=Severity.INFO, action=then)
            case _:
                pass

    def see_notices(self, notices: Mapping[str, str], now: datetime) -> None:
        """Those that stand, by cause."""
        self._notices = {cause: each for cause, each in notices.items() if not cause.startswith(OWN_CAUSE)}
        for cause, sentence in self._notices.items():
            self._begin(Kind.MANAGER, cause, now, sentence, severity=Severity.WARNING)
        for (place, cause), trouble in list(self.open.items()):
            if place == "manager" and cause not in self._notices and trouble.over is None:
                self._end(
                    ("manager", cause),
                    now,
                    f"It is over: {trouble.sentence}",
                    self._settling_of(("manager", cause), now),
                )

    def see_followers(self, usable: Iterable[str], faulty: Mapping[str, str], now: datetime) -> None:
        """The followers were read: who there is, and whose record can't be used, and why."""
        known = {*usable, *faulty}
        before, self._faulty = self._faulty, dict(faulty)
        for name, fault in faulty.items():
            code, action = ReasonCode.RECORD_INVALID.value, "It starts when its record is corrected."
            self._begin(Kind.HUMAN, name, now, fault, severity=Severity.ERROR, code=code, action=action)
        for place, name in list(self.open):
            if place == "gateway" and name not in known and (name in before or name not in self._states):
                self._end((place, name), now, "There is no such record any more.", timedelta(0))

    def load(self, found: Iterable[Trouble]) -> None:
        """Begin with what an earlier leader told; what is known of now is taken on top of it."""
        rotated = {place: each for place, each in self.open.items() if each.kind is Kind.ROTATED}
        self.open = {each.place: each for each in found} | rotated  # which nobody else has heard of
        self._was_ready.clear()
        for state in self._states.values():
            self._take_state(state)
        for name, prompt in self._prompts.items():
            if self._states.get(name) is not None and self._states[name].after is State.AWAITING_2FA:
                self._take_prompt(prompt)

    # ------------------------------------------------------------------ a gateway

    def _take_state(self, event: events.StateChanged) -> None:
        name = event.follower_id
        assert name is not None
        if event.reason_code in _SAYS_NOTHING:
            return
        self._leave_phone(event)
        match event.after:
            case State.READY:
                self._was_ready.add(name)
                self._end(
                    ("gateway", name), event.at, "It is ready again.", self._settling_of(("gateway", name), event.at)
                )
            case State.STOPPED | State.DISABLED:
                self._was_ready.discard(name)
                self._end(("gateway", name), event.at, event.reason or "It is not wanted any more.", timedelta(0))
            case State.NEEDS_HUMAN | State.INVALID:
                self._begin_of(Kind.HUMAN, event)
            case _ if _is_outage(event, was_ready=name in self._was_ready) and not self._is_on_its_way(event):
                self._begin_of(Kind.OUTAGE, event)
            case _:
                self._change("gateway", name, over=None, closes=None)  # not ready: what was over is not

    def _is_on_its_way(self, event: events.StateChanged) -> bool:
        """Whether it says less than what is known: "it is being started" is no news of an outage."""
        return event.severity is Severity.INFO and ("gateway", str(event.follower_id)) in self.open

    def _begin_of(self, kind: Kind, event: events.StateChanged) -> None:
        version = event.facts.get("secret_version")
        worst = max(event.severity, Severity.WARNING, key=_RANK.__getitem__)
        self._begin(
            kind,
            str(event.follower_id),
            event.at,
            event.reason or event.sentence,
            severity=Severity.ERROR if kind is Kind.HUMAN else worst,
            code=event.reason_code.value if event.reason_code is not None else None,
            action=event.next_action,
            version=str(version) if version is not None else None,
        )

    def _begin(
        self,
        kind: Kind,
        subject: str,
        at: datetime,
        sentence: str,
        *,
        severity: Severity,
        code: str | None = None,
        action: str | None = None,
        version: str | None = None,
    ) -> None:
        """It is so now, whether that is news or not."""
        new = Trouble(
            kind=kind,
            subject=subject,
            severity=severity,
            code=code,
            version=version,
            sentence=sentence,
            action=action,
            since=at,
            changed=at,
        )
        known = self.open.get(new.place)
        if known is not None:
            again = known.again or (known.tried and kind is Kind.HUMAN)
            changed = known.changed if known.kind is kind and again is known.again else at
            tried = known.tried and not again
            new = replace(new, since=known.since, changed=changed, notified=known.notified, tried=tried, again=again)
        self.open[new.place] = new

    def _settling_of(self, place: Place, now: datetime) -> timedelta:
        """For how long its end must last: longer after each one of late, so that what comes and goes is told seldom."""
        recent = [each for each in self._ended.pop(place, ()) if each > now - REMEMBERED]
        if recent:
            self._ended[place] = recent
        return min(MOST_SETTLING, self._settling * (1 << min(len(recent), 16)))

    def _end(self, place: Place, at: datetime, how: str, settling: timedelta) -> None:
        self._change(*place, over=at, closes=at + settling, end=how)

    def _change(self, place: str, subject: str, **changes: Any) -> None:
        if (known := self.open.get((place, subject))) is not None:
            self.open[place, subject] = replace(known, is_loaded=False, **changes)

    def close(self, trouble: Trouble) -> None:
        """It is over for good."""
        self.open.pop(trouble.place, None)
        if trouble.notified is not None and trouble.over is not None and trouble.kind is not Kind.PHONE:
            self._ended.setdefault(trouble.place, []).append(trouble.over)

    # ------------------------------------------------------------------ a phone

    def _take_prompt(self, event: events.SecondFactorRequested) -> None:
        name = str(event.follower_id)
        known = self.open.get(("phone", name))
        if known is not None and known.is_loaded and event.at - known.since < self._phone_time:
            self._change("phone", name, over=None, closes=None)  # an earlier manager has told of this prompt
            return
        state = self._states.get(name)
        says = state is not None and state.after is State.AWAITING_2FA
        sentence = state.reason if says and state is not None and state.reason is not None else event.sentence
        until = state.next_action if says and state is not None else None
        action = " ".join(filter(None, ("Approve it in IBKR Mobile on that phone.", until)))
        self.open.pop(("phone", name), None)  # each prompt is one of its own
        code = ReasonCode.PHONE_APPROVAL_PENDING.value
        self._begin(Kind.PHONE, name, event.at, sentence, severity=Severity.WARNING, code=code, action=action)

    def _leave_phone(self, event: events.StateChanged) -> None:
        name = str(event.follower_id)
        if event.after is State.AWAITING_2FA or ("phone", name) not in self.open:
            return
        if event.after in _APPROVED:
            self._end(("phone", name), event.at, "The login was approved.", APPROVALS_WITHIN)
        elif self.open["phone", name].over is None:
            self.open.pop(("phone", name))  # what became of it is a trouble of the gateway


APPROVALS_WITHIN = timedelta(seconds=10)
"""In which approvals are told together."""
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}
_APPROVED = frozenset({State.LOGGING_IN, State.CONNECTING, State.READY})
_SAYS_NOTHING = frozenset(
    {
        ReasonCode.NOT_OBSERVED_YET,
        ReasonCode.FOLLOWERS_UNKNOWN,
        ReasonCode.NOT_LEADER,
        ReasonCode.MANAGER_STOPPING,
        ReasonCode.MANAGER_DETACHING,
    }
)
"""Of the manager, not of the gateway: what was wrong stays as it is."""
_ASKED_FOR = frozenset(
    {
        ReasonCode.SCHEDULED_RESTART,
        ReasonCode.RESTART_REQUESTED,
        ReasonCode.RECONNECT_REQUESTED,
        ReasonCode.IBKR_RESET_WINDOW,
    }
)


def _is_outage(event: events.StateChanged, *, was_ready: bool) -> bool:
    """Something is wrong, or it was ready and is not, though nobody asked for that."""
    if event.after is State.AWAITING_2FA:
        return False
    if _RANK[event.severity] >= _RANK[Severity.WARNING]:
        return True
    return was_ready and event.reason_code not in _ASKED_FOR


def at_least(severity: Severity, least: Severity) -> bool:
    """Whether it is as bad as that."""
    return _RANK[severity] >= _RANK[least]


Minimum = Callable[[str | None], Severity]
"""The least severity that is told of this follower, or of the manager (None)."""
