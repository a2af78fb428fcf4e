"""What root types on a host with the service: the commands as the service's user, with what the unit has."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.command import PROGRAM

WRAPPER = Path(__file__).parents[2] / "deploy" / "gateway-manager.sh"
SUDO = """#!/bin/sh
# As sudo does: nothing of the environment goes along, and the command line is for everybody to see.
echo "$*" >>{0}/command-lines
shift 3
exec {1} env -i PATH={0}:/usr/bin:/bin AS=gateway-manager HOME={0} "$@"
"""
_LIKE_A_USER = "setpriv --bounding-set -dac_override,-dac_read_search" if os.geteuid() == 0 else ""
"""Root may read everything; without these it is like everybody."""
ID = """#!/bin/sh
echo "${AS:-root}"
"""


class Host:
    """A host on which the service is installed, below one directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = place / "environment"
        self.state_dir = place / "state"
        (place / "settings.toml").write_text(f'state_dir = "{place}/elsewhere"\nruntime_url = "simulated:"\n')
        text = WRAPPER.read_text().replace("/etc/gateway-manager/", f"{place}/")
        text = text.replace("/usr/local/bin/gateway-manager", str(place / "gateway-manager"))
        text = text.replace("/opt/gateway-manager/bin/gateway-manager", str(PROGRAM))
        self._program("gateway-manager", text.replace("/var/lib/gateway-manager", str(self.state_dir)))
        self._program("sudo", SUDO.format(place, _LIKE_A_USER))
        self._program("id", ID)

    def _program(self, name: str, text: str) -> None:
        (self.place / name).write_text(text)
        (self.place / name).chmod(0o755)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What an administrator types."""
        environment = {"PATH": f"{self.place}:/usr/bin:/bin", "VAULT_ADDR": "http://of-root.example"}
        return subprocess.run(
            [self.place / "gateway-manager", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def settings(self) -> dict[str, tuple[str, str]]:
        """Each setting that the commands obey: its value and where it comes from."""
        done = self("settings", "show", "--json")
        assert done.returncode == 0, done.stderr
        return {each["setting"]: (each["value"], each["from"]) for each in json.loads(done.stdout)}


@pytest.fixture(name="host")
def host_fixture(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_commands_have_the_environment_of_the_unit(host: Host) -> None:
    """As systemd reads the file: comments, quotes, what a shell would obey; nothing of it on a command line, nothing of root's own."""
    host.environment.write_text(
        "# secrets\n; more\n\n"
        "MONGO_URI=mongodb://gm:s3cret@db.example/?tls=true&w=majority\n"
        '  VAULT_ADDR="https://vault.example:8200"  \n'
        "MONGO_DB_NAME='$(touch ran) `touch ran` it\"s'\n"
        "GATEWAY_MANAGER_LOG_LEVEL=debug"
    )
    host.environment.chmod(0o640)
    found = host.settings()
    assert found["mongo_uri"] == ("set (hidden)", "environment MONGO_URI")
    assert found["vault_addr"][0] == "https://vault.example:8200"
    assert found["mongo_db_name"][0] == '$(touch ran) `touch ran` it"s'
    assert found["log_level"][0] == "debug"
    assert found["state_dir"][0] == str(host.state_dir)  # as in the unit, whatever settings.toml says
    assert "s3cret" not in (host.place / "command-lines").read_text()
    assert not list(host.place.glob("**/ran"))


def test_a_host_without_the_file(host: Host) -> None:
    """The unit needs none either."""
    assert host.settings()["vault_addr"][1] == "default"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("VAULT_ADDR=a\\", "line 2 needs a plain value, or one in quotes."),
        ('VAULT_ADDR="a"b', "line 2 needs a plain value, or one in quotes."),
        ("VAULT_ADDR=a\r", "line 2 needs a plain value, or one in quotes."),
        ("VAULT_ADDR= a", "line 2 needs a plain value, or one in quotes."),
        ("VAULT_ADDR='a", "line 2 has a quote without its other end."),
        ("export VAULT_ADDR=a", "line 2 is no NAME=VALUE."),
        ("s3cret", "line 2 is no NAME=VALUE."),
    ],
)
def test_a_line_that_systemd_may_read_in_another_way(host: Host, line: str, told: str) -> None:
    """Is refused, with its number and nothing that it holds, rather than given another value than the unit has."""
    host.environment.write_text(f"MONGO_DB_NAME=s3cret\n{line}\n")
    done = host("settings", "show")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gateway-manager: {host.environment} can't be read: {told}\n"


def test_a_file_that_the_service_may_not_read(host: Host) -> None:
    """The unit has it from root, so the service runs; the commands say what they lack."""
    host.environment.write_text("VAULT_ADDR=a\n")
    host.environment.chmod(0)
    done = host("settings", "show")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"chgrp gateway-manager {host.environment} && chmod 0640" in done.stderr


def test_a_compose_file_that_the_service_may_not_read(host: Host) -> None:
    """Root's own, which the commands read as the service's user: the way that works is told."""
    file = host.place / "docker-compose.yml"
    file.write_text("services: {}\n")
    file.chmod(0)
    done = host("import", str(file), "--dry-run")
    assert done.returncode == 1
    assert f"{file}: the user " in done.stderr
    assert "may not read it. Copy it, with the `.env` and the secrets beside it," in done.stderr
