from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spreadpilot_core.ibkr import errors, gateway_manager
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.reset_windows import DAILY
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from support.command import Command
from support.documents import PAGES, ROOT, Page
from support.home import Home
from support.other_clients import clients_python

__all__ = ["clients_python"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_can_be_followed_from_top_to_bottom(path: Path) -> None:
    """A reader in one shell and a fresh home sees what the page shows, and nothing runs on afterwards."""
    page = Page(path)
    try:
        page.follow()
    finally:
        page.close()


def test_the_programs_for_scripts_run_with_ib_insync(clients_python: Path) -> None:
    """What the page says of ib_async holds for ib_insync: script, calls without `async`, a thread."""
    page = Page(ROOT / "docs/scripts.md", python=clients_python, replaced=("from ib_async", "from ib_insync"))
    try:
        page.follow()
    finally:
        page.close()


def test_no_page_shows_marks_of_a_tool() -> None:
    """Pages are read on GitHub too, which includes no files."""
    assert [path.name for path in PAGES if "--8<--" in path.read_text()] == []


def test_no_page_waits_for_ever() -> None:
    """A reader whose gateway does not come up gets the shell back: a loop that waits has an end."""
    loops = [line for path in PAGES for line in path.read_text().splitlines() if re.match(r"\$ (until|while)\b", line)]
    assert loops == []


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
    """Whatever `status` can show is in the table of states, of fields or of reason codes; beside them stand the regions."""
    shown = {each.value for each in (*State, *ReasonCode)} | set(GatewaySnapshot.model_fields)
    assert _first_column("states.md") == shown | {"region", *DAILY}


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


def test_every_test_that_shows_security_is_there() -> None:
    """The page says which test shows what; none of them is gone or renamed."""
    named = set(re.findall(r"`(\w+/test_\w+\.py)`", (ROOT / "docs" / "security.md").read_text()))
    assert len(named) > 20
    assert [each for each in sorted(named) if not (ROOT / "tests" / each).is_file()] == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_newcomer_is_sent_to_is_there(page: str) -> None:
    """What was moved or renamed is named by its new name."""
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(named) > 20
    places = (ROOT / "src/spreadpilot_core/ibkr", ROOT)
    beside = (ROOT / "src/spreadpilot_core/ibkr/supervision/actions", ROOT / "tests/contract")
    assert [each for each in sorted(named) if not any((place / each).exists() for place in (*places, *beside))] == [
        *(["followers.py", "reader.py", "records.py", "runtime.py"] if page == "CONTRIBUTING.md" else [])
    ]


def test_the_map_of_the_package_names_every_part() -> None:
    """A newcomer reads it first: no package or module of the root is missing, and none that is gone is named."""
    package = ROOT / "src/spreadpilot_core/ibkr"
    parts = {f"{each.name}/" for each in package.iterdir() if (each / "__init__.py").exists()}
    parts |= {each.name for each in package.glob("*.py")} - {"__init__.py"}
    below = {f"{each.name}/" for each in package.glob("*/*") if (each / "__init__.py").exists()}
    named = set(re.findall(r"(?<![\w/])(\w+(?:/|\.py))", (package / "__init__.py").read_text().split('"""')[1]))
    named -= {"docs/"}
    assert named - below == parts
