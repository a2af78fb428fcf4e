"""The words of a message: a title, then what is so, the one thing to do, and since when. Pure.

Nothing in it can open an account: users' names are left out, and addresses lose their passwords.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from spreadpilot_core.ibkr.notifications.planner import Phase, Plan
from spreadpilot_core.ibkr.notifications.troubles import Kind, Trouble
from spreadpilot_core.ibkr.system.local_time import without_times
from spreadpilot_core.ibkr.system.printable import one_line
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.telemetry import redact

MOST_NAMES = 10
"""Of followers in one message; the rest is counted."""
MOST_REASONS = 5
LONGEST_SENTENCE = 600

UserOf = Callable[[str], str | None]
"""The IBKR user of a follower, as far as it is known."""


def nobody(_: str) -> str | None:
    """Where no user is known."""
    return None


@dataclass(frozen=True, slots=True)
class Text:
    """What one message says."""

    title: str
    body: str


def worded(plan: Plan, troubles: Sequence[Trouble], now: datetime, *, sender: str, user_of: UserOf = nobody) -> Text:
    """What `plan` says to somebody who is concerned by these of its troubles; `sender` names the manager."""
    say = _Speaker(user_of)
    title, lines = (_over if plan.phase is Phase.OVER else _stands)(troubles, say, now)
    if plan.phase is Phase.STILL:
        title = f"Still so: {title}"
    if plan.phase is Phase.OVER and plan.still_open and len(troubles) == len(plan.troubles):
        lines.append(
            f"{counted(plan.still_open, 'gateway')} in trouble before {'is' if plan.still_open == 1 else 'are'} so still."
        )
    return Text(title, "\n".join([*lines, f"({sender})"]))


class _Speaker:
    def __init__(self, user_of: UserOf) -> None:
        self._user_of = user_of

    def of(self, trouble: Trouble, text: str | None) -> str:
        """The text as it may leave this host."""
        said = one_line(str(redact(None, "", {"said": text or ""})["said"]))
        user = self._user_of(trouble.follower_id) if trouble.follower_id is not None else None
        if user and trouble.follower_id is not None:
            name = rf"(?:(?:the )?IBKR user )?{re.escape(user)}"
            either = rf"(?<![\w-])(?:(?P<id>{re.escape(trouble.follower_id)})|(?P<user>{name}))(?![\w-])"
            said = re.sub(either, _unnamed, said, flags=re.IGNORECASE)
        return said if len(said) <= LONGEST_SENTENCE else f"{said[: LONGEST_SENTENCE - 1]}…"


def _unnamed(found: re.Match[str]) -> str:
    """A follower's id stays; its user is not named, at the beginning of a sentence with a capital."""
    begins = found.start() == 0 or found.string[: found.start()].endswith(". ")
    return found["id"] or ("Its user" if begins else "its user")


def _stands(troubles: Sequence[Trouble], say: _Speaker, now: datetime) -> tuple[str, list[str]]:
    lines = []
    causes = Counter(_cause(each) for each in troubles)
    for cause, _ in causes.most_common(MOST_REASONS):
        lines.append(_about([each for each in troubles if _cause(each) == cause], say))
    if len(causes) > MOST_REASONS:
        lines.append(f"And {counted(len(causes) - MOST_REASONS, 'other reason')}.")
    ((most, _),) = causes.most_common(1)
    first = next(each for each in troubles if _cause(each) == most)
    lines += _next(first, troubles, say)
    since = min(each.since for each in troubles)
    lines.append(f"Since {since:%Y-%m-%d %H:%M:%S} UTC{_lasting(since, now)}.")
    return _title(troubles), lines


def _cause(trouble: Trouble) -> str | None:
    return trouble.subject if trouble.kind is Kind.MANAGER else trouble.code


def _about(troubles: Sequence[Trouble], say: _Speaker) -> str:
    first = troubles[0]
    if first.kind is Kind.MANAGER:
        return say.of(first, first.sentence)
    sentence = say.of(first, first.sentence)
    if len(troubles) == 1:
        return f"{one_line(first.subject)}: {sentence}"
    if len({without_times(say.of(each, each.sentence)) for each in troubles}) == 1:
        return f"{sentence}\n{_names(troubles)}"
    code = f" ({first.code})" if first.code is not None else ""
    return f"{_names(troubles)}{code}.\nOf {one_line(first.subject)}: {sentence}"


def _next(first: Trouble, troubles: Sequence[Trouble], say: _Speaker) -> list[str]:
    """The one action: that of the most frequent reason."""
    if first.action is None:
        return []
    label = "To do" if first.kind in (Kind.HUMAN, Kind.PHONE, Kind.ROTATED) else "Next"
    actions = {without_times(each.action or "") for each in troubles if each.code == first.code}
    whose = "" if len(actions) == 1 else f" for {one_line(first.subject)}, and likewise for the others"
    return [f"{label}{whose}: {say.of(first, first.action)}"]


def _title(troubles: Sequence[Trouble]) -> str:
    first, number = troubles[0], len(troubles)
    who = one_line(first.subject)
    match first.kind:
        case Kind.HUMAN:
            return f"{who} needs somebody" if number == 1 else f"{number} gateways need somebody"
        case Kind.PHONE:
            return f"{who}: approve the login on the phone"
        case Kind.OUTAGE:
            return f"{who} is out of service" if number == 1 else f"{number} gateways are out of service"
        case Kind.MANAGER:
            return "The gateway manager has trouble"
        case Kind.ROTATED:
            return f"{who} has a new secret" if number == 1 else f"{number} followers have new secrets"


def _over(troubles: Sequence[Trouble], say: _Speaker, _: datetime) -> tuple[str, list[str]]:
    first, number = troubles[0], len(troubles)
    if first.kind is Kind.MANAGER:
        title = "Resolved: the gateway manager's trouble"
    elif number == 1:
        title = f"Resolved: {one_line(first.subject)}"
    else:
        title = f"Resolved: {number} {'logins' if first.kind is Kind.PHONE else 'gateways'}"
    ends = Counter(say.of(each, each.end) for each in troubles)
    lines = []
    for end, times in ends.most_common(MOST_REASONS):
        ended = [each for each in troubles if say.of(each, each.end) == end]
        if first.kind is Kind.MANAGER:
            lines.append(end)
        elif times == 1:
            lines.append(f"{one_line(ended[0].subject)}: {end}{_after(ended[0])}")
        else:
            lines.append(f"{end}\n{_names(ended)}")
    return title, lines


def _after(trouble: Trouble) -> str:
    if trouble.over is None or trouble.kind is Kind.PHONE:
        return ""
    return f" It took {_duration((trouble.over - trouble.since).total_seconds())}."


def _lasting(since: datetime, now: datetime) -> str:
    seconds = (now - since).total_seconds()
    return f", for {_duration(seconds)}" if seconds >= _MINUTE else ""


_MINUTE, _HOUR = 60, 3600


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    minutes = int(seconds // _MINUTE)
    return f"{minutes} min" if seconds < _HOUR else f"{minutes // 60} h {minutes % 60} min"


def _names(troubles: Sequence[Trouble]) -> str:
    names = sorted(one_line(each.subject) for each in troubles)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}"
