"""`gateway-manager demo`: the whole product on nothing but this machine, in a temporary directory.

Embedded store, encrypted credentials, simulated gateways in their host process, the real manager and its control socket;
then things go wrong and recover. At the end, however it comes, no process and no file is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.demo.mishaps import Stage, everything_that_goes_wrong, plant_login
from spreadpilot_core.ibkr.demo.page import free_address, sign_in_address, until_somebody_signs_in
from spreadpilot_core.ibkr.demo.screens import LiveScreen, PlainScreen, Screen
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS, read_address
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME, add_follower
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import set_up_logs

_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
_TIMINGS = {"login_form": 0.8, "answer": 0.4, "login": 1.2, "settings": 0.4}
"""Seconds of a simulated login: slow enough to watch."""
_ALL_RUNNING_WITHIN = 120.0
_REFRESH = 0.25
_HOST_GONE_WITHIN = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_PLACE = 50
"""Characters of a temporary directory's path: Unix sockets go into it, whose paths must be short."""
_QUIET = (events.StateChanged, events.LoginRejected, events.ClientStale, events.FollowersLoaded)
"""Events that the table, or another event, tells already."""


def run_demo(*, count: int, once: bool, as_json: bool, page: bool = False) -> None:
    """Run it until Ctrl-C; with `once` until all gateways are RUNNING, then print the final table.

    Raises:
        GatewayManagerError: with `once`, when they did not get there.
    """
    live = sys.stdout.isatty() and not as_json
    screen: Screen = LiveScreen() if live else PlainScreen(sys.stderr if as_json else sys.stdout)
    for number in _SIGNALS:  # until the loop heeds them
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), _temporary_directory() as directory:
        final = asyncio.run(Demo(directory, count, screen, page=page).run(once=once))
        if once:
            if as_json:
                tables.print_json(final)
            elif not live:  # there it stays on the screen
                tables.console().print(tables.gateways(final))


