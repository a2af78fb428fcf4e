"""Writes deploy/grafana/gateway-manager.json: four parts of one dashboard, whose queries name metrics of docs/metrics.md."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path("deploy/grafana/gateway-manager.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID, WIDTH, HEIGHT, SMALL = 24, 8, 8, 4
"""Widths of Grafana's grid and of a panel in it, height of a panel, and both of a single figure."""

M = "gateway_manager"
RATE = "[$__rate_interval]"
CONDITION = re.compile(r"(\w+)(=~|!~|!=|=)(.*)")


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. Each query has a legend; a table, or a single figure, has one query."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    about: str = ""
    stacked: bool = False
    colours: tuple[tuple[str, float | None], ...] = ()
    """Colour -> from which value on; of a single figure."""


def of(metric: str, *conditions: str) -> str:
    """One metric of the chosen job, where these hold, such as "state!~ready|stopped"."""
    matched = [CONDITION.fullmatch(each) for each in ("job=$job", *conditions)]
    return f"{M}_{metric}{{{','.join(f'{each[1]}{each[2]}{chr(34)}{each[3]}{chr(34)}' for each in matched if each)}}}"


def rate(metric: str, *conditions: str) -> str:
    """How fast a counter grows."""
    return f"rate({of(metric, *conditions)}{RATE})"


def count(by: str, metric: str, *conditions: str) -> str:
    """How often since the manager began, by one label: what happens rarely has no series before its first time, and no growth then."""
    return f"sum by ({by}) ({of(metric, *conditions)})"


def growth(by: str, metric: str, *conditions: str) -> str:
    """By how much it grew, by one label."""
    return f"sum by ({by}) (increase({of(metric, *conditions)}{RATE}))"


def quantile(q: float, metric: str, by: str, *conditions: str) -> str:
    """Within what time so many of them were done."""
    return f"histogram_quantile({q}, sum by (le, {by}) ({rate(metric, *conditions)}))"


ONE = "follower=$follower"
AT_WORK = "state!~stopped|disabled"
NOT_IN_RESET = "reset_hours=false"
GOOD_AT_ZERO = (("green", None), ("red", 1.0))
BAD_AT_ZERO = (("red", None), ("green", 1.0))
AVAILABLE = "availability_time_seconds_total"
LAG = "event_loop_lag_seconds_bucket"
DEPENDENCY = "dependency_duration_seconds"
BY_DEPENDENCY = "sum by (dependency, operation, error_type)"


def quantile_of_all(q: float, metric: str, by: str, *conditions: str) -> str:
    """The same of all since the manager began, where they are few."""
    return f"histogram_quantile({q}, sum by (le, {by}) ({of(metric, *conditions)}))"


def now(metric: str, *conditions: str) -> str:
    """The one figure of one gateway."""
    return f"max({of(metric, ONE, *conditions)})"


