"""Which containers are this manager's gateways: name, published port, entrypoint and identity agree, and its record names it.

    claimed      the record names the container, or a launch that was cut off before it could
    unclaimed    everything else agrees, but no record says so: left alone, unless an operator said that records were lost
    strange      it bears the labels alone, as everything does that is made from a committed gateway's image: left alone

An unclaimed container that runs may be logged in, so its follower starts no other. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import ForeignGateway, Gateway
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, Identities, Record
from spreadpilot_core.ibkr.model.users import user_digest

_LONGEST_NAME = 256
"""Characters of a container's name in a sentence: an engine sets no limit."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a list of the runtime comes to."""

    gateways: Mapping[FollowerId, Gateway] = field(default_factory=dict)
    unclaimed: Mapping[FollowerId, Reason] = field(default_factory=dict)
    """Followers that start nothing, since a container that is not claimed may be theirs; and what is known of it."""
    reports: Mapping[ContainerId, str] = field(default_factory=dict)
    """A sentence about each container that is left alone."""
    others: Sequence[Gateway] = ()
    """Those that are left alone, and live."""

    def users_of_others(self, foreign: Iterable[ForeignGateway]) -> dict[str, str]:
        """Digests of the users who are logged in by what is left alone, or is another manager's; a sentence about each."""
        users = {each.user_digest: f"{each}. {each.cure}" for each in foreign if each.user_digest and not each.is_ended}
        return users | {user_digest(it.user): self.reports[it.container_id] for it in self.others if it.user}


def claim(
    found: Sequence[Gateway],
    known: Callable[[FollowerId], tuple[Record, ContainerId | None]],
    identities: Identities,
    *,
    records_known: bool,
    accept_lost_records: bool,
) -> Claims:
    """Tell the manager's gateways from what only looks like them.

    Args:
        found: every container with an identity of ours.
        known: a follower's record, and the container that is being supervised already.
        identities: ours.
        records_known: whether the records were read; without them nothing new is claimed.
        accept_lost_records: an operator's word that no record is needed.

    """
    candidates: dict[FollowerId, list[Gateway]] = defaultdict(list)
    for gateway in found:
        candidates[gateway.follower_id].append(gateway)
    gateways: dict[FollowerId, Gateway] = {}
    unclaimed: dict[FollowerId, Reason] = {}
    reports: dict[ContainerId, str] = {}
    others: list[Gateway] = []
    for follower_id, theirs in candidates.items():
        record, held = known(follower_id)
        mine = next((each for each in theirs if _is_named(each, record, held, records_known=records_known)), None)
        sound = [each for each in theirs if not (each.faults or each.is_renamed)]
        if mine is None and records_known and accept_lost_records and len(sound) == 1:
            (mine,) = sound
        if mine is not None:
            gateways[follower_id] = mine
        for each in theirs:
            if each is mine:
                continue
            reports[each.container_id] = _report(each, identities, records_known=records_known)
            if each.phase.is_alive and not each.faults:
                others.append(each)
                if mine is None:
                    unclaimed[follower_id] = Reason(ReasonCode.GATEWAY_UNCLAIMED, reports[each.container_id])
    return Claims(gateways, unclaimed, reports, tuple(others))


def _is_named(gateway: Gateway, record: Record, held: ContainerId | None, *, records_known: bool) -> bool:
    """Whether this very container is the one that is known: an id can't be inherited, and no one can choose it."""
    if gateway.faults:
        return False
    if gateway.container_id == held:
        return True
    if not records_known:
        return False
    if record.container_id is not None:
        return gateway.container_id == record.container_id
    cut_off = gateway.phase.precedes_login and not gateway.is_renamed
    return cut_off and bool(gateway.launch_id) and gateway.launch_id in (record.launch_id, *record.earlier_launches)


def _report(gateway: Gateway, identities: Identities, *, records_known: bool) -> str:
    name = gateway.name if len(gateway.name) <= _LONGEST_NAME else f"{gateway.name[:_LONGEST_NAME]}…"
    begin = f"The container {name} ({gateway.container_id[:12]}, {gateway.phase.value})"
    if gateway.faults:
        return (
            f"{begin} bears the labels of {gateway.follower_id}'s gateway, but {' and '.join(gateway.faults)}: it is not"
            " this manager's, and is left alone."
        )
    if not records_known:
        return f"{begin} looks like {gateway.follower_id}'s gateway; it is adopted once the records can be read."
    why = "no record names it"
    if gateway.identity != identities.own:
        why = f"its identity {gateway.identity} was adopted, and no record of this manager names it"
    return (
        f"{begin} looks like {gateway.follower_id}'s gateway, but {why}: it is left alone. If it is, start with"
        " `gateway-manager run --accept-lost-records`; if not, see what is logged in in it before you end it."
    )
