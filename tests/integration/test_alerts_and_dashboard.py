"""A running manager as a real Prometheus sees it: quiet, in every trouble that an alert is for, and cured; and a bot's requests.

One fleet goes through all of it, since each start costs seconds; the tests below read what Prometheus has seen. How long
alerts wait is made short, and two limits with it; promtool proves those that are shipped (`test_alert_rules`).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import Begun, Command
from support.home import PASSWORD, Home
from support.ports import free_ports
from support.prometheus import DASHBOARD, NAME, Prometheus, rules, samples_of, shortened
from support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.real_part("prometheus"), pytest.mark.timeout(900)]

WAITS = {rule["alert"]: "2s" for rule in rules()} | {"ManagerDown": "8s", "GatewayDown": "15s", "EventLoopLag": "0s"}
QUIET = {"[5m]": "[60s]", "> 0.05": "> 0.5"}
"""A machine that is busy with other tests is late at times."""
TROUBLE = {"[5m]": "[10s]", "25 * 3600": "8"}
QUIET_SECONDS = 15
"""A quiet hour, shortened as the times are that alerts wait for."""
BOT = Path(__file__).with_name("clients") / "bot_with_six_requests.py"
DOCKERS_ALONE = {each.prometheus for name, each in METRICS.items() if name.startswith("container.")} - {
    METRICS["container.exits"].prometheus
}
"""What the simulated runtime has no figures of; `test_docker_fleet` has them."""


@dataclass
class Course:
    """What was seen of one fleet."""

    prometheus: Prometheus
    fired: set[tuple[str, str]] = field(default_factory=set)
    quiet: tuple[float, float] = (0.0, 0.0)
    cured: tuple[float, float] = (0.0, 0.0)
    begun: float = 0.0
    texts: list[dict[str, str]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def whole(self) -> tuple[float, float]:
        """From the first second to the last."""
        return self.begun, self.cured[1]

    def until(self, *alerts: tuple[str, str], fire: bool = True) -> None:
        """Wait until these fire, or none of them does."""

        def holds() -> bool:
            firing = self.prometheus.firing()
            self.fired |= firing
            self.texts += self.prometheus.texts()
            return set(alerts) <= firing if fire else not set(alerts) & firing

        try:
            wait_until(holds, within=2 * PATIENCE)
        except TimeoutError:
            raise AssertionError((alerts, fire, self.prometheus.firing())) from None

    def until_counted(self, metric: str, **labels: str) -> None:
        """Wait until Prometheus has that."""
        selected = ",".join(f'{name}="{value}"' for name, value in labels.items())
        wait_until(lambda: self.prometheus.query(f"{metric}{{{selected}}} > 0"))


class Fleet:
    """The manager, its followers, and what happens to them."""

    def __init__(self, home: Home, command: Command) -> None:
        self.home = home
        self.command = command

    def is_(self, **states: str) -> bool:
        """Whether these followers are in these states."""
        with ControlClient(self.home.directory) as client:
            found = {each["follower_id"]: each["state"] for each in client.gateways()}
        return states.items() <= found.items()

    def until(self, **states: str) -> None:
        """Wait for them."""
        wait_until(lambda: self.is_(**states))

    def plant(self, fault: str, *follower_ids: str) -> None:
        """Have something happen in these gateways."""

        async def plant() -> None:
            runtime = self.home.runtime()
            await runtime.open()
            for each in follower_ids:
                await runtime.inject(FollowerId(each), fault)
            await runtime.close()

        asyncio.run(plant())

    def say(self, *words: str) -> None:
        """A command that must be obeyed."""
        done = self.command(*words)
        assert done.returncode == 0, done.stderr


def pass_quietly(course: Course, fleet: Fleet) -> None:
    """Nothing but heartbeats and one gateway's daily restart."""
    fleet.until(anna="ready", ben="ready", cleo="ready")
    wait_until(lambda: len(course.prometheus.query("up == 1")) == 2)  # the manager and the bot
    wait_until(lambda: not course.prometheus.firing())
    begun = time.time() + 1  # what fired at the start has been seen to end
    fleet.plant("nightly_restart", "cleo")
    time.sleep(QUIET_SECONDS)
    course.quiet = begun, time.time()


def cut_audit_trail(home: Home) -> None:
    """Somebody takes its last lines off, of which the manager has kept the hash."""
    trail = AuditTrail(home.directory)

    def is_kept() -> bool:
        newest = trail.verify().head
        with closing(sqlite3.connect(home.directory / "records.sqlite3")) as records:
            return newest is not None and records.execute("SELECT hash FROM audit_heads").fetchall() == [(newest.hash,)]

    wait_until(is_kept)
    trail.path.write_bytes(b"".join(trail.path.read_bytes().splitlines(keepends=True)[:-2]))


