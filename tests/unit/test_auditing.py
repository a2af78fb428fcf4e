from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spreadpilot_core.ibkr.audit.auditor import OPERATOR, Auditor
from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.deciding.observation import Failure
from spreadpilot_core.ibkr.errors import AuditError, CourierFailedError, DeliveryUnsureError
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Login
from spreadpilot_core.ibkr.model.records import ContainerId, LoginAttempt
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.actions import launch, prepare
from spreadpilot_core.ibkr.supervision.services import spec_for


@pytest.fixture
async def auditor(tmp_path: Path) -> AsyncIterator[Auditor]:
    auditor = Auditor(AuditTrail(tmp_path), who="manager", retry_after=0.02, limit=3)
    yield auditor
    await auditor.close()


async def lines(directory: Path, count: int) -> list[dict[str, Any]]:
    """All lines, once there are so many."""
    async with asyncio.timeout(30):
        while len(entries := await asyncio.to_thread(lambda: list(AuditTrail(directory).entries()))) < count:
            await asyncio.sleep(0.02)
    return entries


async def fill_the_disk(directory: Path) -> None:
    """As far as the trail is concerned."""
    await asyncio.to_thread((directory / "audit.jsonl").unlink, missing_ok=True)
    await asyncio.to_thread((directory / "audit.jsonl").symlink_to, "/dev/full")


async def test_notes_are_written_in_order_while_others_write_too(auditor: Auditor, tmp_path: Path) -> None:
    """Lines of manager and courier share one whole chain, whose newest line the manager finds whoever wrote it."""
    told = asyncio.Event()
    auditor.on_written = told.set
    courier = AuditTrail(tmp_path)
    for number in range(3):
        auditor.note("reject", follower=f"f{number}", outcome="refused")
        await asyncio.to_thread(courier.append, "read", who="courier", follower=f"f{number}")
    entries = await lines(tmp_path, 6)
    assert [entry["follower"] for entry in entries if entry["act"] == "reject"] == ["f0", "f1", "f2"]
    assert told.is_set()
    verdict = await asyncio.to_thread(courier.verify)
    assert verdict.is_whole
    assert await auditor.newest() == verdict.head


async def test_what_happened_while_the_disk_was_full_is_written_afterwards(auditor: Auditor, tmp_path: Path) -> None:
    """Notes wait for room, with their own time; those beyond the limit are counted in a line of their own."""
    await fill_the_disk(tmp_path)
    for number in range(5):
        auditor.note("rotate", detail=str(number))
    await asyncio.sleep(0.1)
    await asyncio.to_thread((tmp_path / "audit.jsonl").unlink)
    entries = await lines(tmp_path, 4)
    assert [(entry["act"], entry["detail"]) for entry in entries] == [
        ("rotate", "0"),
        ("rotate", "1"),
        ("rotate", "2"),
        ("gap", "2 lines, while the trail could not be written"),
    ]
    assert entries[2]["at"] < entries[3]["at"]


async def test_an_operators_act_is_on_the_disk_first_or_refused(auditor: Auditor, tmp_path: Path) -> None:
    """It is written before it is done, under the operator's own name; with the disk full it raises instead."""
    OPERATOR.set("olga, through the control socket")
    await auditor.write("launch", {"follower": "f0", "detail": "It was rejected."})
    [entry] = await lines(tmp_path, 1)
    assert (entry["who"], entry["follower"]) == ("olga, through the control socket", "f0")
    await fill_the_disk(tmp_path)
    with pytest.raises(AuditError, match="No space left"):
        await auditor.write("launch", {})


class DeadDesk:
    """Its couriers die before they can say what they did."""

    async def read(self, *_: object, **__: object) -> None:
        """Fail."""
        raise CourierFailedError("The courier failed: exit code -9.")

    async def deliver(self, *_: object) -> None:
        """Fail."""
        raise DeliveryUnsureError("The courier failed: exit code -9.")


async def test_what_no_courier_could_tell_of_is_written_by_the_manager(auditor: Auditor, tmp_path: Path) -> None:
    """A read and a delivery that a courier died in have their lines all the same, with what the manager knows."""
    follower = Follower(id=FollowerId("f0"), vault_secret_ref="ibkr/f0", enabled=True)
    login = Login(user="edemo", version="4-aa", source="vault", written_at=None, ticket="1:x")

    async def preflight(_: object) -> str:
        return "ibc"

    services: Any = SimpleNamespace(auditor=auditor, broker=DeadDesk(), runtime=SimpleNamespace(prepare=preflight))
    ended = await prepare.read_secret(services, follower, spec_for(follower, Settings.read().gateway_options))
    assert ended.failure is Failure.UNAVAILABLE
    request: Any = SimpleNamespace(preflight=SimpleNamespace(login=login), follower=follower, record=None)
    launching = launch._ReservedLaunch(services, request, cast("LoginAttempt", None))
    with pytest.raises(DeliveryUnsureError):
        await launching._deliver(DeliveryTarget("docker", ContainerId("c1")))
    read, delivery = await lines(tmp_path, 2)
    assert (read["act"], read["follower"], read["ref"], read["outcome"]) == (
        "read",
        "f0",
        "ibkr/f0",
        "The courier failed: exit code -9.",
    )
    assert (delivery["act"], delivery["version"], delivery["detail"]) == ("deliver", "4-aa", "to container c1")
    assert "exit code -9" in delivery["outcome"]


@pytest.mark.parametrize("again", [False, True], ids=["the same manager", "the next manager"])
async def test_lines_cut_under_a_manager_stay_found_however_much_is_written_afterwards(
    auditor: Auditor, tmp_path: Path, again: bool
) -> None:
    """The newest hash moves on with new lines; that an older one went is a line of its own, named by `verify` ever after."""
    trail = AuditTrail(tmp_path)

    async def write(count: int, *, who: str = "courier") -> None:
        for _ in range(count):
            await asyncio.to_thread(trail.append, "read", who=who)

    await write(3)
    kept = await auditor.newest()
    content = await asyncio.to_thread(trail.path.read_bytes)
    await asyncio.to_thread(trail.path.write_bytes, b"".join(content.splitlines(keepends=True)[:2]))
    await write(4, who="the next courier")  # within a millisecond the same would write the very line that was cut
    if again:
        auditor = Auditor(AuditTrail(tmp_path), who="manager")
        auditor.recall(kept)
    newest = await auditor.newest()
    assert newest is not None
    await write(2)
    await auditor.newest()
    verdict = await asyncio.to_thread(trail.verify, newest.hash)
    assert verdict.findings == ("audit.jsonl, line 7 tells of lines that were removed or altered before it.",)


async def test_a_trail_that_was_put_aside_and_went_on_is_not_called_broken(auditor: Auditor, tmp_path: Path) -> None:
    """A rotation, ours or a log rotator's, removes nothing."""
    trail = AuditTrail(tmp_path, rotate_at=200)
    for _ in range(6):
        await asyncio.to_thread(trail.append, "read", who="courier")
        assert await auditor.newest() is not None
    unbounded = AuditTrail(tmp_path)
    await asyncio.to_thread(unbounded.append, "read", who="courier")
    await auditor.newest()
    await asyncio.to_thread(trail.path.rename, tmp_path / "audit.jsonl.1")
    await asyncio.to_thread(unbounded.append, "read", who="courier")
    await auditor.newest()
    verdict = await asyncio.to_thread(trail.verify)
    assert (verdict.findings, verdict.lines) == ((), 8)
