from __future__ import annotations

from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import UnknownImageError
from spreadpilot_core.ibkr.runtimes.images import PASSWORD_FILE, identify
from support.docker_specs import spec

OLD_ENV = [
    "HOME=/home/ibgateway",
    "IBC_PATH=/home/ibgateway/ibc",
    "IBC_INI=/home/ibgateway/ibc/config.ini",
    "TWS_INI=jts.ini",
]
NEW_ENV = ["HOME=/home/ibgateway", "IBC_APP_DIR=/home/ibgateway/ibcontroller", "IBC_PROGRAM=gateway"]
RUN = ["/home/ibgateway/scripts/run.sh"]


def inspection(env: list[str], **config: Any) -> dict[str, Any]:
    return {"Id": "sha256:1", "Config": {"Env": env, "Cmd": RUN, "User": "1000:1000"} | config}


@pytest.mark.parametrize(
    ("env", "controller"), [(OLD_ENV, "ibc"), (NEW_ENV, "ibcontroller"), (NEW_ENV + OLD_ENV, "ibcontroller")]
)
def test_generation_is_told_by_its_own_variable(env: list[str], controller: str) -> None:
    """The decisive variable tells the generation; a mere `IBC_` prefix, which both have, does not."""
    assert identify("i", inspection(env)).contract.controller == controller


def test_an_image_that_fits_none_is_refused_with_what_was_looked_for() -> None:
    """The refusal names what the image has and what either generation would have."""
    with pytest.raises(UnknownImageError) as caught:
        identify(
            "nginx:1", inspection(["PATH=/bin", "IBC_PATH=/x"], Labels={"org.opencontainers.image.title": "nginx"})
        )
    assert "IBC_PATH, PATH" in str(caught.value)
    assert "IBC_APP_DIR" in str(caught.value)
    assert "IBC_INI" in str(caught.value)
    assert "'nginx'" in str(caught.value)
    assert "gateway_image_contract" in str(caught.value)


def test_the_operator_knows_better() -> None:
    """`image_contract` decides for an image that can't be told by looking."""
    assert identify("mine", inspection(["PATH=/bin"]), override="ibc").contract.controller == "ibc"


def test_an_image_without_a_command_is_refused() -> None:
    """A wrapper without a command to run would exit at once."""
    with pytest.raises(UnknownImageError, match="nothing to run"):
        identify("i", inspection(OLD_ENV, Cmd=None))


def test_entrypoint_and_command_run_together() -> None:
    """What the image would run is both of them, in this order."""
    assert identify("i", inspection(OLD_ENV, Entrypoint=["tini", "--"])).command == ["tini", "--", *RUN]


@pytest.mark.parametrize(
    ("user", "ids"),
    [("1000:1000", (1000, 1000)), ("1234", (1234, 1234)), ("ibgateway", (1000, 1000)), ("", (0, 0)), ("7:8", (7, 8))],
)
def test_owner_of_the_image(user: str, ids: tuple[int, int]) -> None:
    """The secret and the settings belong to the user that the image runs as."""
    image = identify("i", inspection(OLD_ENV, User=user))
    assert (image.uid, image.gid) == ids


def test_every_variable_of_the_old_generation() -> None:
    """What its compose file defaults and its image lacks is said in full."""
    assert identify("i", inspection(OLD_ENV)).variables(
        spec(read_only_api=True, java_heap_mib=1024, auto_restart_time="11:45 PM")
    ) == {
        "TWS_USERID": "alice01",
        "TWS_PASSWORD_FILE": PASSWORD_FILE,
        "TWS_SETTINGS_PATH": "/home/ibgateway/tws_settings",
        "TRADING_MODE": "paper",
        "READ_ONLY_API": "yes",
        "EXISTING_SESSION_DETECTED_ACTION": "primary",
        "TWS_ACCEPT_INCOMING": "accept",
        "TWOFA_TIMEOUT_ACTION": "exit",
        "RELOGIN_AFTER_TWOFA_TIMEOUT": "no",
        "TWOFA_EXIT_INTERVAL": "60",
        "ALLOW_BLIND_TRADING": "no",
        "AUTO_RESTART_TIME": "11:45 PM",
        "JAVA_HEAP_SIZE": "1024",
        "CUSTOM_CONFIG": "NO",
        "TZ": "America/New_York",
        "TIME_ZONE": "America/New_York",
    }


def test_every_variable_of_the_new_generation() -> None:
    """Its own names, the heap with a unit, the three time zones alike, and a log that hides nothing."""
    assert identify("i", inspection(NEW_ENV)).variables(
        spec(trading_mode="live", existing_session_action="secondary", auto_restart_time="11:45 PM")
    ) == {
        "IBC_USERID": "alice01",
        "IBC_PASSWORD_FILE": PASSWORD_FILE,
        "IBC_TWS_SETTINGS_PATH": "/home/ibgateway/tws_settings",
        "IBC_TRADING_MODE": "live",
        "IBC_READ_ONLY_API": "no",
        "IBC_EXISTING_SESSION_ACTION": "secondary",
        "IBC_ACCEPT_INCOMING_CONNECTIONS": "accept",
        "IBC_MFA_TIMEOUT": "180",
        "IBC_MFA_EXIT_INTERVAL": "60",
        "IBC_LOGIN_DIALOG_DISPLAY_TIMEOUT": "300",
        "IBC_MFA_TIMEOUT_ACTION": "exit",
        "IBC_RELOGIN_AFTER_MFA_TIMEOUT": "no",
        "IBC_AUTO_RESTART_TIME": "11:45 PM",
        "IBC_JAVA_HEAP_SIZE": "768m",
        "IBC_LOG_LEVEL": "info",
        "IBC_LOG_SINK": "std",
        "IBC_TIME_ZONE": "America/New_York",
        "CUSTOM_CONFIG": "NO",
        "TZ": "America/New_York",
        "TIME_ZONE": "America/New_York",
    }


def test_a_user_with_braces_stays_as_it_is() -> None:
    """Values are never taken for templates."""
    assert identify("i", inspection(OLD_ENV)).variables(spec(user="{mode}"))["TWS_USERID"] == "{mode}"


def test_the_screen_is_off_until_asked_for() -> None:
    """Only a gateway with `vnc` is given a screen password file, by the name that both generations know."""
    image = identify("i", inspection(NEW_ENV))
    assert "VNC_SERVER_PASSWORD_FILE" not in image.variables(spec())
    assert image.variables(spec(vnc=True))["VNC_SERVER_PASSWORD_FILE"] == "/run/gateway-manager/screen"
