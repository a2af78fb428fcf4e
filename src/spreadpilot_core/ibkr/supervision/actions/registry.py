"""Every action by its kind: the file of this package that is named as the kind."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.supervision.actions.action import GatewayAction

ACTIONS: Mapping[ActionKind, GatewayAction[Any]] = {
    kind: import_module(f"{__package__}.{kind.value}").ACTION for kind in ActionKind
}
