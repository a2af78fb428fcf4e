"""A FIFO in the place of any file of the state directory: who opens it carelessly waits for ever, and no signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from spreadpilot_core.ibkr.audit.trail import FILE_NAME as TRAIL
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import KEY_FILE_NAME as KEY_FILE
from spreadpilot_core.ibkr.http_api.address import SOCKET
from spreadpilot_core.ibkr.runtimes.identity import NOTE
from spreadpilot_core.ibkr.simulator.engine.files import LOG, OPERATIONS, SCRIPTS
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from spreadpilot_core.ibkr.state_dir import HOLDER, LOCK
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME as FOLLOWERS
from spreadpilot_core.ibkr.store.local.followers_file import REMOVED_NAME
from spreadpilot_core.ibkr.store.local.records import FILE_NAME as RECORDS
from spreadpilot_core.ibkr.system.whole_files import STORE_FILE
from support.command import Command
from support.home import Home
from support.runtimes import end_host
from support.waiting import wait_until

DISPENSABLE = [
    *(HOLDER, NOTE, SOCKET, REMOVED_NAME, "audit-000000001.jsonl", f"{TRAIL}.1"),
    *("simulated-host.json", "simulated-host.sock", LOG, OPERATIONS, LOGINS),
]
"""Without these a gateway comes up all the same."""
NEEDED = [
    *(LOCK, TRAIL, "audit.lock", RECORDS, f"{RECORDS}-wal", f"{RECORDS}-shm", f"{RECORDS}-journal"),
    *(FOLLOWERS, f".{FOLLOWERS}.lock", STORE_FILE, "credentials.lock", KEY_FILE, f"{KEY_FILE}.new"),
    *("simulated-host.lock", SCRIPTS),
]
"""Without one of these it may not, and a sentence says so."""
WITHIN = 60.0


def test_no_pipe_keeps_a_gateway_from_coming_up_that_is_in_nobodys_way() -> None:
    """What is noted for others, or only looked at, is written anew or passed over."""
    assert _lives(*DISPENSABLE, until="GatewayReady") == ""


def test_no_file_of_the_state_directory_can_hang_the_manager() -> None:
    """It serves, or says in a sentence why it can't; either way a signal ends it."""
    with ThreadPoolExecutor(max_workers=4) as several:
        wrong = {name: why for name, why in zip(NEEDED, several.map(_lives, NEEDED), strict=True) if why}
    assert wrong == {}


def _lives(*names: str, until: str = "manager started") -> str:
    """Start the command with FIFOs of these names, and end it; gives what it should not have said."""
    home = Home()
    try:
        asyncio.run(home.add("anna"))
        for name in names:
            home.directory.joinpath(name).unlink(missing_ok=True)
            os.mkfifo(home.directory / name)
        return _live(home, until)
    finally:
        for name in names:
            home.directory.joinpath(name).unlink(missing_ok=True)
        end_host(home.directory)
        asyncio.run(home.end())


def _live(home: Home, until: str) -> str:
    with Command(home).begun("run") as serving:
        try:
            wait_until(lambda: serving.process.poll() is not None or until in serving.stderr, within=WITHIN)
            if serving.process.poll() is None:
                serving.signal(signal.SIGTERM)
            code = serving.ends(WITHIN)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            return f"{error}: {serving.stderr[-1000:]}"
        reached = code == 1 or until in serving.stderr
        fine = reached and code in (0, 1) and "Traceback" not in serving.stderr + serving.stdout
        return "" if fine else f"{code}: {serving.stderr[-2000:]}"
