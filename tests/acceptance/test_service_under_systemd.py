"""The service as systemd starts it: it says when it is up, that it lives, and that it ends."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support.command import Command
from support.home import Home

UNIT = Path(__file__).parents[2] / "deploy" / "gateway-manager.service"


def test_systemd_hears_of_start_life_and_end(home: Home, tmp_path: Path) -> None:
    """READY comes once the control socket answers, WATCHDOG until the end, STOPPING with the signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        command = Command(home)
        command.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with command.begun("run") as serving:
            told = [systemd.recv(100)]
            while b"READY=1" not in told:
                told.append(systemd.recv(100))
            assert command("status").returncode == 0
            while told.count(b"WATCHDOG=1") < 3:
                told.append(systemd.recv(100))
            serving.signal(signal.SIGTERM)
            while b"STOPPING=1" not in told:
                told.append(systemd.recv(100))
            assert serving.ends() == 0
    assert set(told) == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze comes with systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """No line is unknown to it or misspelt, and its own judgement of the hardening is good."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gateway-manager/bin/gateway-manager", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    about_it = [line for line in verified.stderr.splitlines() if UNIT.name in line and "User=" not in line]
    assert about_it == []
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", unit]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]
