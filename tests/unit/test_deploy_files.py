from __future__ import annotations

import re
import tomllib
from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml

from spreadpilot_core.ibkr.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ("compose.yaml", "compose-local.yaml")
OTHER_NAMES = {"VAULT_TOKEN_FILE", "GATEWAY_MANAGER_CONFIG"}
"""Read by the courier alone; and the name of the file of settings."""


def is_a_setting(name: str) -> bool:
    """Whether the manager reads this variable."""
    plain = name.lower().removeprefix("gateway_manager_")
    return plain in Settings.model_fields or name in OTHER_NAMES


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_names_real_settings_and_leaves_the_gateways(name: str) -> None:
    """A variable that nothing reads would be a setting that does nothing; the gateways' network is the host's."""
    manager = yaml.safe_load((DEPLOY / name).read_text())["services"]["manager"]
    assert [each for each in manager["environment"] if not is_a_setting(each)] == []
    assert manager["environment"]["GATEWAY_MANAGER_ON_EXIT"] == "detach"
    assert manager["network_mode"] == "host"
    assert "/var/run/docker.sock:/var/run/docker.sock" in manager["volumes"]


def test_nothing_is_published_to_the_world() -> None:
    """Every port in the compose files is bound to loopback."""
    files = [yaml.safe_load((DEPLOY / name).read_text()) for name in COMPOSE]
    ports = [port for file in files for service in file["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_compose_file_without_servers_needs_none() -> None:
    """Followers and records in files, logins in the encrypted store, all in one volume that outlives the container."""
    file = yaml.safe_load((DEPLOY / "compose-local.yaml").read_text())
    assert list(file["services"]) == ["manager"]
    manager = file["services"]["manager"]
    values = {name.lower().removeprefix("gateway_manager_"): value for name, value in manager["environment"].items()}
    settings = Settings.read(**values)
    assert (settings.store_url, settings.mongo_uri, settings.vault_enabled) == ("local:", None, False)
    assert "state:/var/lib/gateway-manager" in manager["volumes"]
    assert "GATEWAY_MANAGER_STATE_DIR=/var/lib/gateway-manager" in (DEPLOY / "Dockerfile").read_text()


def test_the_file_of_settings_can_be_read() -> None:
    """What the service and its commands share: as it stands, and with the lines that are commented out."""
    text = (DEPLOY / "settings.toml").read_text()
    assert Settings.read(**tomllib.loads(text)).on_exit == "detach"
    everything = tomllib.loads(re.sub(r"(?m)^# (?=\w+ = )", "", text))
    assert len(everything) > len(tomllib.loads(text))
    assert Settings.read(**everything).state_dir == Path("/var/lib/gateway-manager")


def test_the_page_shows_the_files_as_they_are() -> None:
    """Whoever copies from the page, on GitHub too, gets what is in `deploy/`."""
    page = (ROOT / "docs/operating.md").read_text()
    for name in (*COMPOSE, "gateway-manager.service", "gateway-manager.sh", "settings.toml"):
        assert f"\n{(DEPLOY / name).read_text()}```\n" in page, name


def test_the_unit_names_real_settings_and_leaves_the_gateways() -> None:
    """A restart of the service logs nobody out."""
    unit = RawConfigParser(strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read_string((DEPLOY / "gateway-manager.service").read_text())
    text = (DEPLOY / "gateway-manager.service").read_text()
    names = [line.split("=")[1] for line in text.splitlines() if line.startswith("Environment=")]
    assert [name for name in names if not is_a_setting(name)] == []
    assert "GATEWAY_MANAGER_ON_EXIT=detach" in text
    assert "GATEWAY_MANAGER_CONFIG=/etc/gateway-manager/settings.toml" in text
    assert unit["Service"]["ExecStart"].endswith("gateway-manager run")
    assert unit["Service"]["Type"] == "notify"
    assert int(unit["Service"]["WatchdogSec"]) > 0


def test_the_commands_have_the_groups_that_the_unit_has() -> None:
    """`sudo -u` gives the groups that the user was made in, and none of the unit's."""
    made = re.search(
        r"# useradd .*--groups (\S+) .*gateway-manager$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE
    )
    unit = re.search(r"^SupplementaryGroups=(.+)$", (DEPLOY / "gateway-manager.service").read_text(), re.MULTILINE)
    assert made is not None
    assert unit is not None
    assert made[1].split(",") == unit[1].split()
