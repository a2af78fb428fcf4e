"""The running faults that change how the API answers, each as what it does to the machine. Data and small functions.

The other running faults are the controller's: they go to it through the machine's inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spreadpilot_core.ibkr.simulator import notices
from spreadpilot_core.ibkr.simulator.faults import Arguments
from spreadpilot_core.ibkr.simulator.machine import Machine


def _shut(machine: Machine, _arguments: Arguments) -> None:
    machine.block_api()


def _open(machine: Machine, _arguments: Arguments) -> None:
    machine.unblock_api()


def _mute(machine: Machine, arguments: Arguments) -> None:
    machine.mute(arguments["stage"])


def _unmute(machine: Machine, _arguments: Arguments) -> None:
    machine.unmute()


def _close_early(machine: Machine, arguments: Arguments) -> None:
    machine.close_early(on=arguments["on"])


def _disclaimer(machine: Machine, arguments: Arguments) -> None:
    machine.demand_disclaimer()
    machine.later(arguments["seconds"], machine.accept_disclaimer)


def _drop(machine: Machine, _arguments: Arguments) -> None:
    machine.api.drop_clients()


def _freeze(machine: Machine, _arguments: Arguments) -> None:
    machine.freeze()


def _thaw(machine: Machine, _arguments: Arguments) -> None:
    machine.thaw()


def _lose_link(machine: Machine, arguments: Arguments) -> None:
    machine.api.behaviour.link_lost = True
    notices.send(machine.api, 1100)
    if arguments["seconds"] is not None:
        machine.later(arguments["seconds"], lambda: _restore_link(machine, arguments))


def _restore_link(machine: Machine, arguments: Arguments) -> None:
    machine.api.behaviour.link_lost = False
    notices.send(machine.api, 1101 if arguments["data"] == "lost" else 1102)


def _notice(machine: Machine, arguments: Arguments) -> None:
    notices.send(machine.api, int(arguments["code"]), arguments["text"])


def _lose_token(machine: Machine, _arguments: Arguments) -> None:
    machine.restarts.token_lost = True


SWITCHES: Mapping[str, Callable[[Machine, Arguments], None]] = {
    "api_shut": _shut,
    "api_open": _open,
    "mute": _mute,
    "unmute": _unmute,
    "close_early": _close_early,
    "disclaimer_pending": _disclaimer,
    "drop_clients": _drop,
    "freeze": _freeze,
    "thaw": _thaw,
    "link_lost": _lose_link,
    "link_restored": _restore_link,
    "notice": _notice,
    "lose_token": _lose_token,
}
