"""The commands that speak to a running manager: what they ask, and the sentence or table they print."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service import tables
from spreadpilot_core.ibkr.service.asking import confirm_live
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.local_time import in_local_time, local_time
from spreadpilot_core.ibkr.system.printable import one_line

_POLL_EVERY = 0.5
"""Seconds between two looks of `--watch`."""
_AT_ONCE = 32
"""Followers that a command acts on at once; the manager decides in which order they log in."""
_NOT_WANTED = ("disabled", "invalid")


def status(follower: str | None, *, watch: bool, as_json: bool) -> None:
    """Print all gateways, or one in detail; with `watch` every change of them until Ctrl-C. Without a manager, what runs unwatched."""
    settings = Settings.read()
    try:
        with ControlClient(settings.state_dir) as client:
            _status(client, follower, watch=watch, as_json=as_json)
    except NoManagerError as error:
        from spreadpilot_core.ibkr.service.unwatched import unwatched

        raise asyncio.run(unwatched(settings, error)) or error from None


def _status(client: ControlClient, follower: str | None, *, watch: bool, as_json: bool) -> None:
    if watch:
        _watch(client, follower, as_json=as_json)
        return
    _show(_fetch(client, follower), detailed=follower is not None, as_json=as_json)
    if not as_json and follower is None:
        _show_manager(client.manager())


def launch(followers: Sequence[str] | None, words: dict[str, Any]) -> None:
    """Start them (None: all that are wanted), with what is said beside it, and say how far each is."""
    with _client() as client:
        if followers is None:
            followers = [each["follower_id"] for each in client.gateways() if each["state"] not in _NOT_WANTED]
        _each(client, followers, "launch", words)


def stop(followers: Sequence[str] | None, *, yes: bool) -> None:
    """Stop them (None: all that are not stopped), and say that each is gone."""
    with _client() as client:
        known = client.gateways()
        if followers is None:
            followers = [each["follower_id"] for each in known if each["status"] != "STOPPED"]
        confirm_live("Stop, and log out", _live(known, followers), yes=yes)
        _each(client, followers, "stop")


def restart(followers: Sequence[str] | None, *, yes: bool) -> None:
    """Start them anew (None: all that have a gateway), and say how far each is."""
    with _client() as client:
        known = client.gateways()
        if followers is None:
            followers = [each["follower_id"] for each in known if each["container"]]
        confirm_live("Log out and in again", _live(known, followers), yes=yes)
        _each(client, followers, "restart")


def _live(known: Sequence[dict[str, Any]], followers: Sequence[str]) -> list[str]:
    """Who of these trades live, and has something to lose."""
    asked = set(followers)
    return [
        each["follower_id"]
        for each in known
        if each["follower_id"] in asked and each["trading_mode"] == "live" and each["status"] != "STOPPED"
    ]


def _each(client: ControlClient, followers: Sequence[str], what: str, body: dict[str, Any] | None = None) -> None:
    """Act on all at once, and tell of each as it ends; one that fails keeps none of the others from its own end."""
    if not followers:
        print(f"There is no gateway to {what}.")
        return
    if len(followers) == 1:
        _tell(client.act(followers[0], what, body))
        return
    failed = 0
    for answer in _answers(client, followers, what, body):
        if isinstance(answer, GatewayManagerError):
            failed += 1
            print(one_line(in_local_time(str(answer))), file=sys.stderr, flush=True)
        elif isinstance(answer, dict):
            _tell(answer)
        else:
            raise answer
    if failed:
        raise GatewayManagerError(f"{failed} of {len(followers)} could not be done.")


def _answers(
    client: ControlClient, followers: Sequence[str], what: str, body: dict[str, Any] | None
) -> Iterator[dict[str, Any] | Exception]:
    """Each as it comes. The threads are daemons: Ctrl-C waits for no answer."""
    todo: SimpleQueue[str] = SimpleQueue()
    answers: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()
    for follower in followers:
        todo.put(follower)

    def work() -> None:
        with suppress(Empty):
            while True:
                follower = todo.get_nowait()
                try:
                    answers.put(client.act(follower, what, body))
                except Exception as error:  # noqa: BLE001  # told by whoever waits
                    answers.put(error)

    for _ in range(min(len(followers), _AT_ONCE)):
        Thread(target=work, daemon=True).start()
    for _ in followers:
        yield answers.get()


def reconnect(follower: str) -> None:
    """Replace its client; one that does not come back is a failure."""
    with _client() as client:
        answer = client.act(follower, "reconnect")
    if not answer["reconnected"]:
        gateway = answer["gateway"]
        raise GatewayManagerError(f"{follower} is not connected: it is {gateway['state']}.", hint=tables.what(gateway))
    _tell(answer["gateway"])


def detach(*, yes: bool) -> None:
    """End the manager, leave the gateways."""
    with _client() as client:
        there = [each for each in client.gateways() if each["container"]]
        live = [each["follower_id"] for each in there if each["trading_mode"] == "live"]
        confirm_live("Leave them unwatched", live, yes=yes)
        left_alone = client.manager()["left_alone"]
        answer = client.detach()
    ended = f"The manager (process {answer['pid']}) has ended"
    if not there:
        print(f"{ended}; it had no gateway.")
    else:
        theirs, them = ("its gateway keeps", "it") if len(there) == 1 else ("its gateways keep", "them")
        print(f"{ended}; {theirs} running, and nobody watches {them}.")
        takes = f"`gateway-manager run` takes {them} over (a service: `systemctl start gateway-manager`)"
        print(f"{takes}; `gateway-manager stop --offline --all` ends {them}.")
    for sentence in (*left_alone, *answer["left"]):
        print(one_line(in_local_time(sentence)))


def _client() -> ControlClient:
    return ControlClient(Settings.read().state_dir)


def _tell(gateway: dict[str, Any]) -> None:
    print(_summary(gateway))


def _summary(gateway: dict[str, Any]) -> str:
    """How it stands, and why."""
    mode = " LIVE," if gateway["trading_mode"] == "live" else ""
    return (
        f"{gateway['follower_id']} is{mode} {gateway['status']} ({gateway['state']}). {tables.what(gateway)}".rstrip()
    )


def _fetch(client: ControlClient, follower: str | None) -> list[dict[str, Any]]:
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


def _show_manager(manager: dict[str, Any]) -> None:
    """Who manages, and what beside its gateways is on the engine."""
    adopted = f", and adopted {', '.join(manager['adopted'])}" if manager["adopted"] else ""
    if adopted or manager["left_alone"]:  # beside another one it matters who is who
        print(f"The manager has the identity {manager['identity'] or '(not known yet)'}{adopted}.")
    if not manager["leader"] and (leader := manager["leader_address"]) is not None:
        where = leader["url"] or leader["socket"] or f"process {leader['pid']}"
        print(one_line(f"It stands by; the leader is on {leader['host']} ({where})."))
    for sentence in (*manager["left_alone"], *manager["notices"]):
        print(one_line(in_local_time(sentence)))


def _with_screen_password(gateway: dict[str, Any]) -> dict[str, Any]:
    """The gateway as it is shown to who asked for this one: where its screen is, then its password, read for this moment."""
    if not gateway["vnc"]:
        return gateway
    from spreadpilot_core.ibkr.telemetry import set_up_logs

    set_up_logs(level="error")
    password = asyncio.run(_screen_password(Settings.read(), gateway["container"]))
    shown: dict[str, Any] = {}
    for name, value in gateway.items():
        shown[name] = value
        if name == "vnc":
            shown["vnc_password"] = password
    return shown


async def _screen_password(settings: Settings, container: str) -> str | None:
    from spreadpilot_core.ibkr.runtimes.registry import reader

    try:
        async with reader(settings) as runtime_reader:
            gateway = next((each for each in await runtime_reader.list() if each.name == container), None)
            return await runtime_reader.screen_password(gateway) if gateway is not None else None
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
    """Until Ctrl-C, or the manager's end; what was seen last stays on the terminal."""
    from spreadpilot_core.ibkr.service.screen import Picture, live

    console = tables.console()
    gateways = _fetch(client, follower)
    shown = _shown(gateways, follower)
    try:
        with live(console, Picture(shown)) as screen:
            while True:
                short = _shown(tables.needy_first(gateways), follower)
                screen.update(Picture(shown, bottom=_until_ctrl_c(), short_top=short), refresh=True)
                time.sleep(_POLL_EVERY)
                gateways = _fetch(client, follower)
                shown = _shown(gateways, follower)
    finally:
        console.print(shown)


