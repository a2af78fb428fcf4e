"""The options of a gateway that a service's variables give: each as it stood there, none where it was left to the image."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.service.compose.services import Service
from spreadpilot_core.ibkr.service.compose.values import Value, Values

_YES, _NO = frozenset({"yes", "true", "on", "1"}), frozenset({"no", "false", "off", "0"})
_UNITS = {"": 1, "m": 1, "g": 1024}
_UTC = "Etc/UTC"


def find_options(values: Values, service: Service) -> dict[str, Any]:
    """By the names that they have in a follower's record."""
    found: dict[str, Any] = {}
    if service.image is not None and service.image.text and _fits("image", service.image.text):
        found["image"] = service.image.text
    else:
        values.remark(service.place, "it has no image that can be pulled: the setting gateway_image has one.")
    if (read_only := _read_only(values, service)) is not None:
        found["read_only_api"] = read_only
    action = values.find("EXISTING_SESSION_DETECTED_ACTION", "IBC_EXISTING_SESSION_ACTION")
    _take(found, values, "existing_session_action", action)
    restart = values.find("AUTO_RESTART_TIME", "IBC_AUTO_RESTART_TIME")
    _take(found, values, "auto_restart_time", restart)
    _take_zone(found, values, service)
    heap = values.find("JAVA_HEAP_SIZE", "IBC_JAVA_HEAP_SIZE")
    _take(found, values, "java_heap_mib", heap, _mebibytes(heap) if heap is not None else None)
    screen = values.find("VNC_SERVER_PASSWORD", or_none=True)
    if screen is not None:
        found["vnc"] = True
        values.remark(
            screen.place, f"{screen.name} becomes gateway.vnc; each start makes a new password, which `status` shows."
        )
    return found


def _read_only(values: Values, service: Service) -> bool | None:
    said = values.find("READ_ONLY_API", "IBC_READ_ONLY_API")
    if said is None:
        values.remark(
            service.place,
            "READ_ONLY_API is not set, so what somebody chose on the gateway's screen counted: here the setting read_only_api does.",
        )
        return None
    word = said.text.strip().lower()
    if word not in _YES | _NO:
        values.refuse(said.place, f"{said.name} must be yes or no.")
        return None
    return word in _YES


def _take_zone(found: dict[str, Any], values: Values, service: Service) -> None:
    """The zone in which the restart time, and the times of bars, are."""
    zone, of_container = values.find("TIME_ZONE", "IBC_TIME_ZONE"), values.find("TZ")
    if zone is None and of_container is None:
        found["time_zone"] = _UTC
        values.remark(service.place, f"it has neither TIME_ZONE nor TZ, so its times were UTC: time_zone is {_UTC}.")
        return
    _take(found, values, "time_zone", zone or of_container)
    if zone is not None and of_container is not None and zone.text != of_container.text:
        values.remark(of_container.place, f"TZ is not {zone.name}: gateways have one time zone for both.")


def _take(found: dict[str, Any], values: Values, option: str, said: Value | None, value: object = None) -> None:
    """Set the option, if the value can be one."""
    if said is None:
        return
    value = said.text if value is None else value
    if _fits(option, value):
        found[option] = value
    else:
        values.remark(
            said.place,
            f"{said.name} has no counterpart with this value: the setting {option} has one, or gateway.{option}.",
        )


def _mebibytes(said: Value) -> int | str:
    number = said.text.strip().lower().rstrip("bmg")
    unit = said.text.strip().lower()[len(number) :].rstrip("b")
    return int(number) * _UNITS[unit] if number.isdecimal() and len(number) < 9 and unit in _UNITS else ""  # noqa: PLR2004


def _fits(option: str, value: object) -> bool:
    try:
        GatewayOptions(**{option: value})  # type: ignore[arg-type]  # it says whether it fits
    except ValidationError:
        return False
    return True