FLEET_OVERVIEW = (
    Panel("Manager", {"ready": f"min({of('ready')})"}, "short", "stat", "1: `/readyz` says 200.", colours=BAD_AT_ZERO),
    Panel("Ready", {"ready": f"sum({of('gateways', 'state=ready')})"}, kind="stat"),
    Panel("Wanted", {"wanted": f"sum({of('gateways', AT_WORK)})"}, kind="stat"),
    Panel(
        "Wait for a human",
        {"gateways": f"sum({of('gateways', 'state=~needs_human|invalid')})"},
        kind="stat",
        colours=GOOD_AT_ZERO,
    ),
    Panel("Notices", {"notices": f"sum({of('notices')})"}, kind="stat", colours=GOOD_AT_ZERO),
    Panel("Audit trail broken", {"broken": f"max({of('audit_broken')})"}, kind="stat", colours=GOOD_AT_ZERO),
    Panel(
        "Not ready: since how many seconds, and why",
        {
            "": f"{of('gateway_state', 'state!~ready|stopped|disabled')}"
            f" * on (job, instance, follower) group_left () {of('gateway_state_age_seconds')}"
        },
        "s",
        "table",
    ),
    Panel("Gateways by state", {"{{state}}": f"sum by (state) ({of('gateways')}) > 0"}, stacked=True),
    Panel(
        "Available, outside of IBKR's reset hours",
        {
            "{{follower}}": f"sum by (follower) (increase({of(AVAILABLE, 'verdict=ready', NOT_IN_RESET)}[$__range]))"
            f" / sum by (follower) (increase({of(AVAILABLE, NOT_IN_RESET)}[$__range]))"
        },
        "percentunit",
        "bargauge",
        "Of the time that is shown, as far as a manager watched.",
    ),
    Panel(
        "Gateways not ready, by why",
        {"{{reason_code}}": f"sum by (reason_code) ({rate(AVAILABLE, 'verdict!=ready')})"},
        stacked=True,
    ),
    Panel(
        "Changes of state, by why, since the manager began",
        {"{{reason_code}}": count("reason_code", "gateway_state_changes_total", "reason_code!=NONE")},
    ),
    Panel(
        "Launches, restarts, reconnects, removals, since then",
        {
            f"{kind}: {{{{cause}}}}": count("cause", f"{kind}_total")
            for kind in ("launches", "restarts", "reconnects", "removals")
        },
    ),
    Panel(
        "Leases in use",
        {"{{kind}}": f"sum by (kind) ({of('leases_used')}) / sum by (kind) ({of('leases_size')})"},
        "percentunit",
    ),
    Panel(
        "Stores, runtime, credentials, Vault: 99 % within",
        {"{{dependency}}": quantile(0.99, f"{DEPENDENCY}_bucket", "dependency")},
        "s",
    ),
    Panel(
        "Stores, runtime, credentials, Vault: errors",
        {
            "{{dependency}} {{operation}}: {{error_type}}": f"{BY_DEPENDENCY}"
            f" ({rate(f'{DEPENDENCY}_count', 'error_type!=')})"
        },
        "reqps",
    ),
    Panel("Lag of the event loop", {"99 %": quantile(0.99, LAG, "job"), "half": quantile(0.5, LAG, "job")}, "s"),
)
HEARTBEAT = "heartbeat_duration_seconds_bucket"
ONE_GATEWAY = (
    Panel("In this state for", {"": now("gateway_state_age_seconds")}, "s", "stat"),
    Panel(
        "Age of the session",
        {"": now("gateway_session_age_seconds")},
        "s",
        "stat",
        colours=(("green", None), ("red", 90000.0)),
    ),
    Panel("New password waits", {"": now("gateway_secret_waiting")}, kind="stat", colours=GOOD_AT_ZERO),
    Panel("State", {"{{state}} {{reason_code}}": of("gateway_state", ONE)}, kind="state-timeline"),
    Panel(
        "Hours",
        {"exchange open": now("gateway_exchange_open"), "IBKR resets": now("gateway_reset_hours")},
        kind="state-timeline",
    ),
    Panel(
        "Ready, degraded, down",
        {"{{verdict}}": f"sum by (verdict) ({rate(AVAILABLE, ONE)})"},
        "percentunit",
        stacked=True,
    ),
    Panel(
        "Heartbeat",
        {"99 %": quantile(0.99, HEARTBEAT, "follower", ONE), "half": quantile(0.5, HEARTBEAT, "follower", ONE)},
        "s",
    ),
    Panel("Heartbeats missed", {"missed": growth("follower", "heartbeats_missed_total", ONE)}),
    Panel(
        "Connecting: 90 % within, all gateways",
        {"{{result}}": quantile(0.9, "connect_duration_seconds_bucket", "result")},
        "s",
    ),
    Panel(
        "Restarts and reconnects, since the manager began",
        {f"{kind}: {{{{cause}}}}": count("cause", f"{kind}_total", ONE) for kind in ("restarts", "reconnects")},
    ),
    Panel("Container ended by itself, since then", {"{{exit_code}}": count("exit_code", "container_exits_total", ONE)}),
    Panel("Container's health", {"healthy": now("container_healthy")}),
    Panel("Container's memory", {"memory": now("container_memory_usage_bytes")}, "bytes"),
    Panel("Container's processor time", {"cores": f"sum({rate('container_cpu_time_seconds_total', ONE)})"}),
)
LOGINS_AND_PHONES = (
    Panel("Logins by outcome", {"{{outcome}}": growth("outcome", "logins_total")}),
    Panel(
        "Failed logins that are left",
        {"{{follower}}": of("login_budget_left"), "login_budget": f"max({of('login_budget_size')})"},
    ),
    Panel(
        "Logins of the day that are left",
        {"{{follower}}": of("login_limit_left"), "full_login_limit": f"max({of('login_limit_size')})"},
    ),
    Panel("Phones that wait now", {"{{follower}}": of("gateway_state", "state=awaiting_2fa")}),
    Panel("Approvals", {"{{result}}": growth("result", "phone_approvals_total")}),
    Panel(
        "Approvals: 90 % within, since the manager began",
        {"{{result}}": quantile_of_all(0.9, "phone_approval_duration_seconds_bucket", "result")},
        "s",
    ),
    Panel(
        "Launching: 90 % within, since then",
        {"{{result}}": quantile_of_all(0.9, "action_duration_seconds_bucket", "result", "action=launch")},
        "s",
    ),
)
ANSWERED = "outcome!=sent"
IB_API = (
    Panel("Requests", {"{{request}}": f"sum by (request) ({rate('api_requests_total')})"}, "reqps"),
    Panel(
        "Requests that failed",
        {
            "{{request}} {{outcome}} {{error_code}}": "sum by (request, outcome, error_code)"
            f" ({rate('api_requests_total', 'outcome!~ok|sent')})"
        },
        "reqps",
    ),
    Panel("Requests: 99 % within", {"{{request}}": quantile(0.99, "api_request_buckets_total", "request")}, "s"),
    Panel(
        "One gateway's requests: on average",
        {
            "{{request}}": f"sum by (request) ({rate('api_request_time_seconds_total', ONE)})"
            f" / sum by (request) ({rate('api_requests_total', ONE, ANSWERED)})"
        },
        "s",
    ),
    Panel(
        "Messages a second",
        {
            "{{follower}} {{direction}}": f"sum by (follower, direction) ({rate('api_messages_total')})",
            "IBKR takes": f"max({of('api_messages_limit')})",
        },
    ),
    Panel("Requests held back", {"{{follower}}": of("api_queue_length")}),
    Panel("Began to hold back", {"{{follower}}": growth("follower", "api_throttles_total")}),
    Panel("Subscriptions", {"{{follower}}": of("api_subscriptions")}),
)
PARTS = {
    "Fleet overview": FLEET_OVERVIEW,
    "One gateway": ONE_GATEWAY,
    "Logins and phones": LOGINS_AND_PHONES,
    "IB API": IB_API,
}


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    return {
        "uid": "gateway-manager",
        "title": "Gateway Manager",
        "tags": ["gateway-manager"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                _variable("job", f"label_values({M}_ready, job)"),
                _variable("follower", f'label_values({M}_gateway_state{{job="$job"}}, follower)'),
            ]
        },
        "panels": list(_panels()),
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in PARTS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, y, GRID, 1),
        }
        x, y, row = 0, y + 1, 0
        for each in panels:
            number += 1
            width, height = (SMALL, SMALL) if each.kind == "stat" else (WIDTH, HEIGHT)
            if x + width > GRID or (row and height != row):
                x, y = 0, y + row
            yield _panel(each, number, _place(x, y, width, height))
            x, row = x + width, height
        y += row


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_now = panel.kind in ("stat", "table", "bargauge")
    targets = [
        {
            "refId": chr(ord("A") + place_of),
            "datasource": DATASOURCE,
            "expr": query,
            "legendFormat": legend or "__auto",
            **({"instant": True, "range": False} if is_now else {}),
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for place_of, (legend, query) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.stacked:
        defaults["custom"] = {"fillOpacity": 30, "stacking": {"mode": "normal"}}
    if panel.colours:
        steps = [{"color": colour, "value": value} for colour, value in panel.colours]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        **({"description": panel.about} if panel.about else {}),
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
    }


def main() -> int:
    """Write the file, or with --check tell whether it is as it would be written."""
    after = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv:
        before = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
        if before != after:
            print(f"{FILE} is not what it would be: run python tools/write_dashboard.py")
        return int(before != after)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
