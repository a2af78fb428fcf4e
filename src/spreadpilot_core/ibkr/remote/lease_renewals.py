"""Renews client ids in a thread of its own: no event loop that stands still, and no script that computes for minutes, loses one."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from spreadpilot_core.ibkr.errors import ClientLeaseLostError, GatewayManagerError
from spreadpilot_core.ibkr.model.client_leases import RENEW_SECONDS, LeasedClient
from spreadpilot_core.ibkr.remote.transport import Line, Route

AGAIN_AFTER = 2.0
"""Seconds after which a renewal that failed is tried again."""
FAREWELL = 2.0
"""Seconds that the end of a program gives to one lease; one that is not given back expires."""

OnRenewed = Callable[["LeasedClient | ClientLeaseLostError"], None]


@dataclass(slots=True)
class _Renewed:
    path: str
    on_renewed: OnRenewed
    every: float
    due: float = field(default=0.0)


class LeaseRenewals:
    """The leases of one program. Everything here may be called from any thread."""

    def __init__(self, route: Route) -> None:
        self._line = Line(route)
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._renewed: dict[str, _Renewed] = {}
        self._thread: threading.Thread | None = None
        self._ended = False
        self._farewell = _at_exit(self)

    def keep(self, leased: LeasedClient, on_renewed: OnRenewed, *, every: float = RENEW_SECONDS) -> None:
        """Renew this lease from now on, at least `every` so many seconds.

        `on_renewed` hears of each renewal, in another thread, and of the lease's loss.
        """
        every = min(leased.renew_every, every)
        with self._changed:
            path = lease_path(leased.follower_id, leased.lease)
            self._renewed[leased.lease] = _Renewed(path, on_renewed, every, time.monotonic() + every)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._run, name="client id renewals", daemon=True)
                self._thread.start()
            self._changed.notify()

    def hurry(self) -> None:
        """Something may have changed: renew all now."""
        with self._changed:
            for each in self._renewed.values():
                each.due = 0.0
            self._changed.notify()

    def let_go(self, lease: str) -> None:
        """Renew it no more: it expires."""
        with self._changed:
            self._renewed.pop(lease, None)

    def close(self, *, within: float = FAREWELL) -> None:
        """Give every lease back, and end; blocks for that long for each."""
        with self._changed:
            leases, self._renewed = list(self._renewed.values()), {}
            self._ended = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(within)
        with self._asking:
            with contextlib.suppress(GatewayManagerError):  # it expires by itself
                for each in leases:
                    self._line.ask("DELETE", each.path, within=within)
            self._line.close()
        atexit.unregister(self._farewell)

    def _run(self) -> None:
        while (due := self._next()) is not None:
            lease, each = due
            try:
                with self._asking:
                    answer: LeasedClient | ClientLeaseLostError = LeasedClient.model_validate(
                        self._line.ask("PUT", each.path)
                    )
                each.due = time.monotonic() + each.every
            except ClientLeaseLostError as lost:
                self.let_go(lease)
                answer = lost
            except (GatewayManagerError, ValueError):  # it is away, or is no manager: until it is back nothing is known
                each.due = time.monotonic() + AGAIN_AFTER
                continue
            each.on_renewed(answer)

    def _next(self) -> tuple[str, _Renewed] | None:
        """The lease whose turn it is, once it is; None at the end."""
        with self._changed:
            while not self._ended:
                lease, first = min(self._renewed.items(), key=lambda each: each[1].due, default=("", None))
                wait = first.due - time.monotonic() if first is not None else None
                if first is not None and wait is not None and wait <= 0:
                    return lease, first
                self._changed.wait(wait)
            return None


def lease_path(follower_id: str, lease: str) -> str:
    """Where a lease is renewed and given back."""
    return f"{clients_path(follower_id)}/{quote(lease, safe='')}"


def clients_path(follower_id: str) -> str:
    """Where client ids of this follower's gateway are leased."""
    return f"{gateway_path(follower_id)}/clients"


def gateway_path(follower_id: str) -> str:
    """Where a gateway is."""
    return f"/gateways/{quote(follower_id, safe='').replace('.', '%2E')}"


def _at_exit(renewals: LeaseRenewals) -> Callable[[], None]:
    """A script that just ends gives its leases back all the same."""
    known = weakref.ref(renewals)

    def farewell() -> None:
        if (there := known()) is not None:
            there.close()

    atexit.register(farewell)
    return farewell
