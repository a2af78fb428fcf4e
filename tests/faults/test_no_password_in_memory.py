"""After a fleet was launched through Vault, no password is left in the manager's process, its children or its files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.store.followers_file import add_follower
from support.doors import Doorway
from support.home import free_ports
from support.memory import children, forms, search, search_all
from support.vault import BaoServer
from support.waiting import wait_until

pytestmark = [
    pytest.mark.real_part("vault"),
    pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads /proc/PID/mem, which is Linux's"),
]

FLEET = 20
PROGRAM = Path(__file__).with_name("manager_with_couriers.py")
FLEET_PROGRAM = Path(__file__).with_name("manager_with_fleet.py")
PLAIN = "".join(secrets.choice(string.ascii_letters) for _ in range(20))
FOREIGN = "".join(secrets.choice("äßéøłžščđпяжюд") for _ in range(12))
"""Every planted password is made of these two; no other process may know them."""
NEEDLES = {f"{part}: {name}": needle for part in (PLAIN, FOREIGN) for name, needle in forms(part).items()}


def password(number: int) -> str:
    return f"{number}\\{PLAIN} {FOREIGN}€"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with BaoServer(tmp_path_factory.mktemp("bao")) as bao:
        for number in range(FLEET):
            bao.put(f"ibkr/f{number}", IB_USER=f"user{number}", IB_PASS=password(number))
        yield bao


@contextmanager
def standing(program: Path, arguments: list[str], bao: BaoServer, said: Path) -> Iterator[int]:
    """A manager's process that has launched its fleet and stands still; all it says goes to `said`."""
    with said.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=told,
            env={**os.environ, "VAULT_TOKEN": bao.root.token},
        )
    with process:
        assert process.stdin is not None
        try:
            while b"launched\n" not in said.read_bytes():
                assert process.poll() is None, said.read_text()
                time.sleep(0.05)
            yield process.pid
        finally:
            process.stdin.close()


@contextmanager
def manager(bao: BaoServer, directory: Path, *, copy: str = "") -> Iterator[tuple[int, Path]]:
    """A manager as far as credentials go; its process and the file with all it said."""
    said = directory / "said"
    with Doorway(directory / "s", "docker") as doorway:
        doors = json.dumps([doorway.door(f"c{number}") for number in range(FLEET)])
        with standing(PROGRAM, [str(directory / "state"), bao.address, doors, copy], bao, said) as pid:
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
    }


def test_nothing_is_left_in_a_whole_manager(bao: BaoServer, tmp_path: Path) -> None:
    """Twenty gateways RUNNING through Vault: manager, its living children but for the gateways' own, files, snapshots and log.

    The simulated gateways live in one process that stands for their containers, and hold their passwords as those do.
    """
    directory = Path(tempfile.mkdtemp(prefix="gm-", dir="/tmp"))  # short: it holds Unix sockets
    for number in range(FLEET):
        add_follower(directory / "followers.toml", f"f{number}", vault_secret_ref=f"ibkr/f{number}")
    arguments = [json.dumps(settings_of(directory, bao)), str(FLEET)]
    try:
        with standing(FLEET_PROGRAM, arguments, bao, tmp_path / "said") as pid:
            wait_until(lambda: not children(pid, running="credentials.courier"))
            assert search_all(pid, NEEDLES, but="simulator.host") == set()
            assert_clean([tmp_path / "said", *directory.rglob("*")])
    finally:
        shutil.rmtree(directory)


def assert_clean(paths: Iterable[Path]) -> None:
    files = [path for path in paths if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        assert [name for name, needle in NEEDLES.items() if needle in content] == [], path


def test_copies_left_on_purpose_are_found(bao: BaoServer, tmp_path: Path) -> None:
    """The search is no formality: one password kept in the same manager is found in each form it is kept in."""
    with manager(bao, tmp_path, copy="copy") as (pid, _):
        found = search(pid, NEEDLES)
    for form in ("UTF-8", "UTF-16, little endian", "JSON", "base64 of UTF-8"):
        assert [name for name in found if name.startswith(f"{FOREIGN}: {form}")], f"not found: {form}"


def test_the_courier_is_where_they_are(bao: BaoServer, tmp_path: Path) -> None:
    """While a courier holds one, it is in that process and nowhere above it: the search looks at the right place."""
    program = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from spreadpilot_core.ibkr.credentials.couriers import Couriers\n"
        "from spreadpilot_core.ibkr.settings import Settings\n"
        "async def main():\n"
        "    couriers = Couriers.from_settings(Settings.read(state_dir=Path(sys.argv[1]), vault_addr=sys.argv[2]))\n"
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
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() != b"read\n":
            assert process.poll() is None
        [courier] = children(process.pid)
        assert search(courier, NEEDLES)
        assert search(process.pid, NEEDLES) == set()
        process.stdin.close()
