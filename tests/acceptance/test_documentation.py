from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr import errors, events, gateway_manager
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.snapshots import GatewaySnapshot
from support.command import Command
from support.documents import PAGES, ROOT, Page
from support.home import Home


@pytest.fixture
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    page = Page(request.param)
    for name, value in page.environment.items():
        monkeypatch.setenv(name, value)
    yield page
    asyncio.run(page.home.end())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name, indirect=True)
def test_every_block_that_can_run_runs(page: Page) -> None:
    """What a reader copies from the documentation works, and prints what the page says."""
    examples = list(page.examples())
    for example in examples:
        example.evaluate()


def test_the_program_of_the_readme_is_the_documented_one() -> None:
    """The promise of ten lines stands in the README word for word."""
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert program is not None
    assert program[1].splitlines() == [
        "from spreadpilot_core.ibkr.gateway_manager import GatewayManager",
        "",
        "gateway_manager = GatewayManager()",
        "await gateway_manager.start()",
        'ib_client = await gateway_manager.get_client("follower_123")    # a connected IB, or None',
        'is_healthy = gateway_manager.is_healthy("follower_123")         # True / False, no waiting',
        'await gateway_manager.launch_gateway("follower_456")',
        'await gateway_manager.stop_gateway("follower_123")',
        'await gateway_manager.reconnect("follower_456")                 # True / False',
        "await gateway_manager.stop()                                    # graceful: disconnect, stop, clean up",
    ]


def _first_column(page: str) -> set[str]:
    """What stands in backquotes at the beginning of the page's table rows, the status column skipped."""
    rows = re.findall(r"^\| (?:[A-Z]+ \| )?((?:`[^`]+`(?:, )?)+) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_state_and_field_is_explained() -> None:
    """Whatever `status` can show is in the table of states or of fields, and nothing else is."""
    assert _first_column("states.md") == {state.value for state in State} | set(GatewaySnapshot.model_fields)


def test_every_error_is_explained() -> None:
    """Each error class is on the page, and the importable ones are importable."""
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert _first_column("errors.md") == classes - {"GatewayManagerError"}
    promised = re.findall(r"`(\w+Error)`", (ROOT / "docs/errors.md").read_text().partition("The rest")[0])
    assert [name for name in promised if not hasattr(gateway_manager, name)] == ["KeyError"]


def test_every_event_is_explained_with_its_fields() -> None:
    """Each event is on the page with every field of its own."""
    text = (ROOT / "docs/events.md").read_text()
    kinds = {name: kind for name, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, events.Event)}
    assert _first_column("events.md") == set(kinds) - {"Event"}
    for name, kind in kinds.items():
        row = re.search(rf"^\| `{name}` .*$", text, re.MULTILINE)
        for field in set(kind.__dataclass_fields__) - set(events.Event.__dataclass_fields__):
            assert row is not None
            assert f"`{field}`" in row[0]


def test_the_table_of_settings_is_what_the_settings_say() -> None:
    """Names, defaults and meanings on the page come from the class."""
    done = subprocess.run(
        [sys.executable, "tools/write_settings.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_command_is_explained() -> None:
    """What `--help` names is on the page of commands."""
    home = Home()
    command = Command(home)
    text = (ROOT / "docs/commands.md").read_text()
    names = re.findall(r"^  (\w+)  ", command("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(names) > 9
    for name in names:
        below = re.findall(r"^  (\w+)  ", command(name, "--help").stdout.partition("Commands:")[2], re.MULTILINE)
        for full in [f"{name} {each}" for each in below] or [name]:
            assert re.search(
                rf"^\| `{re.sub(' (enable|disable|remove)$', '', full) if name == 'followers' else full}",
                text,
                re.MULTILINE,
            ), full
    asyncio.run(home.end())


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody can find is no documentation."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in Path(ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in navigation
