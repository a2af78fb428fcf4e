"""What a message says, to whom, and that nothing in it opens an account; what waits for a channel, in made-up time."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.notifications.audience import channels
from spreadpilot_core.ibkr.notifications.outbox import GIVEN_UP_AFTER, MOST_WAITING, Message, Outbox
from spreadpilot_core.ibkr.notifications.planner import Plan, Planner
from spreadpilot_core.ibkr.notifications.troubles import Troubles
from spreadpilot_core.ibkr.notifications.wording import Text, worded
from support.made_up_events import at, awaits_phone, lost_ibkr, ready, rejected, rotated, state

FIFTY = [f"f{number:02}" for number in range(50)]
USERS = {"anna": "trader77", "f00": "f00"}


def _plans(troubles: Troubles, seconds: float) -> list[Plan]:
    return Planner(troubles, outage_delay=0, reminder=60).plan(at(seconds))


def _said(troubles: Troubles, seconds: float) -> Text:
    (plan,) = _plans(troubles, seconds)
    return worded(plan, plan.troubles, at(seconds), sender="gateway-manager on here", user_of=USERS.get)


def test_a_storm_is_said_in_five_lines() -> None:
    """How many, why, ten of the names, what happens next, since when."""
    troubles = Troubles(outage_delay=0)
    for name in FIFTY:
        troubles.see(lost_ibkr(name, 10))
    text = _said(troubles, 15)
    assert text.title == "50 gateways are out of service"
    assert text.body.splitlines() == [
        "The gateway has lost its link to IBKR; the API connection stays.",
        f"{', '.join(FIFTY[:10])} and 40 more",
        "Next: The gateway reconnects by itself.",
        "Since 2026-03-02 15:00:10 UTC.",
        "(gateway-manager on here)",
    ]


def test_one_that_needs_somebody_is_said_with_the_one_thing_to_do_and_without_its_user() -> None:
    """A user's name is half of a login: it stays on this host."""
    troubles = Troubles(outage_delay=0)
    troubles.see(rejected("anna", 10, version="3", user="Trader77"))
    text = _said(troubles, 15)
    assert text.title == "anna needs somebody"
    assert "did not accept user name and password of its user (secret version 3)" in text.body
    assert "To do: Store the right password" in text.body
    assert "trader77" not in text.body.lower()


@pytest.mark.parametrize(
    ("follower", "user", "said", "sent"),
    [
        ("anna", "anna77", "Login of anna77; run `launch anna`.", "Login of its user; run `launch anna`."),
        ("Alice", "alice", "Login of alice; run `launch Alice`.", "Login of alice; run `launch Alice`."),
        ("bob.live", "bob", "Login of bob; run `launch bob.live`.", "Login of its user; run `launch bob.live`."),
        ("x", "y.z", "Login of Y.Z.", "Login of its user."),
        ("dd", "trader77", "IBKR user trader77 is logged in for d.", "Its user is logged in for d."),
        ("dd", "trader77", "See it. The IBKR user trader77 of d is it.", "See it. Its user of d is it."),
        ("dd", "dd", "It has the IBKR user dd of dd.", "It has its user of dd."),
    ],
)
def test_users_are_left_out_and_commands_stay_whole(follower: str, user: str, said: str, sent: str) -> None:
    """However follower and user are called."""
    troubles = Troubles(outage_delay=0)
    troubles.see(state(follower, State.NEEDS_HUMAN, 10, ReasonCode.WRONG_ACCOUNT, sentence=said))
    (plan,) = _plans(troubles, 15)
    assert sent in worded(plan, plan.troubles, at(15), sender="here", user_of=lambda _: user).body


def test_many_that_need_somebody_share_one_cure() -> None:
    """Where it differs by follower, it is the first one's, and says so."""
    troubles = Troubles(outage_delay=0)
    for name in FIFTY[:3]:
        troubles.see(rejected(name, 10))
    text = _said(troubles, 15)
    assert text.title == "3 gateways need somebody"
    assert "f00, f01, f02 (PASSWORD_REJECTED)." in text.body
    assert "To do for f00, and likewise for the others: Store the right password" in text.body


def test_passwords_in_addresses_and_control_characters_stay_here() -> None:
    """A notice may quote an error, and that an address; a name may hold anything."""
    troubles = Troubles(outage_delay=0)
    troubles.see_notices({"record store": "mongodb://admin:geheim@db:27017 is \x1b[2Jaway."}, at(10))
    text = _said(troubles, 15)
    assert "geheim" not in text.body
    assert "\x1b" not in text.body


def test_ends_and_reminders_are_said_as_such() -> None:
    """With how long it took, and who is still in trouble."""
    troubles = Troubles(outage_delay=0)
    planner = Planner(troubles, outage_delay=0, reminder=60)
    for name in ("anna", "ben", "carl"):
        troubles.see(lost_ibkr(name, 10))
    planner.plan(at(10))
    (plan,) = planner.plan(at(200))
    assert worded(plan, plan.troubles, at(200), sender="here").title == "Still so: 3 gateways are out of service"
    troubles.see(ready("anna", 610))
    plan, _still = planner.plan(at(610))
    text = worded(plan, plan.troubles, at(610), sender="here")
    assert text.title == "Resolved: anna"
    assert text.body.splitlines() == [
        "anna: It is ready again. It took 10 min.",
        "2 gateways in trouble before are so still.",
        "(here)",
    ]


