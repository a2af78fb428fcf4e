"""`gateway-manager run`: one manager as a service, from its start to a completed SIGTERM.

    start -> wait for a signal or `gateway-manager detach` -> stop (or detach) -> exit code

SIGTERM and Ctrl-C do what `on_exit` says. A second signal hurries: what was asked to close is killed. A third one
ends the process as it is; the next manager finds what is left. It knows the manager's public API and nothing below it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.instrumentation.setup import set_up_sdk
from spreadpilot_core.ibkr.service.systemd import Systemd
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tasks
from spreadpilot_core.ibkr.telemetry import get_logger, set_up_logs

log = get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KILLED_BY_US = 70
"""Exit code after a third signal."""
_COLLECT_AFTER = 10_000
"""New objects between two looks of the garbage collector; its default of 700 has it stop a large fleet for long, and often."""


def run(**settings: Any) -> None:
    """Serve until the end, with these settings and those of the environment; `OTEL_*` variables set OpenTelemetry's SDK up.

    Raises:
        GatewayManagerError: it could not start, or could not end as it should.
    """
    known = Settings.read(**settings)
    set_up_logs(form=known.log_format, level=known.log_level)
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    with set_up_sdk():
        asyncio.run(Service(GatewayManager(**settings)).run())


class Service:
    """One manager and the process's signals."""

    def __init__(self, manager: GatewayManager) -> None:
        self._manager = manager
        self._end = asyncio.Event()
        self._how: Literal["stop", "detach"] = "stop"
        self._signals = 0

    async def run(self) -> None:
        """Serve until a signal or `detach`. Raises `GatewayManagerError` when starting or ending fails."""
        with self._heeding_signals():
            await self._manager.start()
            settings = self._manager.settings
            watching, systemd = Tasks("service"), Systemd()
            try:
                watching.begin("see a detach", self._see_detach())
                watching.begin("feed the watchdog", systemd.feed_watchdog(), then=lambda _: None)
                systemd.started()
                log.info(
                    "manager started",
                    state_dir=str(settings.state_dir),
                    store=settings.store,
                    followers=settings.followers,
                    pid=os.getpid(),
                )
                await self._end.wait()
                systemd.ending()
                await self._finish()
            except BaseException:
                await self._manager.detach(wait=0)  # a defect of ours is no reason to log anybody out
                raise
            finally:
                await watching.cancel()
            log.info("manager ended", how=self._how)

    async def _see_detach(self) -> None:
        """A command ends the manager itself."""
        await self._manager.until_ended()
        if not self._end.is_set():
            self._how = "detach"
            self._end.set()

    async def _finish(self) -> None:
        log.info("manager ends", how=self._how)
        try:
            await (self._manager.stop() if self._how == "stop" else self._manager.detach())
        except GatewayManagerError as error:
            log.error("manager could not end as it should", sentence=str(error))  # noqa: TRY400  # the sentence is all
            raise

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        log.info("asked to end" if self._signals == 1 else "asked to hurry", signal=number.name)
        if self._signals == 1:
            self._how = self._manager.settings.on_exit if not self._end.is_set() else self._how
            self._end.set()
        elif self._signals == 2:  # noqa: PLR2004  # the second one
            self._manager.hurry()
        else:
            os._exit(_KILLED_BY_US)