def get_into_trouble(course: Course, fleet: Fleet, serving: Begun) -> None:
    """Everything that an alert is for and that a running manager can tell."""
    course.prometheus.load(shortened(WAITS, TROUBLE))
    cut_audit_trail(fleet.home)
    fleet.plant("link_lost", "anna", "ben", "cleo")
    asyncio.run(fleet.home.set_password("ben", "an0ther-pass-word"))
    fleet.say("followers", "enable", "dora")
    fleet.say("followers", "enable", "emil")
    text = fleet.home.followers_file.read_text()
    fleet.home.followers_file.write_text(f'{text}\n[[follower]]\nid = "faulty"\n')
    course.until(
        ("IbkrLostFleetWide", ""),
        *(("GatewayDown", each) for each in ("anna", "ben", "cleo")),
        ("SecretNotTaken", "ben"),
        ("PhoneWaiting", "dora"),
        ("GatewayNeedsHuman", "emil"),
        ("LoginBudgetAlmostSpent", "emil"),
        ("FollowerRecordUnusable", ""),
        ("AuditTrailBroken", ""),
        ("SessionTooOld", "cleo"),
    )
    serving.signal(signal.SIGSTOP)
    time.sleep(3)
    serving.signal(signal.SIGCONT)
    course.until(("EventLoopLag", ""))


def be_cured(course: Course, fleet: Fleet) -> None:
    """As the runbook says."""
    text = fleet.home.followers_file.read_text()
    fleet.home.followers_file.write_text(text.replace('[[follower]]\nid = "faulty"\n', ""))
    fleet.plant("link_restored", "anna", "ben", "cleo")
    fleet.plant("approve_second_factor", "dora")
    fleet.until(anna="ready", ben="ready", cleo="ready", dora="ready")
    fleet.say("restart", "ben")
    fleet.say("followers", "remove", "emil")
    fleet.plant("drop_clients", "anna")
    course.until_counted("gateway_manager_reconnects_total", follower="anna")
    fleet.plant("crash", "anna")
    fleet.plant("nightly_restart", "cleo")
    course.until(("SessionTooOld", "cleo"), fire=False)
    fleet.until(anna="ready", ben="ready", cleo="ready")
    still = {"AuditTrailBroken", "SessionTooOld"}
    followers = ("", "anna", "ben", "cleo", "dora", "emil")
    others = [(rule["alert"], each) for rule in rules() for each in followers if rule["alert"] not in still]
    course.until(*others, fire=False)


def lose_the_manager(course: Course, fleet: Fleet, serving: Begun) -> None:
    """It ends, and the next one can't read its followers at first."""
    serving.signal(signal.SIGTERM)
    assert serving.ends() == 0
    course.said += serving.stderr
    course.until(("ManagerDown", ""))
    text = fleet.home.followers_file.read_text()
    fleet.home.followers_file.write_text("this is no TOML")
    with fleet.command.begun("run") as again:
        course.until(("ManagerNotReady", ""))
        course.until(("ManagerDown", ""), ("AuditTrailBroken", ""), fire=False)
        fleet.home.followers_file.write_text(text)
        fleet.until(anna="ready", ben="ready", cleo="ready", dora="ready")
        course.prometheus.load(shortened(WAITS, QUIET))
        wait_until(lambda: not course.prometheus.firing())
        begun = time.time() + 1
        time.sleep(5)
        course.cured = begun, time.time()
        again.signal(signal.SIGTERM)
        assert again.ends() == 0
        course.said += again.stderr


@contextmanager
def bot() -> Iterator[tuple[int, Callable[[], None]]]:
    """A bot: the port of its metrics, and what has it ask."""
    home, port = Home(), free_ports(1)
    asyncio.run(home.add("bot"))
    command = Command(home, metrics_address=port)
    process = subprocess.Popen(
        [sys.executable, BOT], env=command.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("ask\n")
        process.stdin.flush()
        assert process.stdout.readline() == "asked\n"

    try:
        yield port, ask
        process.communicate("", timeout=PATIENCE)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
        asyncio.run(home.end())


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    home = Home()
    asyncio.run(home.add("anna", "ben", "cleo"))
    asyncio.run(home.add("dora", live=True, enabled=False))
    asyncio.run(home.add("emil", enabled=False))
    script = {"dora": {"laps": [{"second_factor": "pending"}]}, "emil": {"laps": [{"wrong_password": True}]}}
    (home.directory / "scripts.json").write_text(json.dumps({"followers": script}))
    port = free_ports(1)
    settings = {"login_budget": 2, "full_login_limit": 12, "removal_delay": 1, "full_comparison_interval": 1}
    command = Command(home, metrics_address=port, on_exit="detach", log_format="json", **settings)
    with ExitStack() as ending:
        ending.callback(lambda: asyncio.run(home.end()))
        bots_port, ask = ending.enter_context(bot())
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), [port, bots_port])
        ask()
        prometheus.load(shortened(WAITS, QUIET))
        serving = ending.enter_context(command.begun("run"))
        serving.says("manager started")
        course = Course(ending.enter_context(prometheus), begun=time.time())
        fleet = Fleet(home, command)
        pass_quietly(course, fleet)
        ask()
        get_into_trouble(course, fleet, serving)
        be_cured(course, fleet)
        lose_the_manager(course, fleet, serving)
        course.secrets = [PASSWORD, "an0ther-pass-word"]
        yield course