def _shown(gateways: Sequence[Mapping[str, Any]], follower: str | None) -> RenderableType:
    return tables.gateways(gateways) if follower is None else tables.gateway(gateways[0])


def _until_ctrl_c() -> Text:
    return Text(f"\n{local_time(datetime.now(UTC))}  Ctrl-C ends.", style="bright_black")


def _watch_in_a_pipe(client: ControlClient, follower: str | None, *, as_json: bool) -> None:
    """All that was found first, then what changed: a line for each gateway, or a list of them as JSON."""
    known: dict[str, dict[str, Any]] = {}
    while True:
        changed = [
            each for each in _fetch(client, follower) if _verdict(each) != _verdict(known.get(each["follower_id"]))
        ]
        if changed and as_json:
            tables.print_json(changed, indent=None)
        for gateway in changed:
            known[gateway["follower_id"]] = gateway
            if not as_json:
                print(f"{local_time(datetime.now(UTC))}  {_summary(gateway)}")
        sys.stdout.flush()
        time.sleep(_POLL_EVERY)


def _verdict(gateway: dict[str, Any] | None) -> dict[str, Any] | None:
    """What counts as a change: everything but the heartbeat's own numbers."""
    if gateway is None:
        return None
    return {name: value for name, value in gateway.items() if name not in ("last_heartbeat", "round_trip_ms")}
