"""One watch for all of our pods, by script, over a real connection: who follows one of them misses nothing, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes import pod_watch
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.naming import FOLLOWED
from spreadpilot_core.ibkr.kubernetes.phases import Pod, is_running
from spreadpilot_core.ibkr.kubernetes.pod_watch import FollowedPod, PodWatch
from support.scripted_kubernetes import answered_by
from support.watched_pods import RUNNING, WatchedPods

PATIENCE = 30.0


@pytest.fixture(name="server")
def server_fixture() -> WatchedPods:
    """One with no pods yet."""
    return WatchedPods()


@pytest.fixture(name="api")
async def api_fixture(server: WatchedPods, tmp_path: Path) -> AsyncIterator[Api]:
    """A client of it."""
    async with answered_by(server.answer, tmp_path) as api:
        yield api


@pytest.fixture(name="watch")
async def watch_fixture(api: Api) -> AsyncIterator[PodWatch]:
    """Its watch, which is there already."""
    watch = PodWatch(api, FOLLOWED)
    watch.begin()
    await until(lambda: watch.watch.is_live)
    yield watch
    await watch.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def running(followed: FollowedPod, pod: Pod) -> Pod | None:
    """This pod once it runs; None when it is gone before."""
    async with asyncio.timeout(PATIENCE), aclosing(followed.states(pod)) as states:
        async for seen in states:
            if seen is None or is_running(seen):
                return seen
    raise AssertionError


async def test_many_are_followed_by_one_watch_and_none_is_asked_for(server: WatchedPods, watch: PodWatch) -> None:
    """A launch costs the API server no request for that."""

    async def one(name: str) -> None:
        with watch.follow(name) as followed:
            pod = server.make(name)
            asyncio.get_running_loop().call_later(0.05, lambda: server.change(name, **RUNNING))
            assert await running(followed, pod) == server.pods[name]

    await asyncio.gather(*(one(f"f{number}") for number in range(20)))
    assert server.asked == ["list", "watch"]


async def test_what_is_told_before_the_answer_to_its_making_is_not_missed(server: WatchedPods, watch: PodWatch) -> None:
    """The watch may be faster than the answer, and nothing more happens to the pod."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        ran = server.change("alice", **RUNNING)
        other = server.make("bob")
        with watch.follow("bob") as after:
            server.change("bob", **RUNNING)
            await running(after, other)  # the watch has told of all that came before
        assert await running(followed, pod) == ran


async def test_what_came_while_the_watch_was_broken_is_asked_for(server: WatchedPods, watch: PodWatch) -> None:
    """It tells nothing of that afterwards."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        following = asyncio.create_task(running(followed, pod))
        await asyncio.sleep(0.05)
        server.is_mute = True
        server.change("alice", **RUNNING)
        server.break_watches()
        assert await following == server.pods["alice"]
    assert "GET alice" in server.asked


async def test_a_connection_that_is_dead_and_does_not_say_so_holds_up_nothing(
    server: WatchedPods, watch: PodWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a pod of which nothing is told asks for it."""
    monkeypatch.setattr(pod_watch, "_QUIET", 0.1)
    server.is_mute = True
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        server.change("alice", **RUNNING)
        assert await running(followed, pod) == server.pods["alice"]


async def test_a_pod_that_leaves_the_watch_is_gone_once_it_is_gone(server: WatchedPods, watch: PodWatch) -> None:
    """Whoever takes its label ends nothing: its follower gets no second gateway for that."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        async with asyncio.timeout(PATIENCE), aclosing(followed.states(pod)) as states:
            assert await anext(states) == pod
            server.leave("alice")
            assert await anext(states) == server.pods["alice"]
            server.remove("alice")
            assert await anext(states) is None


async def test_a_next_pod_of_the_same_name_is_another_one(server: WatchedPods, watch: PodWatch) -> None:
    """What is told of it says nothing of the first, which is gone."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        server.remove("alice")
        server.make("alice", **RUNNING)
        assert await running(followed, pod) is None


async def test_a_watch_that_is_refused_is_told_to_who_follows(server: WatchedPods, api: Api) -> None:
    """In the API server's words; who waits learns it, and who comes later too."""
    server.refuses_watches = True
    watch = PodWatch(api, FOLLOWED)
    for _ in range(2):
        with watch.follow("alice") as followed:
            pod = server.make("alice")
            with pytest.raises(RefusedError, match="cannot watch"):
                await running(followed, pod)
    server.refuses_watches = False
    await until(lambda: watch.watch.is_live)
    with watch.follow("alice") as followed:
        assert await running(followed, server.make("alice", **RUNNING)) is not None
    await watch.close()


async def test_who_follows_while_the_api_server_is_away_goes_on_once_it_is_back(
    server: WatchedPods, watch: PodWatch
) -> None:
    """Nothing that it can't tell of is taken for gone."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        following = asyncio.create_task(running(followed, pod))
        server.is_mute, server.answers_pods = True, False
        server.break_watches()
        await until(lambda: server.asked.count("GET alice") > 2)
        server.change("alice", **RUNNING)
        assert not following.done()
        server.answers_pods = True
        assert await following == server.pods["alice"]


async def test_what_a_pod_is_now_is_known_without_asking_unless_something_was_missed(
    server: WatchedPods, watch: PodWatch
) -> None:
    """After a delivery: what was told last, never what was before; with the watch away it is asked for."""
    with watch.follow("alice") as followed:
        pod = server.make("alice")
        server.change("alice", **RUNNING)
        assert await running(followed, pod) == server.pods["alice"]
        marked = {**server.pods["alice"], "metadata": {**server.pods["alice"]["metadata"], "resourceVersion": "9"}}
        assert await followed.now(marked) == marked
        assert "GET alice" not in server.asked
        server.is_mute = True
        server.break_watches()
        await until(lambda: not watch.watch.is_live or server.asked.count("watch") == 2)
        server.remove("alice")
        assert await followed.now(marked) is None


async def test_who_follows_is_told_that_the_runtime_was_closed(server: WatchedPods, watch: PodWatch, api: Api) -> None:
    """It waits for nothing that will not come; and who hears of all of them hears the end."""
    heard: list[Any] = []

    async def hear() -> None:
        heard.extend([each async for each in watch.changes()])

    hearing = asyncio.create_task(hear())
    with watch.follow("alice") as followed:
        following = asyncio.create_task(running(followed, server.make("alice")))
        await asyncio.sleep(0.05)
        await api.close()
        await watch.close()
        with pytest.raises(RuntimeUnavailableError, match="closed"):
            await following
    async with asyncio.timeout(PATIENCE):
        await hearing
    assert heard[0] is None
