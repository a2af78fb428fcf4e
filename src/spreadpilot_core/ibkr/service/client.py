"""The commands' side of the control socket: one call, one answer, every failure one sentence."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from spreadpilot_core.ibkr.audit import actor
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service.control_address import reachable
from spreadpilot_core.ibkr.state_dir import HOLDER

_ANSWER_WITHIN = 10.0
"""Seconds for an answer that waits for nothing; commands that wait for a gateway have no limit of their own."""


class NoManagerError(GatewayManagerError):
    """Nobody serves in this state directory."""

    def __init__(self, state_dir: Path) -> None:
        if (pid := _holder(state_dir)) is not None:
            super().__init__(
                f"The manager of {state_dir} (process {pid}) is starting or ending.", hint="Try again soon."
            )
        else:
            super().__init__(f"No manager is running on {state_dir}.", hint="`gateway-manager run` starts one.")


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
        self._http: httpx.Client | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            address = self._knock(held)
            self._http = held.enter_context(
                httpx.Client(
                    transport=httpx.HTTPTransport(uds=address),
                    base_url="http://manager",
                    timeout=_ANSWER_WITHIN,
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

    def act(self, follower_id: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`launch`, `stop`, `restart` or `reconnect`; returns when it is done, however long that takes."""
        return self._one("POST", f"{_path(follower_id)}/{what}", body, waits=True)

    def detach(self) -> int:
        """End the manager, leave the gateways; returns its process id once it has ended."""
        pid = int(self._one("POST", "/manager/detach")["pid"])
        deadline = time.monotonic() + 30
        while _holder(self._state_dir) == pid:
            if time.monotonic() > deadline:
                raise SilentManagerError(
                    self._state_dir, f"process {pid} was asked to detach and has not ended in 30 s"
                )
            time.sleep(0.05)
        return pid

    def events(self) -> Iterator[dict[str, Any]]:
        """Everything that happens from now on, until the manager ends."""
        assert self._http is not None
        try:
            with self._http.stream("GET", "/events", timeout=httpx.Timeout(_ANSWER_WITHIN, read=None)) as response:
                for line in response.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise self._fault(error) from None

    # ------------------------------------------------------------------

    def _one(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, waits: bool = False
    ) -> dict[str, Any]:
        answer = self._ask(method, path, body, waits=waits)
        assert isinstance(answer, dict)
        return answer

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, waits: bool = False) -> Any:
        assert self._http is not None
        limit = httpx.Timeout(_ANSWER_WITHIN, read=None if waits else _ANSWER_WITHIN)
        try:
            response = self._http.request(method, path, json=body, timeout=limit)
            answer = response.json()
        except httpx.TransportError as error:
            raise self._fault(error) from None
        except ValueError:
            raise SilentManagerError(self._state_dir, "its answer makes no sense") from None
        if response.is_success:
            return answer
        raise RefusedByManagerError(answer["sentence"], hint=answer["hint"])

    def _fault(self, error: httpx.TransportError) -> GatewayManagerError:
        match error:
            case httpx.ConnectError():
                return NoManagerError(self._state_dir)
            case httpx.TimeoutException():
                return SilentManagerError(self._state_dir, f"no answer within {_ANSWER_WITHIN:g} s")
            case _:
                return SilentManagerError(self._state_dir, "it ended during the call")


def _path(follower_id: str) -> str:
    return f"/gateways/{quote(follower_id, safe='').replace('.', '%2E')}"


def _holder(state_dir: Path) -> int | None:
    """The living process that owns the directory, as far as its owner's note says."""
    try:
        pid = int((state_dir / HOLDER).read_text().removeprefix("process ").strip())
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return None
    return pid
