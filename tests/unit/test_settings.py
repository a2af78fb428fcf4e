"""Settings: names, defaults, the environment, and a sentence for every wrong value."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.settings import Settings

DOCUMENTED: dict[str, Any] = {
    "gateway_image": "ghcr.io/gnzsnz/ib-gateway:latest",
    "port_range_start": 4100,
    "port_range_end": 4200,
    "client_id_range_start": 1000,
    "client_id_range_end": 9999,
    "container_prefix": "ibgateway-follower",
    "healthcheck_interval": 30,
    "max_startup_time": 120,
    "vault_enabled": True,
}


def test_the_nine_documented_names_have_their_documented_defaults() -> None:
    """The product's documentation and the code agree."""
    settings = Settings.read()

    assert {name: getattr(settings, name) for name in DOCUMENTED} == DOCUMENTED


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(("name", "text", "value"), [("port_range_end", "4300", 4300), ("vault_enabled", "no", False)])
def test_documented_names_are_read_from_the_environment_as_they_stand_in_any_case(
    monkeypatch: pytest.MonkeyPatch, spell: Any, name: str, text: str, value: object
) -> None:
    """PORT_RANGE_END and its likes need no prefix."""
    monkeypatch.setenv(spell(name), text)

    assert getattr(Settings.read(), name) == value


def test_every_other_setting_has_the_prefix_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """GATEWAY_MANAGER_<NAME> from the environment, unless the same name is given; an empty variable is none."""
    monkeypatch.setenv("GATEWAY_MANAGER_LOGIN_BUDGET", "5")
    monkeypatch.setenv("GATEWAY_MANAGER_PARALLEL_STARTS", "9")
    monkeypatch.setenv("GATEWAY_MANAGER_ON_EXIT", "")
    settings = Settings.read(parallel_starts=2)

    assert (settings.login_budget, settings.parallel_starts, settings.on_exit) == (5, 2, "stop")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"port_range_start": 0}, "port_range_start is 0, but must"),
        ({"port_range_start": 4300}, "port_range_end is 4200, but must not be below port_range_start (4300)"),
        ({"client_id_range_end": 7}, "client_id_range_end is 7, but must not be below client_id_range_start (1000)"),
        ({"client_id_range_start": 0}, "client_id_range_start is 0, but must"),
        ({"healthcheck_interval": 0}, "healthcheck_interval is 0, but must"),
        ({"healthcheck_interval": math.inf}, "healthcheck_interval is inf, but must"),
        ({"heartbeat_timeout": math.nan}, "heartbeat_timeout is nan, but must"),
        ({"max_startup_time": 1e300}, "max_startup_time is 1e+300, but must"),
        ({"login_budget": 9}, "login_budget is 9, but must"),
        ({"on_exit": "ignore"}, "on_exit is 'ignore', but must"),
        ({"container_prefix": "-x"}, "container_prefix is '-x', but must"),
        (
            {"runtime_url": "podman:"},
            "runtime_url is 'podman:', but must be docker: or kubernetes:[NAMESPACE] or simulated:[DIRECTORY]",
        ),
        ({"store_url": "sqlite:"}, "store_url is 'sqlite:', but must"),
        ({"auto_restart_time": "23:45"}, "auto_restart_time is '23:45', but must look like \"11:45 PM\""),
        ({"time_zone": "EST5"}, "time_zone is 'EST5', but must be an IANA time zone"),
        ({"time_zone": "localtime"}, "time_zone is 'localtime', but must be an IANA time zone"),
        ({"gateway_image": "ghcr.io/"}, "gateway_image is 'ghcr.io/', but must be an image's name such as"),
        ({"gateway_image": "Some Gateway"}, "gateway_image is 'Some Gateway', but must be an image's name"),
        ({"gatewayimage": "x"}, "gatewayimage is 'x', but there is no such setting"),
    ],
)
def test_a_wrong_value_is_a_sentence_with_setting_value_and_what_is_allowed(
    arguments: dict[str, Any], sentence: str
) -> None:
    """Whatever is wrong, the start stops with words that name it."""
    with pytest.raises(SettingsError) as raised:
        Settings.read(**arguments)

    assert sentence in str(raised.value)


def test_the_address_of_mongodb_is_shown_nowhere() -> None:
    """It may hold a password."""
    settings = Settings.read(mongo_uri="mongodb://user:pass-word@db/")
    assert "pass-word" not in repr(settings)
    with pytest.raises(SettingsError) as raised:
        Settings.read(mongo_uri=["mongodb://user:pass-word@db/"])
    assert "pass-word" not in str(raised.value)


def test_urls_choose_store_and_runtime_and_where_they_are(tmp_path: Path) -> None:
    """MONGO_URI makes MongoDB the store, `local:` is `state_dir`, a path after the colon is another directory."""
    plain = Settings.read(state_dir=tmp_path)
    assert plain.store == "local:"
    assert plain.local_store_dir == plain.simulated_dir == tmp_path
    assert Settings.read(mongo_uri="mongodb://db/").store == "mongodb:"
    assert Settings.read(mongo_uri="mongodb://db/", store_url="local:").store == "local:"
    elsewhere = Settings.read(state_dir=tmp_path, store_url="local:~/x", runtime_url=f"simulated:{tmp_path / 'y'}")
    assert elsewhere.local_store_dir == Path.home() / "x"
    assert elsewhere.simulated_dir == tmp_path / "y"


def test_settings_do_not_change() -> None:
    """One manager, one set of settings."""
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().login_budget = 8


@pytest.mark.parametrize(
    "name",
    [
        "gateway",
        "ghcr.io/gnzsnz/ib-gateway:10.45.1j",
        "localhost:5000/gateway",
        "[::1]:5000/a/b__c.d--e:Tag_1.x-y",
        "registry.example/our/gateway@sha256:" + "0f" * 32,
        "registry.example/our/gateway:7@sha256:" + "0f" * 32,
        "sha256:" + "0f" * 32,
        "0f" * 6,
    ],
)
def test_every_form_of_an_images_name_is_taken(name: str) -> None:
    """With a registry, a port, a tag, a digest, or as the engine's own id."""
    assert Settings.read(gateway_image=name).gateway_options.image == name


def test_a_command_that_another_terminal_may_not_find_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the demo, whose environment was activated nowhere; where the PATH has the command its name is enough."""
    program = tmp_path / "bin/gateway-manager"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = Settings(state_dir=tmp_path / "of its own")
    assert settings.command == f"GATEWAY_MANAGER_STATE_DIR='{tmp_path}/of its own' {program}"
    monkeypatch.setenv("PATH", str(program.parent))
    assert settings.command == f"GATEWAY_MANAGER_STATE_DIR='{tmp_path}/of its own' gateway-manager"