def test_a_phone_and_a_secret_are_said_with_what_to_do() -> None:
    """The prompt with its time, the rotation with when it is used."""
    troubles = Troubles(outage_delay=0)
    for event in awaits_phone("ben", 10):
        troubles.see(event)
    troubles.see(rotated("anna", 10))
    texts = {worded(plan, plan.troubles, at(15), sender="here").title: plan for plan in _plans(troubles, 15)}
    assert set(texts) == {"ben: approve the login on the phone", "anna has a new secret"}


def _follower(name: str, *urls: str) -> Follower:
    text = SecretStr("\n".join(urls)) if urls else None
    return Follower(id=FollowerId(name), vault_secret_ref="r", notify_urls=text)


def test_a_channel_of_a_follower_hears_of_that_one_alone_and_a_shared_one_of_all_of_its_own() -> None:
    """One address in three records is one channel, and one in the settings too hears of everybody already."""
    fleet = [SecretStr("json://ops"), SecretStr("json://ops")]
    followers = [_follower("anna", "json://trader", "json://ops"), _follower("ben", "json://trader"), _follower("carl")]
    found = channels(fleet, followers)
    assert [each.name for each in found] == ["channel 1", "channel 1 of anna"]
    troubles = Troubles(outage_delay=0)
    for name in ("anna", "ben", "carl"):
        troubles.see(lost_ibkr(name, 10))
    (plan,) = _plans(troubles, 15)
    assert [[each.subject for each in channel.concerns(plan)] for channel in found] == [
        ["anna", "ben", "carl"],
        ["anna", "ben"],
    ]
    troubles = Troubles(outage_delay=0)
    troubles.see_notices({"store": "It is away."}, at(10))
    (plan,) = _plans(troubles, 15)
    assert [len(channel.concerns(plan)) for channel in found] == [1, 0]
    assert "trader" not in repr(found)


# ---------------------------------------------------------------------------------------------- the outbox


def _message(title: str, seconds: float = 0, channel: str = "channel 1") -> Message:
    return Message(channel=channel, at=at(seconds), severity=Severity.ERROR, title=title, body="b")


def test_a_channel_that_fails_pauses_ever_longer_and_keeps_its_order() -> None:
    """What comes meanwhile waits behind; another channel does not."""
    outbox = Outbox()
    outbox.add([_message("first"), _message("second"), _message("other", channel="channel 2")])
    pauses, now = [], 0.0
    for _ in range(9):
        message = outbox.next_for("channel 1", at(now))
        assert message is not None
        assert message.title == "first"
        outbox.failed(message, "It answered with status 500.", at(now))
        due = outbox._queues["channel 1"].not_before
        assert due is not None
        pauses.append((due - at(now)).total_seconds())
        assert outbox.next_for("channel 1", due - timedelta(seconds=1)) is None
        now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    other = outbox.next_for("channel 2", at(0))
    assert other is not None
    outbox.sent(other)
    assert "channel 1 have failed since 2026-03-02 15:00:00 UTC: It answered with status 500." in str(outbox.notices())
    for title in ("first", "second"):
        message = outbox.next_for("channel 1", at(now))
        assert message is not None
        assert message.title == title
        outbox.sent(message)
    assert outbox.notices() == {}
    assert outbox.next_due(at(now)) is None


def test_what_is_too_old_or_too_much_is_given_up_and_said() -> None:
    """A channel that is away for a day, and one that is asked for more than it will ever take."""
    outbox = Outbox()
    outbox.add([_message("old")])
    first = outbox.next_for("channel 1", at(0))
    assert first is not None
    outbox.failed(first, "It can't be reached.", at(0))
    late = GIVEN_UP_AFTER.total_seconds()
    outbox.add([_message("new", late)])
    kept = outbox.next_for("channel 1", at(late))
    assert kept is not None
    assert kept.title == "new"
    assert "1 were given up." in str(outbox.notices())
    outbox.add([_message(f"more {number}", late) for number in range(MOST_WAITING + 5)])
    assert outbox.waiting("channel 1") == MOST_WAITING


def test_what_waits_outlives_the_manager_and_a_channel_that_is_gone_loses_its_own() -> None:
    """As documents, in order; what somebody has spoilt is left out."""
    outbox = Outbox()
    outbox.add([_message("first"), _message("other", channel="channel 2"), _message("second")])
    after = Outbox()
    after.load([*json.loads(json.dumps(outbox.as_documents())), {"id": 7}, {}])
    assert after.waiting("channel 1") == 2
    assert after.keep_only({"channel 1": None}) == 1
    first = after.next_for("channel 1", at(1))
    assert first is not None
    assert first.title == "first"
