"""Every metric: its name, kind, unit, attributes and meaning. `docs/metrics.md` is written from it.

Attributes are bounded: a follower, a state, a reason code, a kind of request; never a container, an id or a sentence. No unit
is "1": a Prometheus that takes OTLP appends `_ratio` to such a name, and rules and dashboard go by the names of the scrape.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Kind(str, Enum):
    """How a figure behaves."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    SUM = "observed counter"
    """A counter that is read when somebody collects."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    @property
    def prometheus(self) -> str:
        """What Prometheus calls it."""
        plain = self.name.replace(".", "_")
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        suffix = "" if plain.endswith(unit) else unit
        return f"{plain}{suffix}{'_total' if self.kind in (Kind.COUNTER, Kind.SUM) else ''}"


_FAST = (0.005, 0.025, 0.1, 0.5, 2.0, 10.0)
_SLOW = (0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)
"""Seconds; the upper ends of the buckets of API requests."""

_METRICS = (
    # gateways
    Metric(
        "gateway_manager.gateways",
        Kind.GAUGE,
        "{gateway}",
        ("status", "state"),
        "Gateways by status and state; a record that can't be used counts as `invalid`.",
    ),
    Metric(
        "gateway_manager.gateway.state",
        Kind.GAUGE,
        "{gateway}",
        ("follower", "status", "state", "reason_code"),
        "1 for the state that the gateway is in, with its reason code.",
    ),
    Metric(
        "gateway_manager.gateway.state.changes",
        Kind.COUNTER,
        "{change}",
        ("state", "reason_code"),
        "Changes into a state, by reason code.",
    ),
    Metric(
        "gateway_manager.gateway.state.age",
        Kind.GAUGE,
        "s",
        ("follower",),
        "How long the gateway has been in its state.",
    ),
    Metric(
        "gateway_manager.gateway.session.age",
        Kind.GAUGE,
        "s",
        ("follower",),
        "Age of the session that is logged in: since the gateway's program began, or, where an adopted one had been restarted "
        "before, since it was adopted. Over 25 h the daily restart was missed.",
    ),
    Metric(
        "gateway_manager.gateway.secret.waiting",
        Kind.GAUGE,
        "{gateway}",
        ("follower",),
        "1 while a newer version of the follower's secret waits for a restart.",
    ),
    Metric(
        "gateway_manager.gateway.exchange.open",
        Kind.GAUGE,
        "{gateway}",
        ("follower",),
        "1 while the follower's `exchange` is open; always without one.",
    ),
    Metric(
        "gateway_manager.gateway.reset_hours",
        Kind.GAUGE,
        "{gateway}",
        ("follower",),
        "1 while IBKR resets the servers that the gateway logs in to.",
    ),
    # actions
    Metric(
        "gateway_manager.action.duration",
        Kind.HISTOGRAM,
        "s",
        ("action", "result"),
        "How long actions take, by kind and result.",
        _SLOW,
    ),
    Metric(
        "gateway_manager.launches",
        Kind.COUNTER,
        "{launch}",
        ("follower", "cause", "result"),
        "Launches, by why: what ended the gateway before, or made the last try fail; `NONE` where one is simply wanted.",
    ),
    Metric(
        "gateway_manager.restarts",
        Kind.COUNTER,
        "{restart}",
        ("follower", "cause"),
        "Restarts: the program's own (`SCHEDULED_RESTART`), and new containers, by why the one before was given up.",
    ),
    Metric(
        "gateway_manager.reconnects",
        Kind.COUNTER,
        "{reconnect}",
        ("follower", "cause"),
        "New connections to a gateway that still runs, by why the one before was lost.",
    ),
    Metric(
        "gateway_manager.removals",
        Kind.COUNTER,
        "{removal}",
        ("follower", "cause", "result"),
        "Containers removed, by why.",
    ),
    Metric(
        "gateway_manager.connect.duration",
        Kind.HISTOGRAM,
        "s",
        ("result",),
        "One try to connect a client, by result.",
        _FAST,
    ),
    Metric(
        "gateway_manager.heartbeat.duration", Kind.HISTOGRAM, "s", ("follower",), "Round trip of a heartbeat.", _FAST
    ),
    Metric(
        "gateway_manager.heartbeats.missed", Kind.COUNTER, "{heartbeat}", ("follower",), "Heartbeats without an answer."
    ),
    # logins
    Metric(
        "gateway_manager.logins",
        Kind.COUNTER,
        "{login}",
        ("follower", "outcome"),
        "Logins by outcome, as the ledger counts them.",
    ),
    Metric(
        "gateway_manager.login.budget.left",
        Kind.GAUGE,
        "{login}",
        ("follower",),
        "Failed logins that `login_budget` still allows the follower's user within 24 h.",
    ),
    Metric(
        "gateway_manager.login.limit.left",
        Kind.GAUGE,
        "{login}",
        ("follower",),
        "Logins that `full_login_limit` still allows within 24 h; none where there is no limit.",
    ),
    Metric("gateway_manager.login.budget.size", Kind.GAUGE, "{login}", (), "The setting `login_budget`."),
    Metric(
        "gateway_manager.login.limit.size",
        Kind.GAUGE,
        "{login}",
        (),
        "The setting `full_login_limit`; none where there is no limit.",
    ),
    Metric(
        "gateway_manager.phone.approvals",
        Kind.COUNTER,
        "{approval}",
        ("follower", "result"),
        "Phone approvals `asked`, `answered` and `missed`.",
    ),
    Metric(
        "gateway_manager.phone.approval.duration",
        Kind.HISTOGRAM,
        "s",
        ("result",),
        "How long an approval took, or was waited for.",
        (5.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0),
    ),
    # containers
    Metric(
        "gateway_manager.container.healthy",
        Kind.GAUGE,
        "{container}",
        ("follower",),
        "1 when the container's own health check is content, 0 when not; none without a check.",
    ),
    Metric(
        "gateway_manager.container.memory.usage",
        Kind.GAUGE,
        "By",
        ("follower",),
        "Memory of the container, by the runtime's figures.",
    ),
    Metric(
        "gateway_manager.container.cpu.time",
        Kind.SUM,
        "s",
        ("follower",),
        "Processor time of the container, by the runtime's figures.",
    ),
    Metric(
        "gateway_manager.container.exits",
        Kind.COUNTER,
        "{exit}",
        ("follower", "exit_code"),
        "Containers that ended although nobody asked, by exit code (`gone` where none is known).",
    ),
    # time
    Metric(
        "gateway_manager.availability.time",
        Kind.SUM,
        "s",
        ("follower", "verdict", "reason_code", "reset_hours", "exchange_open"),
        "Seconds `ready`, `degraded` and `down` of wanted gateways, by cause, inside and outside IBKR's reset hours and the exchange's hours.",
    ),
    # the manager
    Metric(
        "gateway_manager.leases.used",
        Kind.GAUGE,
        "{lease}",
        ("kind",),
        "Host ports and API client ids in use, those leased to other programs apart (`shared_client_id`).",
    ),
    Metric("gateway_manager.leases.size", Kind.GAUGE, "{lease}", ("kind",), "How many there are."),
    Metric(
        "gateway_manager.dependency.duration",
        Kind.HISTOGRAM,
        "s",
        ("dependency", "operation", "error_type"),
        "What a call of the record store, the follower store, the runtime or the credentials took; `vault` is a request of the courier to Vault.",
        _FAST,
    ),
    Metric(
        "gateway_manager.event_loop.lag",
        Kind.HISTOGRAM,
        "s",
        (),
        "How late the event loop comes to what is due, measured once a second.",
        (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0),
    ),
    Metric(
        "gateway_manager.ready",
        Kind.GAUGE,
        "{manager}",
        (),
        "1 while `/readyz` says 200: the manager does its work, or stands by for the one that does.",
    ),
    Metric("gateway_manager.leader", Kind.GAUGE, "{manager}", (), "1 while this manager acts, 0 while it stands by."),
    Metric(
        "gateway_manager.audit.broken",
        Kind.GAUGE,
        "{trail}",
        (),
        "1 once lines of the audit trail were found gone or altered.",
    ),
    Metric(
        "gateway_manager.audit.waiting",
        Kind.GAUGE,
        "{line}",
        (),
        "Lines of the audit trail that are not on the disk yet; they wait while it can't be written.",
    ),
    Metric(
        "gateway_manager.notices", Kind.GAUGE, "{notice}", (), "Notices that stand, of what concerns the whole manager."
    ),
    # the IB API
    Metric(
        "gateway_manager.api.requests",
        Kind.SUM,
        "{request}",
        ("follower", "request", "outcome", "error_code"),
        "Requests that ended: `ok`, `error` with IBKR's code, `cancelled`, `disconnected`, or `sent` where none is answered.",
    ),
    Metric(
        "gateway_manager.api.request.time",
        Kind.SUM,
        "s",
        ("follower", "request"),
        "Seconds from a request to its end (for orders and subscriptions: to the first answer), added up.",
    ),
    Metric(
        "gateway_manager.api.request.buckets",
        Kind.SUM,
        "{request}",
        ("request", "le"),
        "The same requests by duration, cumulative, for `histogram_quantile`.",
    ),
    Metric(
        "gateway_manager.api.messages",
        Kind.SUM,
        "{message}",
        ("follower", "direction"),
        "Messages `sent` and `received` by the client.",
    ),
    Metric(
        "gateway_manager.api.messages.limit",
        Kind.GAUGE,
        "{message}",
        (),
        "Messages a second that IBKR takes from one client.",
    ),
    Metric(
        "gateway_manager.api.queue.length",
        Kind.GAUGE,
        "{request}",
        ("follower",),
        "Requests that the library holds back now, so as not to exceed that limit.",
    ),
    Metric(
        "gateway_manager.api.throttles",
        Kind.SUM,
        "{throttle}",
        ("follower",),
        "How often the library began to hold requests back.",
    ),
    Metric(
        "gateway_manager.api.subscriptions", Kind.GAUGE, "{subscription}", ("follower",), "Subscriptions that are open."
    ),
)

METRICS = MappingProxyType({each.name.removeprefix("gateway_manager."): each for each in _METRICS})
