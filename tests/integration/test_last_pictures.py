"""Last pictures of a real VNC server's screen, on disk: what they show, how many there are, and who may read them."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import ScreenError
from spreadpilot_core.ibkr.model.details import ScreenAddress
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.screens import last_pictures
from spreadpilot_core.ibkr.screens.last_pictures import MOST_PICTURES, LastPicturesOnDisk
from support.png import read_png
from support.vnc import PASSWORD, WritingServer, tigervnc

START = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
COLOUR = (0x1E, 0x90, 0x40)


def a_gateway(follower_id: str) -> Gateway:
    return Gateway(
        container_id=ContainerId("c"),
        name="gateway",
        follower_id=FollowerId(follower_id),
        client_id=1000,
        endpoint=None,
        trading_mode=TradingMode.PAPER,
        spec_digest="d",
        controller="ibc",
        image="image",
        phase=GatewayPhase.RUNNING,
        vnc="127.0.0.1:5900",
    )


class Clock:
    """A second later each time."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """The next second."""
        self.now += timedelta(seconds=1)
        return self.now


def pictures(directory: Path, address: ScreenAddress, clock: Clock | None = None) -> LastPicturesOnDisk:
    async def address_of(gateway: Gateway) -> ScreenAddress:
        assert gateway.follower_id
        return address

    return LastPicturesOnDisk(directory, address_of, clock or Clock())


@pytest.fixture(scope="module")
def screen() -> Iterator[ScreenAddress]:
    with tigervnc(width=321, height=123, colour=COLOUR) as address:
        yield address


@pytest.mark.real_part("tigervnc")
async def test_it_shows_what_the_screen_shows(tmp_path: Path, screen: ScreenAddress) -> None:
    """Its size and its colour, with its time; readable for its owner alone, like all in the state directory."""
    kept = pictures(tmp_path, screen)
    await kept.take(a_gateway("alice"))
    (picture,) = await kept.list("alice")
    assert picture.at == START + timedelta(seconds=1)
    content = await kept.read("alice", picture.id)
    assert content is not None
    assert len(content) == picture.size
    image = read_png(content)
    assert (image.width, image.height) == (321, 123)
    assert {image.colour(x, y) for x, y in ((0, 0), (320, 122), (160, 60), (0, 122))} == {COLOUR}
    for path in (tmp_path / "pictures").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.real_part("tigervnc")
async def test_the_newest_few_of_each_follower_are_kept(tmp_path: Path, screen: ScreenAddress) -> None:
    """Nobody's fill the disk, and one follower's push out none of another's; after months they go."""
    clock = Clock()
    kept = pictures(tmp_path, screen, clock)
    await kept.take(a_gateway("bob"))
    for _ in range(MOST_PICTURES + 2):
        await kept.take(a_gateway("alice"))
    assert [each.at.second for each in await kept.list("alice")] == [6, 5, 4]
    assert len(await kept.list("bob")) == 1
    clock.now += last_pictures.EXPIRE_AFTER
    await kept.take(a_gateway("../alice/\0"))
    assert (await kept.list("bob"), len(await kept.list("../alice/\0"))) == ((), 1)


@pytest.mark.real_part("tigervnc")
async def test_no_id_reads_anything_else(tmp_path: Path, screen: ScreenAddress) -> None:
    """An id comes from a request."""
    kept = pictures(tmp_path, screen)
    await kept.take(a_gateway("alice"))
    (picture,) = await kept.list("alice")
    (tmp_path / "secret.png").write_bytes(b"secret")
    for wrong in ("", "../../secret", "..", f"../{picture.id}", f"{picture.id}\n", "20261124T093001000001"):
        assert await kept.read("alice", wrong) is None
    assert await kept.read("bob", picture.id) is None


async def test_what_keeps_a_picture_from_being_taken_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server, a wrong password, one that lets in and shows nothing, no screen: the removal goes on all the same."""
    monkeypatch.setattr(last_pictures, "TAKEN_WITHIN", 0.5)
    await pictures(tmp_path, ScreenAddress("127.0.0.1", 1, PASSWORD)).take(a_gateway("alice"))
    server = WritingServer()
    async with server.served("another") as address:
        await pictures(tmp_path, address).take(a_gateway("alice"))
    async with server.served() as address:
        kept = pictures(tmp_path, address)
        async with asyncio.timeout(60):
            await kept.take(a_gateway("alice"))
    assert server.let_in == 1

    async def nowhere(gateway: Gateway) -> ScreenAddress:
        raise ScreenError(FollowerId(gateway.follower_id))

    await LastPicturesOnDisk(tmp_path, nowhere).take(a_gateway("alice"))
    assert (await kept.list("alice"), (tmp_path / "pictures").exists()) == ((), False)
