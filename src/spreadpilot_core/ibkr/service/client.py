"""The commands' side of the control socket: one call, one answer, every failure one sentence."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from spreadpilot_core.ibkr.audit.trail import actor
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.address import reachable
from spreadpilot_core.ibkr.remote import transport
from spreadpilot_core.ibkr.state_dir import holder_of
from spreadpilot_core.ibkr.system.peers import ROOT, must_be_trusted

_ANSWER_WITHIN = 10.0
"""Seconds for an answer that waits for nothing; commands that wait for a gateway have no limit of their own."""


_AS_LONG_AS_IT_TAKES = 86_400
"""Seconds that one request waits; it is asked again then."""


class NoManagerError(GatewayManagerError):
    """Nobody serves in this state directory."""

    def __init__(self, state_dir: Path) -> None:
        holder = holder_of(state_dir)
        self.is_held = holder is not None
        """Whether a manager owns the directory all the same."""
        if holder is None:
            hint = (
                "`gateway-manager run` starts one (a service: `systemctl start gateway-manager`); GATEWAY_MANAGER_STATE_DIR"
                " names another directory."
            )
            super().__init__(f"No manager is running on {state_dir}.", hint=hint)
            return
        who = f"The manager of {state_dir} (process {holder.pid or 'unknown'})"
        if holder.serves:
            super().__init__(f"{who} is starting or ending.", hint="Try again soon.")
        else:
            hint = "Use that program's own calls, or leave control_socket as it is by default."
            super().__init__(f"{who} runs inside a program that has set control_socket to false.", hint=hint)


class SilentManagerError(GatewayManagerError):
    """It runs and gives no answer."""

    def __init__(self, state_dir: Path, why: str) -> None:
        super().__init__(f"The manager of {state_dir} does not answer: {why}.")


class RefusedByManagerError(GatewayManagerError):
    """The manager's own refusal, in its own words."""


