"""What every test gets: an environment without this machine's settings, and a loop on which nothing of ours may block."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import cache

import hypothesis
import pytest
from blockbuster import BlockBuster

_DOCUMENTED_NAMES = {
    "gateway_image",
    "port_range_start",
    "port_range_end",
    "client_id_range_start",
    "client_id_range_end",
    "container_prefix",
    "healthcheck_interval",
    "max_startup_time",
    "vault_enabled",
    "kubeconfig",
}
_PREFIXES = ("gateway_manager_", "vault_", "mongo_")
_FOR_TESTS = "gateway_manager_test_"
"""What a user tells the tests themselves, such as GATEWAY_MANAGER_TEST_MONGO_URI, stays."""
_STYLE = {"force_color", "no_color", "columns", "py_colors"}


def _isolate_environment() -> None:
    """Before anything is imported, so that children inherit it too."""
    for name in list(os.environ):
        plain = name.lower()
        if plain in _DOCUMENTED_NAMES | _STYLE or (plain.startswith(_PREFIXES) and not plain.startswith(_FOR_TESTS)):
            del os.environ[name]
    if "DOCKER_HOST" in os.environ:
        os.environ["GATEWAY_MANAGER_TEST_DOCKER_HOST"] = os.environ.pop("DOCKER_HOST")
    # Else every process that a test starts would compile all of it anew, and every worker rewrite every test.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="gateway-manager-tests-")


_isolate_environment()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever runs the tests in the background ignores Ctrl-C for all children too, and some of them must obey it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "local")


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a test on an event loop, a blocking call below a frame of our package raises `blockbuster.BlockingError`.

    The simulator is left out: it lives in a process of its own, and only tests bring it onto the manager's loop.
    """
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    _detector().activate()
    try:
        yield
    finally:
        _detector().deactivate()


@cache
def _detector() -> BlockBuster:
    detector = BlockBuster("spreadpilot_core.ibkr", excluded_modules=["spreadpilot_core.ibkr.simulator"])
    for name in ("os.path.abspath", "os.getcwd"):  # they ask the kernel for a name it has at hand, and read no disk
        del detector.functions[name]
    for function in detector.functions.values():  # a logged traceback shows its source lines
        function.can_block_in("linecache.py", {"updatecache"})
        function.can_block_in("structlog/dev.py", {"__call__"})
        function.can_block_in("coverage/collector.py", {"lock_data"})  # the measuring's own lock, in no program of ours
        function.can_block_in("pymongo/pool_options.py", {"get_container_env_info"})  # one look at a file's status
    return detector
