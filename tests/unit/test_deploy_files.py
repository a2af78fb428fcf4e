from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path

import yaml

from spreadpilot_core.ibkr.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
OTHER_NAMES = {"VAULT_TOKEN_FILE"}
"""Read by the courier alone."""


def is_a_setting(name: str) -> bool:
    """Whether the manager reads this variable."""
    plain = name.lower().removeprefix("gateway_manager_")
    return plain in Settings.model_fields or name in OTHER_NAMES


def test_the_compose_file_names_real_settings() -> None:
    """A variable that nothing reads would be a setting that does nothing; the gateways' network is the host's."""
    manager = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["manager"]
    assert [name for name in manager["environment"] if not is_a_setting(name)] == []
    assert manager["network_mode"] == "host"
    assert "/var/run/docker.sock:/var/run/docker.sock" in manager["volumes"]


def test_nothing_is_published_to_the_world() -> None:
    """Every port in the compose file is bound to loopback."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_unit_names_real_settings_and_leaves_the_gateways() -> None:
    """A restart of the service logs nobody out."""
    unit = RawConfigParser(strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read_string((DEPLOY / "gateway-manager.service").read_text())
    text = (DEPLOY / "gateway-manager.service").read_text()
    names = [line.split("=")[1] for line in text.splitlines() if line.startswith("Environment=")]
    assert [name for name in names if not is_a_setting(name)] == []
    assert "GATEWAY_MANAGER_ON_SIGTERM=detach" in text
    assert unit["Service"]["ExecStart"].endswith("gateway-manager run")