class ControlClient:
    """Speaks to the manager of one state directory; use it in a `with`."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._http: transport.Client | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            address = self._knock(held)
            self._http = held.enter_context(
                transport.Client(
                    transport=transport.HTTPTransport(uds=address),
                    base_url="http://manager/v1",
                    timeout=_ANSWER_WITHIN,
                    limits=transport.Limits(max_connections=None, max_keepalive_connections=1),
                    headers={"Operator": quote(actor("gateway-manager"))},
                )
            )
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _knock(self, held: ExitStack) -> str:
        try:
            address = held.enter_context(reachable(self._state_dir))
            with socket.socket(socket.AF_UNIX) as knock:  # httpx would leave a refused socket open
                knock.connect(address)
                # root may speak to the manager of the directory's owner
                must_be_trusted(knock, *([self._state_dir.stat().st_uid] if os.geteuid() == ROOT else []))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoManagerError(self._state_dir) from None
        except OSError as error:
            raise SilentManagerError(self._state_dir, error.strerror or str(error)) from None
        return address

    # ------------------------------------------------------------------ calls

    def gateways(self) -> list[dict[str, Any]]:
        """Every snapshot."""
        answer = self._ask("GET", "/gateways")
        assert isinstance(answer, list)
        return answer

    def gateway(self, follower_id: str) -> dict[str, Any]:
        """One snapshot."""
        return self._one("GET", _path(follower_id))

    def manager(self) -> dict[str, Any]:
        """Who serves there."""
        return self._one("GET", "/manager")

    def act(self, follower_id: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`launch`, `stop`, `restart` or `reconnect`; returns when it is done, however long that takes."""
        return self._one("POST", f"{_path(follower_id)}/{what}", body, waits=True)

    def missing_followers(self) -> list[str]:
        """Whose records are gone while they have gateways."""
        answer = self._ask("GET", "/followers/missing")
        assert isinstance(answer, list)
        return answer

    def confirm_removals(self, follower_ids: list[str]) -> list[str]:
        """Let these go; returns who is."""
        answer = self._ask("POST", "/followers/confirm-removals", {"follower_ids": follower_ids})
        assert isinstance(answer, list)
        return answer

    def clients(self) -> list[dict[str, Any]]:
        """Who holds which client id."""
        answer = self._ask("GET", "/clients")
        assert isinstance(answer, list)
        return answer

    def availability(self, month: str) -> list[dict[str, Any]]:
        """How long each gateway was ready in this month."""
        answer = self._ask("GET", f"/availability?month={quote(month)}")
        assert isinstance(answer, list)
        return answer

    def detach(self) -> dict[str, Any]:
        """End the manager, leave the gateways; returns who that was and what it left, once it has ended."""
        answer = self._one("POST", "/manager/detach", waits=True)
        pid = int(answer["pid"])
        deadline = time.monotonic() + 30
        while (holder := holder_of(self._state_dir)) is not None and holder.pid == pid:
            if time.monotonic() > deadline:
                raise SilentManagerError(
                    self._state_dir, f"process {pid} was asked to detach and has not ended in 30 s"
                )
            time.sleep(0.05)
        return answer

    def events(self, *, after: int | None = None) -> Iterator[dict[str, Any]]:
        """Everything that happens from now on, or after the event with this id, until the manager ends."""
        assert self._http is not None
        headers = {"Last-Event-ID": str(after)} if after is not None else {}
        limit = transport.Timeout(_ANSWER_WITHIN, read=None)
        try:
            with self._http.stream("GET", "/events", headers=headers, timeout=limit) as response:
                for line in response.iter_lines():
                    yield json.loads(line)
        except transport.TransportError as error:
            raise self._fault(error) from None

    # ------------------------------------------------------------------

    def _one(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, waits: bool = False
    ) -> dict[str, Any]:
        answer = self._ask(method, path, body, waits=waits)
        assert isinstance(answer, dict)
        return answer

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, waits: bool = False) -> Any:
        """The answer; of what takes long its end, however long that takes."""
        response, answer = self._request(f"{path}?wait={_AS_LONG_AS_IT_TAKES}" if waits else path, method, body, waits)
        while waits and "operation" in answer:  # it took longer still
            path = response.headers["location"].removeprefix("/v1")
            response, answer = self._request(f"{path}?wait={_AS_LONG_AS_IT_TAKES}", "GET", None, waits)
        if response.is_success:
            return answer
        if (leader := self._leader_here(answer)) is not None:
            with suppress(NoManagerError), ControlClient(leader) as client:  # it has ended: what was refused stays so
                return client._ask(method, path, body, waits=waits)
        raise RefusedByManagerError(answer["sentence"], hint=answer["hint"])

    def _request(
        self, path: str, method: str, body: Mapping[str, Any] | None, waits: bool
    ) -> tuple[transport.Response, Any]:
        assert self._http is not None
        limit = transport.Timeout(_ANSWER_WITHIN, read=None if waits else _ANSWER_WITHIN)
        try:
            response = self._http.request(method, path, json=body, timeout=limit)
            return response, response.json()
        except transport.TransportError as error:
            raise self._fault(error) from None
        except ValueError:
            raise SilentManagerError(self._state_dir, "its answer makes no sense") from None

    def _leader_here(self, refusal: Mapping[str, Any]) -> Path | None:
        """The state directory of the manager that acts, where this one stands by and that one is on this host."""
        leader = refusal.get("leader") or {}
        if leader.get("host") != socket.gethostname() or not leader.get("socket"):
            return None
        directory = Path(leader["socket"]).parent
        return directory if directory != self._state_dir.absolute() else None

    def _fault(self, error: transport.TransportError) -> GatewayManagerError:
        match error:
            case transport.ConnectError():
                return NoManagerError(self._state_dir)
            case transport.TimeoutException():
                return SilentManagerError(self._state_dir, f"no answer within {_ANSWER_WITHIN:g} s")
            case _:
                return SilentManagerError(self._state_dir, "it ended during the call")


def _path(follower_id: str) -> str:
    return f"/gateways/{quote(follower_id, safe='').replace('.', '%2E')}"
