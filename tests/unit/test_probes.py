"""What is answered at `metrics_address`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.http_api.probes import probes_app
from spreadpilot_core.ibkr.http_api.server import AddressServer
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.runtimes.docker.usage import usage_in
from spreadpilot_core.ibkr.settings import Settings
from support.home import Home
from support.ports import free_ports


class Exposed:
    """Metrics of a test."""

    def text(self, accepted: str | None = None) -> tuple[bytes, str]:
        """What was asked for."""
        return f"accepted {accepted}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def served(readiness: Readiness) -> AsyncIterator[httpx.AsyncClient]:
    address = f"127.0.0.1:{free_ports(1)}"
    async with (
        AddressServer(probes_app(Exposed(), lambda: readiness), "metrics_address", address),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        yield client


@pytest.mark.parametrize(("status", "code"), [("ready", 200), ("standby", 200), ("not_ready", 503)])
async def test_readyz_says_how_the_manager_stands_and_why(status: str, code: int) -> None:
    """One that stands by is fine; one that can't do its work is taken out of the rotation, not killed."""
    async with served(Readiness(status, "A reason.")) as client:  # type: ignore[arg-type]  # parametrised
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (code, {"status": status, "reason": "A reason."})
        assert (await client.get("/livez")).status_code == 200


async def test_metrics_are_given_as_the_scraper_takes_them() -> None:
    """The content type is the exposition's own, and nothing else is served."""
    async with served(Readiness("ready", "")) as client:
        answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert answer.text == "accepted application/openmetrics-text\n"
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405


async def test_an_address_that_is_taken_stops_the_start_and_names_the_setting() -> None:
    """And a manager that could not start leaves nothing behind."""
    home = Home()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match="metrics_address"):
            await home.manager(metrics_address=f"{port}").start()
    again = home.manager(metrics_address=f"{port}")
    await again.start()
    assert again.readiness().status in ("ready", "not_ready")
    await again.stop()
    assert again.readiness() == Readiness("not_ready", "The manager is not started.")
    await home.end()


async def test_nothing_is_answered_by_a_name_that_is_none_of_ours() -> None:
    """A page of another site can have its own name point to loopback, and would read the followers' names."""
    home = Home()
    port = free_ports(1)
    async with (
        home.manager(metrics_address=f"{port}", http_allowed_hosts=["metrics.example"]),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for path in ("/metrics", "/readyz", "/livez"):
            for host, refused in ((f"evil.example:{port}", True), ("", True), (f"metrics.example:{port}", False)):
                answer = await client.get(path, headers={"Host": host})
                assert (answer.status_code == 421) is refused, (path, host)
            assert (await client.get(path)).status_code in (200, 503)
    await home.end()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("9464", "127.0.0.1:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:80", "[::1]:80"),
        ("metrics:1", "metrics:1"),
    ],
)
def test_an_address_is_loopbacks_unless_it_says_otherwise(given: str, address: str) -> None:
    """A port alone can be reached from this host alone."""
    assert Settings.read(metrics_address=given).metrics_address == address


@pytest.mark.parametrize("given", ["", ":9464", "host:", "host", "127.0.0.1:0", "127.0.0.1:70000", "h:12x"])
def test_what_is_no_address_is_refused_with_what_is_allowed(given: str) -> None:
    """Also one without a host, which elsewhere means all of them."""
    with pytest.raises(SettingsError, match="metrics_address"):
        Settings.read(metrics_address=given)


# ---------------------------------------------------------------------------------------------- containers


def test_what_a_container_uses_is_read_from_the_engines_figures() -> None:
    """Memory without what the kernel can take back, on either version of control groups; processor time in seconds."""
    cpu = {"cpu_usage": {"total_usage": 2_500_000_000}}
    newer = usage_in({"memory_stats": {"usage": 700, "stats": {"inactive_file": 200}}, "cpu_stats": cpu})
    older = usage_in({"memory_stats": {"usage": 700, "stats": {"total_inactive_file": 200}}, "cpu_stats": cpu})
    assert newer == older
    assert newer is not None
    assert (newer.memory, newer.cpu) == (500, 2.5)


@pytest.mark.parametrize(
    "stats", [{}, {"memory_stats": {}, "cpu_stats": {}}, {"memory_stats": None, "cpu_stats": None}]
)
def test_a_container_that_does_not_run_has_no_figures(stats: dict[str, object]) -> None:
    """An engine gives empty ones then."""
    assert usage_in(stats) is None


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path) -> None:
    """Whoever sets an address without it learns what to install."""
    program = (
        "import sys\n"
        "sys.modules['opentelemetry.exporter.prometheus'] = None\n"
        "from spreadpilot_core.ibkr.errors import SettingsError\n"
        "from spreadpilot_core.ibkr.instrumentation.setup import measuring\n"
        "try:\n    measuring('127.0.0.1:9464')\n"
        "except SettingsError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pip install -r requirements/service.txt" in done.stdout
