"""A real Prometheus on a free loopback port, with promtool beside it: Debian's package, or whatever is on the PATH."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from support.ports import free_ports
from support.real_parts import need
from support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "gateway-manager.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "gateway-manager.json"
INSTALL = "apt-get install --no-install-recommends prometheus"
NAME = re.compile(r"\bgateway_manager_\w+")
"""A metric in a query."""


def program(name: str = "prometheus") -> str:
    """Where it is; where it is not, the test is skipped, and fails in CI."""
    return shutil.which(name) or need(name.capitalize(), INSTALL)


def promtool(*arguments: str | Path) -> str:
    """What it says; an error fails the test."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    """The alert rules as they are shipped."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def shortened(waits: Mapping[str, str], replaced: Mapping[str, str]) -> str:
    """The same rules, with how long each alert waits, and texts in their expressions, made short for a test."""
    file = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in file["groups"] for rule in group["rules"]):
        rule["for"] = waits[rule["alert"]]
        for long, short in replaced.items():
            rule["expr"] = rule["expr"].replace(long, short)
    return yaml.safe_dump(file)


def samples_of(metric_names: set[str]) -> set[str]:
    """The metrics without what a histogram appends to their names."""
    return {re.sub(r"_(bucket|sum|count)$", "", each) for each in metric_names}


class Prometheus:
    """One server that looks every second."""

    def __init__(self, directory: Path, targets: list[int]) -> None:
        """`directory` is its own; `targets` are ports on loopback."""
        self._directory = directory
        self.port = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        addresses = [f"127.0.0.1:{port}" for port in targets]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(directory / "rules.yml")],
            "scrape_configs": [{"job_name": "gateway-manager", "static_configs": [{"targets": addresses}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        command = [
            program(),
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--query.lookback-delta=10s",
        ]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return self._http.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def load(self, text: str) -> None:
        """From now on these are its rules, whether it runs already or not."""
        (self._directory / "rules.yml").write_text(text)
        if self._process is None:
            return
        before = self._reloaded()
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._reloaded() > before)

    def _reloaded(self) -> float:
        metric = "prometheus_config_last_reload_success_timestamp_seconds"
        text = self._http.get("/metrics").text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{metric} "))

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of one answer of its API; an error of the query fails the test."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What a query gives now."""
        found = self.ask("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def course(self, query: str, begin: float, end: float) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """What it gives, second by second."""
        found = self.ask("query_range", query=query, start=begin, end=end, step=1)["result"]
        return [(each["metric"], [(at, float(value)) for at, value in each["values"]]) for each in found]

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: name, and follower where it is about one."""
        alerts = self.ask("alerts")["alerts"]
        named = [each["labels"] for each in alerts if each["state"] == "firing"]
        return {(each["alertname"], each.get("follower", "")) for each in named}

    def texts(self) -> list[dict[str, str]]:
        """The annotations of all alerts, whether they fire or wait."""
        return [each["annotations"] for each in self.ask("alerts")["alerts"]]

    def metrics(self) -> set[str]:
        """The names of all that it has ever scraped."""
        return set(self.ask("label/__name__/values"))
