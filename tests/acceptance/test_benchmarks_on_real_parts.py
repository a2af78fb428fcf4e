"""The benchmarks that need a part of the outside world run to their end too."""

from __future__ import annotations

import shutil

import pytest

from support.benchmark_runs import expect_figures
from support.browser import INSTALL, must_have_browser_code
from support.kubernetes_cluster import may_build
from support.real_parts import need


@pytest.mark.real_part("docker")
def test_the_benchmark_on_docker_tells_figures() -> None:
    """On an engine of its own."""
    expect_figures("docker_fleet")


@pytest.mark.real_part("kubernetes")
@may_build
@pytest.mark.parametrize("name", ["kubernetes_fleet", "kubernetes_sizes"])
def test_the_benchmarks_on_kubernetes_tell_figures(name: str) -> None:
    """On the tests' own cluster, with nodes of its own and simulated ones."""
    expect_figures(name)


@pytest.mark.real_part("vault")
def test_the_benchmark_on_vault_tells_figures() -> None:
    """On a server of its own."""
    expect_figures("vault_reads")


@pytest.mark.real_part("mongodb")
def test_the_benchmark_on_mongodb_tells_figures() -> None:
    """On a server of its own, and on a scripted one."""
    expect_figures("edit_to_launch")


@pytest.mark.real_part("chromium")
def test_the_benchmark_of_open_pages_tells_figures() -> None:
    """In a browser."""
    if shutil.which("chromium") is None:
        need("Chromium", INSTALL)
    must_have_browser_code()
    expect_figures("open_pages")
