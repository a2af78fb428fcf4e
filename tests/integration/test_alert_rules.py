"""The alert rules, the dashboard and the Collector's configuration in deploy/, as Prometheus, promtool and the Collector see them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State
from support.prometheus import DASHBOARD, DEPLOY, NAME, RULES, promtool, rules, samples_of

ROOT = DEPLOY.parent
CASES = ROOT / "tests" / "data" / "alerts.test.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
KNOWN = {each.prometheus for each in METRICS.values()}


def expressions() -> list[str]:
    """Of all rules and panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        *(rule["expr"] for rule in rules()),
        *(each["expr"] for panel in panels for each in panel.get("targets", ())),
    ]


@pytest.mark.real_part("prometheus")
def test_promtool_takes_rules_and_configuration() -> None:
    """As they are shipped."""
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.real_part("prometheus")
def test_each_alert_fires_in_its_case_and_is_silent_in_another() -> None:
    """In made-up time, with the times and limits that are shipped."""
    promtool("test", "rules", CASES)


def test_no_alert_is_without_cases() -> None:
    """One at least in which it fires, and one in which it does not."""
    cases = yaml.safe_load(CASES.read_text())["tests"]
    names = {rule["alert"] for rule in rules()}
    fires = {label for each in cases for label in re.findall(r'alertname="(\w+)"', str(each["promql_expr_test"]))}
    silent = {each["name"].partition(" is silent")[0] for each in cases if " is silent: " in each["name"]}
    assert fires == names
    assert silent == names


def test_each_alert_has_a_part_of_the_runbook_and_a_line_in_its_table() -> None:
    """Which is where its link leads."""
    for rule in rules():
        name, link = rule["alert"], rule["annotations"]["runbook_url"]
        assert link == f"docs/runbook.md#{name.lower()}"
        assert f"\n## {name}\n" in RUNBOOK
        assert f"| [{name}](#{name.lower()}) | {rule['labels']['severity']} |" in RUNBOOK
    assert RUNBOOK.count("\n## ") == len(rules())


def test_rules_and_dashboard_name_metrics_states_and_reasons_that_there_are() -> None:
    """A name that is misspelt would be silent for ever."""
    words = {"state": {each.value for each in State}, "reason_code": {each.value for each in ReasonCode} | {"NONE"}}
    for expression in expressions():
        assert samples_of(set(NAME.findall(expression))) <= KNOWN, expression
        for label, _, values in re.findall(r'\b(state|reason_code)(=~|!~|!=|=)"([^"]+)"', expression):
            assert set(values.split("|")) <= words[label], expression


def test_the_dashboard_is_what_its_tool_writes() -> None:
    """Nobody edits it by hand, and its panels overlap nowhere."""
    check = [sys.executable, ROOT / "tools" / "write_dashboard.py", "--check"]
    assert subprocess.run(check, cwd=ROOT, check=False, capture_output=True).stdout == b""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24  # Grafana's grid


def test_the_page_names_the_files() -> None:
    """Whoever looks for them finds them."""
    page = (ROOT / "docs" / "telemetry.md").read_text()
    for path in (RULES, DASHBOARD, DEPLOY / "prometheus" / "prometheus.yml", DEPLOY / "otel-collector.yaml"):
        assert str(path.relative_to(ROOT)) in page
