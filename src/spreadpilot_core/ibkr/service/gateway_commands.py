"""The commands that speak to a running manager: what they ask, and the sentence or table they print."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.runtimes.looking import onlooker
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.client import ControlClient
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.telemetry import set_up_logs

_LOOK_EVERY = 0.5
"""Seconds between two looks of `--watch`."""


def status(follower: str | None, *, watch: bool, as_json: bool) -> None:
    """Print all gateways, or one in detail; with `watch` every change of them until Ctrl-C."""
    with _client() as client:
        if watch:
            _watch(client, follower, as_json=as_json)
        else:
            _show(_look(client, follower), detailed=follower is not None, as_json=as_json)


def launch(follower: str, *, retry_login: bool) -> None:
    """Start it, and say how far it is."""
    with _client() as client:
        _tell(client.act(follower, "launch", {"retry_login": retry_login}))


def stop(follower: str) -> None:
    """Stop it, and say that it is gone."""
    with _client() as client:
        _tell(client.act(follower, "stop"))


def restart(follower: str) -> None:
    """Start it anew, and say how far it is."""
    with _client() as client:
        _tell(client.act(follower, "restart"))


def reconnect(follower: str) -> None:
    """Replace its client; one that does not come back is a failure."""
    with _client() as client:
        answer = client.act(follower, "reconnect")
    if not answer["reconnected"]:
        gateway = answer["gateway"]
        raise GatewayManagerError(f"{follower} is not connected: it is {gateway['state']}.", hint=tables.what(gateway))
    _tell(answer["gateway"])


def detach() -> None:
    """End the manager, leave the gateways."""
    with _client() as client:
        pid = client.detach()
    print(f"The manager (process {pid}) has ended; its gateways keep running.")


def _client() -> ControlClient:
    return ControlClient(Settings.read().state_dir)


def _tell(gateway: dict[str, Any]) -> None:
    print(f"{gateway['follower_id']} is {gateway['status']} ({gateway['state']}). {tables.what(gateway)}".rstrip())


def _look(client: ControlClient, follower: str | None) -> list[dict[str, Any]]:
    return client.gateways() if follower is None else [client.gateway(follower)]


def _show(gateways: list[dict[str, Any]], *, detailed: bool, as_json: bool) -> None:
    if as_json:
        tables.print_json(gateways)
    elif detailed:
        tables.console().print(tables.gateway(_with_screen_password(gateways[0])))
    elif gateways:
        tables.console().print(tables.gateways(gateways))
    else:
        print(
            "The manager knows no followers. `gateway-manager followers list` shows the local records, or why there are none."
        )


def _with_screen_password(gateway: dict[str, Any]) -> dict[str, Any]:
    """The gateway as it is shown to who asked for this one: where its screen is, then its password, read for this moment."""
    if not gateway["vnc"]:
        return gateway
    set_up_logs(level="error")
    password = asyncio.run(_screen_password(Settings.read(), gateway["container"]))
    shown: dict[str, Any] = {}
    for name, value in gateway.items():
        shown[name] = value
        if name == "vnc":
            shown["vnc_password"] = password
    return shown


async def _screen_password(settings: Settings, container: str) -> str | None:
    try:
        async with onlooker(settings) as looking:
            gateway = next((each for each in await looking.find() if each.name == container), None)
            return await looking.screen_password(gateway) if gateway is not None else None
    except GatewayManagerError as error:  # its state is told all the same
        return f"not known: {error}"


def _watch(client: ControlClient, follower: str | None, *, as_json: bool) -> None:
    try:
        if as_json or not sys.stdout.isatty():
            _watch_in_a_pipe(client, follower, as_json=as_json)
        else:
            _watch_on_a_terminal(client, follower)
    except KeyboardInterrupt:
        return


def _watch_on_a_terminal(client: ControlClient, follower: str | None) -> None:
    from rich.live import Live

    with Live(console=tables.console(), auto_refresh=False, screen=False) as live:
        while True:
            gateways = _look(client, follower)
            live.update(tables.gateways(gateways) if follower is None else tables.gateway(gateways[0]), refresh=True)
            time.sleep(_LOOK_EVERY)


def _watch_in_a_pipe(client: ControlClient, follower: str | None, *, as_json: bool) -> None:
    """All that was found first, then what changed: a line for each gateway, or a list of them as JSON."""
    known: dict[str, dict[str, Any]] = {}
    while True:
        changed = [
            each for each in _look(client, follower) if _verdict(each) != _verdict(known.get(each["follower_id"]))
        ]
        if changed and as_json:
            tables.print_json(changed, indent=None)
        for gateway in changed:
            known[gateway["follower_id"]] = gateway
            if not as_json:
                _tell(gateway)
        sys.stdout.flush()
        time.sleep(_LOOK_EVERY)


def _verdict(gateway: dict[str, Any] | None) -> dict[str, Any] | None:
    """What counts as a change: everything but the heartbeat's own numbers."""
    if gateway is None:
        return None
    return {name: value for name, value in gateway.items() if name not in ("last_heartbeat", "round_trip_ms")}
