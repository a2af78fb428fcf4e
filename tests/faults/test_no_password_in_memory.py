"""After a fleet was launched through Vault, no password is left in the manager's process, its children or its files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

import pytest

from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.memory import children, search, search_all
from support.planted import FOREIGN, NEEDLES, core_of, found_in, found_in_files, leadership, password
from support.ports import free_ports
from support.stdin_delivery import Doorway
from support.vault import BaoServer
from support.waiting import wait_until

pytestmark = [
    pytest.mark.real_part("vault"),
    pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads /proc/PID/mem, which is Linux's"),
]

FLEET = 20
PROGRAM = Path(__file__).with_name("manager_with_couriers.py")
FLEET_PROGRAM = Path(__file__).with_name("manager_with_fleet.py")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        for number in range(FLEET):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}", IB_PASS=password(number))
        yield bao


@contextmanager
def manager(bao: BaoServer, directory: Path, *, copy: str = "") -> Iterator[tuple[int, Path]]:
    """A manager as far as credentials go; its process and the file with all it said."""
    said = directory / "said"
    (directory / "cwd").mkdir()
    with Doorway(directory / "s", "docker") as doorway:
        delivery_targets = json.dumps([doorway.delivery_target(f"c{number}") for number in range(FLEET)])
        with leadership(
            PROGRAM, [str(directory / "state"), bao.address, delivery_targets, copy], bao, said, cwd=directory / "cwd"
        ) as pid:
            for number in range(FLEET):
                assert doorway.wait_for(f"c{number}")
            yield pid, said


def test_nothing_is_left_of_the_passwords(bao: BaoServer, tmp_path: Path) -> None:
    """Twenty gateways got theirs; manager, living children, state directory and everything said hold none, in no form."""
    with manager(bao, tmp_path) as (pid, said):
        assert search_all(pid, NEEDLES) == set()
        assert_clean([said, *(tmp_path / "state").rglob("*")])


def settings_of(directory: Path, bao: BaoServer) -> dict[str, object]:
    first = free_ports(FLEET)
    return {
        "state_dir": str(directory),
        "runtime_url": "simulated:",
        "store_url": "local:",
        "vault_addr": bao.address,
        "port_range_start": first,
        "port_range_end": first + FLEET - 1,
        "max_startup_time": 100.0,
        "metrics_address": f"{free_ports(1)}",
    }


def test_nothing_is_left_in_a_whole_manager(bao: BaoServer, tmp_path: Path) -> None:
    """Twenty gateways RUNNING through Vault: manager, its living children but for the gateways' own, files, snapshots, log, spans, metrics.

    The simulated gateways live in one process that stands for their containers, and hold their passwords as those do.
    """
    directory = Path(tempfile.mkdtemp(prefix="gm-", dir="/tmp"))  # short: it holds Unix sockets
    for number in range(FLEET):
        add_follower(directory / "followers.toml", f"f{number}", vault_secret_ref=f"ibkr/f{number}")
    arguments = [json.dumps(settings_of(directory, bao)), str(FLEET)]
    try:
        with leadership(FLEET_PROGRAM, arguments, bao, tmp_path / "said") as pid:
            wait_until(lambda: not children(pid, running="credentials.courier"))
            assert search_all(pid, NEEDLES, but="simulator.host") == set()
            assert_clean([tmp_path / "said", *directory.rglob("*")])
            spans = (tmp_path / "said").read_text()
            assert all(f'"name": "gateway {action}"' in spans for action in ("prepare", "launch", "connect"))
    finally:
        shutil.rmtree(directory)


def assert_clean(paths: Iterable[Path]) -> None:
    files = [path for path in paths if path.is_file()]
    assert len(files) > 3
    assert found_in_files(files) == {}


def test_copies_left_on_purpose_are_found(bao: BaoServer, tmp_path: Path) -> None:
    """The search is no formality: one password kept in the same manager is found in each form it is kept in."""
    with manager(bao, tmp_path, copy="copy") as (pid, _):
        found = search(pid, NEEDLES)
    for form in ("UTF-8", "UTF-16, little endian", "JSON", "base64 of UTF-8"):
        assert [name for name in found if name.startswith(f"{FOREIGN}: {form}")], f"not found: {form}"


@pytest.mark.parametrize("copy", ["", "copy"])
def test_a_core_dump_of_the_manager_holds_none(bao: BaoServer, tmp_path: Path, copy: str) -> None:
    """What the kernel writes of an aborted manager has none of the passwords, and has one that was kept on purpose."""
    with manager(bao, tmp_path, copy=copy) as (pid, _):
        core = core_of(pid, tmp_path / "cwd")
        assert core is not None
        assert core.stat().st_size > 2**20
        assert bool(found_in(core)) is bool(copy)
        core.unlink()


def test_the_courier_is_where_they_are(bao: BaoServer, tmp_path: Path) -> None:
    """While a courier holds one, it is in that process and nowhere above it, and the kernel writes no core dump of it."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    program = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from spreadpilot_core.ibkr.credentials.broker import CourierBroker\n"
        "from spreadpilot_core.ibkr.settings import Settings\n"
        "async def main():\n"
        "    couriers = CourierBroker.from_settings(Settings.read(state_dir=Path(sys.argv[1]), vault_addr=sys.argv[2]))\n"
        "    await couriers.read('ibkr/f0', 'ibc', follower_id='f0')\n"
        "    print('read', flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.read)\n"
        "    await couriers.close()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), bao.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "VAULT_TOKEN": bao.root.token},
        cwd=cwd,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() != b"read\n":
            assert process.poll() is None
        [courier] = children(process.pid)
        os.kill(
            courier, signal.SIGSTOP
        )  # it would leave after ten seconds, and on a busy machine two searches take more
        assert search(courier, NEEDLES)
        assert search(process.pid, NEEDLES) == set()
        limits = Path(f"/proc/{courier}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        Timer(1, go_on, (courier,)).start()  # once it is told to abort: that comes before anything of its own
        assert core_of(courier, cwd) is None
        core = core_of(process.pid, cwd)
        assert core is not None  # here they are written
        core.unlink()
        process.stdin.close()


def go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