def _firing(course: Course, span: tuple[float, float]) -> set[str]:
    found = course.prometheus.course('ALERTS{alertstate="firing"}', *span)
    return {labels["alertname"] for labels, _ in found}


def test_in_quiet_hours_no_alert_fires(course: Course) -> None:
    """Before the trouble, through a daily restart, and after all of it."""
    assert _firing(course, course.quiet) == set()
    assert _firing(course, course.cured) == set()


def test_each_alert_fires_in_its_trouble_and_resolves(course: Course) -> None:
    """On the simulated fleet: every alert that is shipped; none fires any more at the end."""
    assert {name for name, _ in course.fired} == {rule["alert"] for rule in rules()}


def test_alerts_say_what_is_wrong_and_where_to_read_on(course: Course) -> None:
    """With the follower, and the reason that is asked of Prometheus when the text is made."""
    assert all(each["summary"] and each["description"] for each in course.texts)
    assert not [each for each in course.texts if "error" in each["description"] or "<no value>" in str(each)]
    described = {each["description"] for each in course.texts}
    assert "It is degraded, for the reason IBKR_LINK_LOST." in described
    assert "The reason is PASSWORD_REJECTED." in described


def test_every_metric_that_rules_and_dashboard_name_is_scraped(course: Course) -> None:
    """And each one of the catalogue, but what only containers of an engine have."""
    scraped = samples_of(course.prometheus.metrics())
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [rule["expr"] for rule in rules()] + [each["expr"] for p in panels for each in p.get("targets", ())]
    assert samples_of(set(NAME.findall(str(asked)))) - DOCKERS_ALONE <= scraped
    assert {each.prometheus for each in METRICS.values()} - DOCKERS_ALONE <= scraped


def test_each_panel_has_data(course: Course) -> None:
    """Its queries are asked of Prometheus as Grafana would, for the time that the fleet lived."""
    part, empty = "", []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        part = panel["title"] if panel["type"] == "row" else part
        follower = "bot" if part == "IB API" else "anna"
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$job", "gateway-manager").replace("$follower", follower)
            query = query.replace("$__rate_interval", "10s").replace("$__range", "10s")
            found = course.prometheus.course(query, *course.whole)
            has_data = any(value == value for _, values in found for _, value in values)  # noqa: PLR0124  # NaN is none
            if not has_data and not set(NAME.findall(query)) & DOCKERS_ALONE:
                empty.append((panel["title"], query))
    assert empty == []


def test_of_a_bots_six_kinds_of_request_the_failing_and_the_slow_one_are_told(course: Course) -> None:
    """Which, how often (it asked everything twice), with which of IBKR's codes, and how slow."""
    at = course.cured[1]

    def by(query: str, *labels: str) -> dict[tuple[str, ...], float]:
        found = course.prometheus.course(query, at, at)
        return {tuple(each.get(label, "") for label in labels): values[-1][1] for each, values in found}

    counted = by('gateway_manager_api_requests_total{follower="bot"}', "request", "outcome", "error_code")
    assert counted == {
        ("reqContractDetails", "ok", ""): 2,
        ("reqContractDetails", "error", "200"): 2,
        ("reqPositions", "ok", ""): 4,
        ("reqCurrentTime", "ok", ""): 2,
        ("reqMktData", "ok", ""): 2,
        ("placeOrder", "ok", ""): 2,
        ("reqMatchingSymbols", "ok", ""): 2,
    }
    took = by('gateway_manager_api_request_time_seconds_total{follower="bot"}', "request")
    slowest = max(took, key=lambda each: took[each])
    assert slowest == ("reqMatchingSymbols",)
    assert took[slowest] > 4  # the bot's gateway stood still for 2.5 s, twice
    assert by('gateway_manager_api_subscriptions{follower="bot"}', "follower") == {("bot",): 1}


def test_a_line_of_the_log_that_should_worry_somebody_about_a_gateway_has_its_reason_code(course: Course) -> None:
    """Once for each trouble: by the change of state, not by each event that belongs to it."""
    lines = [json.loads(line) for line in course.said.splitlines()]
    worrying = [each for each in lines if each["follower"] is not None and each["level"] in ("warning", "error")]
    assert {"StateChanged"} <= {each["event"] for each in worrying} <= {"StateChanged", "NoticeGiven"}
    assert [each for each in worrying if each["event"] == "StateChanged" and each["reason_code"] is None] == []
    codes = Counter((each["follower"], each["reason_code"]) for each in worrying if each["event"] == "StateChanged")
    assert codes["anna", "IBKR_LINK_LOST"] == 1
    assert codes["emil", "PASSWORD_REJECTED"] >= 1


def test_neither_metrics_nor_log_hold_a_password(course: Course) -> None:
    """Whatever went wrong with it: every label that was ever scraped, and every line."""
    labels = course.prometheus.ask("labels")
    values = [course.prometheus.ask(f"label/{each}/values") for each in labels]
    everything = str(values) + course.said + str(course.texts)
    assert "emil" in everything
    for secret in course.secrets:
        assert secret not in everything