class Demo:
    """One manager with simulated followers in a directory of its own."""

    def __init__(self, directory: Path, count: int, screen: Screen, *, page: bool = False) -> None:
        self._directory = directory
        self._screen = screen
        self._followers = tuple(_NAMES[each] if each < len(_NAMES) else f"follower_{each + 1}" for each in range(count))
        self._settings = demo_settings(directory) | ({"http_address": free_address()} if page else {})
        self._has_page = page
        self._store = EncryptedCredentials.at(directory)
        self._end = asyncio.Event()
        self._tasks = Tasks("demo")
        self._ended_by_hand = False
        self._is_over = False
        """What happens now is only the tidying up, and not told."""

    async def run(self, *, once: bool) -> Sequence[tables.Row]:
        """The whole demo; returns the gateways as they were before the end."""
        await asyncio.to_thread(self._plant)
        manager = GatewayManager(**self._settings)
        with self._heeding_signals(manager), self._screen:
            async with self._hosted() as runtime, self._started(manager):
                stage = Stage(
                    manager=manager,
                    runtime=runtime,
                    store=self._store,
                    screen=self._screen,
                    followers=self._followers,
                )
                await self._play(stage, once=once)
                final = _rows(manager)
                self._screen.show(final)
                self._is_over = once
                if not once or self._ended_by_hand:
                    self._screen.say("The demo ends: the gateways are stopped.", loud=True)
        return final

    async def _play(self, stage: Stage, *, once: bool) -> None:
        """The story, or its early end; a failure of the story is ours to tell."""
        self._tasks.begin("show", self._show(stage.manager))
        story = self._tasks.begin("story", self._story(stage, once=once), then=lambda _: self._end.set())
        await self._end.wait()
        if story.done():
            await story
        await self._tasks.cancel()

    async def _story(self, stage: Stage, *, once: bool) -> None:
        if self._has_page:
            self._screen.offer_page("The page signs you in:", await sign_in_address(self._settings))
        await self._until_all_run(stage.manager)
        if once:
            return
        self._screen.say(
            "The gateway is RUNNING."
            if len(self._followers) == 1
            else f"All {len(self._followers)} gateways are RUNNING.",
            loud=True,
        )
        if self._has_page:
            self._screen.say("What goes wrong next waits until you have opened the page.", loud=True)
            await until_somebody_signs_in(self._settings)
        await everything_that_goes_wrong(stage)
        self._screen.say("That was all; they run on until Ctrl-C.", loud=True)
        if not self._has_page:
            self._offer_command()
        await asyncio.Event().wait()

    def _offer_command(self) -> None:
        command = f"GATEWAY_MANAGER_STATE_DIR={pasted(self._directory)} {pasted(this_program())} status"
        self._screen.offer("Another terminal can look:", command)

    async def _until_all_run(self, manager: GatewayManager) -> None:
        try:
            async with asyncio.timeout(_ALL_RUNNING_WITHIN):
                while not all(self._runs(manager, each) for each in self._followers):  # noqa: ASYNC110  # as any caller would
                    await asyncio.sleep(0.05)
        except TimeoutError:
            late = [each for each in self._followers if not self._runs(manager, each)]
            raise GatewayManagerError(
                f"{', '.join(late)} did not get RUNNING within {_ALL_RUNNING_WITHIN:g} s."
            ) from None

    def _runs(self, manager: GatewayManager, follower_id: str) -> bool:
        with suppress(GatewayManagerError):
            return manager.get_gateway_status(follower_id) is GatewayStatus.RUNNING
        return False

    async def _show(self, manager: GatewayManager) -> None:
        while True:
            self._screen.show(_rows(manager))
            await asyncio.sleep(_REFRESH)

    async def _tell(self, manager: GatewayManager) -> None:
        async for event in manager.events():
            wants_somebody = isinstance(event, events.StateChanged) and event.after is State.NEEDS_HUMAN
            if (wants_somebody or not isinstance(event, _QUIET)) and not self._is_over:
                self._screen.say(event.sentence, about=event.follower_id or "")

    # ------------------------------------------------------------------ what it stands on

    def _plant(self) -> None:
        """Followers, their logins, and how slowly they log in."""
        stream = (self._directory / "manager.log").open("w", encoding="utf-8")
        set_up_logs(form="json", stream=stream)
        (self._directory / SCRIPTS).write_text(json.dumps({"timings": _TIMINGS}))
        for follower_id in self._followers:
            add_follower(self._directory / FILE_NAME, follower_id, vault_secret_ref=f"ibkr/{follower_id}")
            plant_login(self._store, follower_id)

    @asynccontextmanager
    async def _hosted(self) -> AsyncIterator[SimulatedRuntime]:
        """The simulated gateways' host, which is gone after the block."""
        runtime = SimulatedRuntime.from_settings(Settings.read(**self._settings), manager_id="demo")
        await runtime.open()
        address = await asyncio.to_thread(read_address, self._directory)
        try:
            yield runtime
        finally:
            with suppress(GatewayManagerError):
                await runtime.ask_host("shutdown")
            await runtime.close()
            if address is not None:
                await _until_gone(address.pid)

    @asynccontextmanager
    async def _started(self, manager: GatewayManager) -> AsyncIterator[None]:
        """The manager and its control socket; its gateways are stopped after the block."""
        event_tasks = Tasks("demo's events")
        event_tasks.begin("tell", self._tell(manager))
        try:
            await manager.start()
            event_tasks.begin("see a detach", manager.until_ended(), then=lambda _: self._end.set())
            yield
        finally:
            await manager.stop()
            await event_tasks.wait(1)
            await event_tasks.cancel()

    @contextmanager
    def _heeding_signals(self, manager: GatewayManager) -> Iterator[None]:
        def ask_to_end() -> None:
            if self._ended_by_hand:
                manager.hurry()
            self._ended_by_hand = True
            self._end.set()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, ask_to_end)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def demo_settings(directory: Path) -> dict[str, Any]:
    """Every setting, so that nothing of the environment reaches the demo; quick where waiting would bore."""
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    return {
        **defaults,
        "state_dir": directory,
        "store_url": "local:",
        "runtime_url": "simulated:",
        "container_prefix": "demo",
        "vault_enabled": False,
        "healthcheck_interval": 2,
        "heartbeat_timeout": 1.5,
        "connect_time": 3,
        "max_startup_time": 30,
        "secret_poll_interval": 1.5,
        "stop_grace": 2,
    }


def _rows(manager: GatewayManager) -> list[tables.Row]:
    return [each.model_dump(mode="json") for each in manager.list_gateways()]


def this_program() -> Path:
    """The installed command, wherever another terminal is."""
    return Path(sys.argv[0]).absolute()


def pasted(path: Path) -> str:
    """The path as a shell reads it, with a backslash before whatever means something there."""
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", str(path))


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A directory of our own, mode 0700, gone after the block."""
    place = tempfile.gettempdir()
    if len(place) > _LONGEST_PLACE:
        place = "/tmp"  # noqa: S108  # what is made in it is ours alone
    directory = Path(tempfile.mkdtemp(prefix="gateway-manager-demo-", dir=place))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _until_gone(pid: int) -> None:
    with suppress(ProcessLookupError, TimeoutError):
        async with asyncio.timeout(_HOST_GONE_WITHIN):
            while True:
                os.kill(pid, 0)
                await asyncio.sleep(0.05)
