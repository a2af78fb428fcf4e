"""Where a setting's value comes from, and what looks like a setting and is not obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.settings_sources import ignored, masked, origin_of
from spreadpilot_core.ibkr.system.wording import HIDDEN

DOCUMENTED = [
    *("gateway_image", "port_range_start", "port_range_end", "client_id_range_start", "client_id_range_end"),
    *("container_prefix", "healthcheck_interval", "max_startup_time", "vault_enabled"),
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("GATEWAY_MANAGER_CONFIG", str(path))
    return path


def test_arguments_then_environment_then_file_then_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that names a setting gives its value, and is named."""
    file.write_text("parallel_starts = 1\nlogin_budget = 1\nstop_grace = 1\nport_range_end = 4111\n")
    monkeypatch.setenv("GATEWAY_MANAGER_PARALLEL_STARTS", "2")
    monkeypatch.setenv("GATEWAY_MANAGER_LOGIN_BUDGET", "2")
    monkeypatch.setenv("GATEWAY_MANAGER_STOP_GRACE", "")
    given = {"parallel_starts": 3}
    settings = Settings.read(**given)
    assert (settings.parallel_starts, settings.login_budget, settings.stop_grace) == (3, 2, 1)
    assert (settings.port_range_end, settings.port_range_start) == (4111, 4100)
    origins = {name: origin_of(Settings, name, given) for name in Settings.model_fields}
    told = {name: origin.where for name, origin in origins.items() if origin is not None and origin.where != "default"}
    assert told == {
        "parallel_starts": "argument",
        "login_budget": "environment GATEWAY_MANAGER_LOGIN_BUDGET",
        "stop_grace": f"file {file}",
        "port_range_end": f"file {file}",
    }


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_names_also_work_with_the_prefix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any case; where both are set, the one that can only be ours wins."""
    values = {"vault_enabled": ("no", "yes"), "gateway_image": ("a/b:1", "c/d:2"), "container_prefix": ("aa", "bb")}
    ours, bare = values.get(name, ("2000", "3000"))
    arguments = {"port_range_start": 1, "client_id_range_start": 1}
    arguments.pop(name, None)
    monkeypatch.setenv(f"Gateway_Manager_{name}".swapcase(), ours)
    expected = getattr(Settings.read(**arguments), name)
    assert str(expected) in (ours, "False", f"{ours}.0")
    monkeypatch.setenv(name.upper(), bare)
    assert getattr(Settings.read(**arguments), name) == expected


def test_what_is_not_obeyed_is_named_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misspelt, unknown, and known without its prefix; others' variables, and what is obeyed, are not mentioned."""
    for name in ("GATEWAY_MANAGER_READONLY_API", "GATEWAY_MANAGER_NONSENSE", "READ_ONLY_API", "vnc"):
        monkeypatch.setenv(name, "yes")
    for name in (
        "TERM",
        "PATH_X",
        "GATEWAY_MANAGER_STOP_GRACE",
        "PORT_RANGE_END",
        "VAULT_TOKEN",
        "gateway_manager_vnc",
    ):
        monkeypatch.setenv(name, "7000")
    told = dict(sentence.split(" ", 1) for sentence in ignored(Settings))
    assert set(told) == {"GATEWAY_MANAGER_READONLY_API", "GATEWAY_MANAGER_NONSENSE", "READ_ONLY_API", "vnc"}
    assert "GATEWAY_MANAGER_READ_ONLY_API was meant?" in told["GATEWAY_MANAGER_READONLY_API"]
    assert "GATEWAY_MANAGER_READ_ONLY_API was meant?" in told["READ_ONLY_API"]
    assert "GATEWAY_MANAGER_VNC was meant?" in told["vnc"]
    assert "settings show" in told["GATEWAY_MANAGER_NONSENSE"]
    assert Settings.read(vnc=False, stop_grace=9).read_only_api is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stop_graze = 3", ["stop_graze", "stop_grace was meant?"]),
        ('vault_token = "pl4nted"', ["vault_token"]),
        ('[stop]\ngrace = "x"', ["stop"]),
        ("login_budget = 99", ["login_budget is 99", "settings.toml"]),
        ('mongo_uri = "mongodb://u:pl4nted@h"\nvnc = "maybe"', ["vnc is 'maybe'"]),
        ('store_url = "u://me:pl4nted@h"', ["store_url"]),
        ("stop_grace", ["GATEWAY_MANAGER_CONFIG", "key/value"]),
        ("x = " + "[" * 5000, ["GATEWAY_MANAGER_CONFIG"]),
    ],
)
def test_a_slip_in_the_file_stops_the_start(file: Path, content: str, words: list[str]) -> None:
    """The file is ours alone, so what it says wrongly is named; no secret is shown."""
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        Settings.read()
    assert all(each in str(raised.value) for each in words), raised.value
    assert "pl4nted" not in str(raised.value)


@pytest.mark.parametrize("what", ["nothing", "directory"])
def test_a_file_that_is_named_must_be_there(file: Path, what: str) -> None:
    """Going on without it would run with other settings than were meant."""
    if what == "directory":
        file.mkdir()
    with pytest.raises(SettingsError, match="GATEWAY_MANAGER_CONFIG is"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("vault_addr", "https://vault:8200", "https://vault:8200"),
        ("vault_addr", "https://me:pl4nted@vault:8200", HIDDEN),
        ("vault_addr", "https://pl4nted@vault", HIDDEN),
        ("vault_addr", "https://vault/?token=pl4nted", HIDDEN),
        ("store_url", "mongodb://db/?authSource=admin", "mongodb://db/?authSource=admin"),
        ("some_token", "pl4nted", HIDDEN),
        ("stop_grace", 90.0, 90.0),
        ("vault_addr", None, None),
    ],
)
def test_secrets_are_shown_as_set(name: str, value: object, shown: object) -> None:
    """By name, and inside addresses; everything else as it is."""
    assert masked(name, value) == shown
