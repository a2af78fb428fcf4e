"""After a fleet was launched through Vault, no password is left in the manager's process, its children or its files."""

from __future__ import annotations

import json
import os
import secrets
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.doors import Doorway
from support.memory import children, forms, search
from support.vault import BaoServer

pytestmark = [
    pytest.mark.real_part("vault"),
    pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads /proc/PID/mem, which is Linux's"),
]

FLEET = 20
PROGRAM = Path(__file__).with_name("manager_with_couriers.py")
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
def manager(bao: BaoServer, directory: Path, *, copy: str = "") -> Iterator[tuple[int, Path]]:
    """A manager that has launched its fleet; its process and the file with all it said."""
    with Doorway(directory / "s", "docker") as doorway, (directory / "said").open("wb") as said:
        doors = json.dumps([doorway.door(f"c{number}") for number in range(FLEET)])
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(directory / "state"), bao.address, doors, copy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "VAULT_TOKEN": bao.root.token},
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                while (line := process.stdout.readline()) != b"launched\n":
                    assert line, (directory / "said").read_text()
                    said.write(line)
                for number in range(FLEET):
                    assert doorway.wait_for(f"c{number}")
                yield process.pid, directory / "said"
            finally:
                process.stdin.close()


def test_nothing_is_left_of_the_passwords(bao: BaoServer, tmp_path: Path) -> None:
    """Twenty gateways got theirs; manager, living children, state directory and everything said hold none, in no form."""
    with manager(bao, tmp_path) as (pid, said):
        for process in (pid, *children(pid)):
            assert search(process, NEEDLES) == set()
        files = [said, *(path for path in (tmp_path / "state").rglob("*") if path.is_file())]
        assert len(files) > 3
        for path in files:
            content = path.read_bytes()
            assert [name for name, needle in NEEDLES.items() if needle in content] == []


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
