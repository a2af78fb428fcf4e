"""`${…}` in compose files and in files of variables, as the Compose specification has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from spreadpilot_core.ibkr.service.compose.env_files import read_env_file
from spreadpilot_core.ibkr.service.compose.places import ComposeError
from spreadpilot_core.ibkr.service.compose.variables import Filled, VariableError, fill

KNOWN = {"SET": Filled("x"), "EMPTY": Filled(""), "OTHER": Filled("y"), "DOUBTFUL": Filled("a", ("NONE",))}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("", ""),
        ("$SET", "x"),
        ("${SET}", "x"),
        ("a${SET}b$OTHER-c", "axby-c"),
        ("$$SET", "$SET"),
        ("pa$$$$word", "pa$$word"),
        ("${SET:-d}", "x"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-d}", "d"),
        ("${NONE:-}", ""),
        ("${NONE:-${OTHER}}", "y"),
        ("${NONE:-${ALSO_NONE:-deep}}!", "deep!"),
        ("${SET:+other}", "other"),
        ("${EMPTY:+other}", ""),
        ("${EMPTY+other}", "other"),
        ("${NONE+other}", ""),
        ("${SET:?is needed}", "x"),
        ("${EMPTY?is needed}", ""),
        ("${NONE:-a{b}", "a{b"),
        ("11:59 PM", "11:59 PM"),
    ],
)
def test_a_variable_is_filled_in(text: str, filled: str) -> None:
    """Each form of the specification gives what Compose gives."""
    assert fill(text, KNOWN.get).text == filled


@pytest.mark.parametrize(
    "text",
    ["cost$", "$1", "${", "${SET", "${}", "${1}", "${SET!x}", "${NONE:?}", "${EMPTY:?e}", "${A:-" * 40 + "}" * 40],
)
def test_what_compose_refuses_is_refused_without_the_text(text: str) -> None:
    """A dollar sign that begins no variable is nobody's default, and the sentence quotes nothing."""
    with pytest.raises(VariableError) as refused:
        fill(f"hunter2{text}", KNOWN.get)
    assert "hunter2" not in str(refused.value)


def test_a_variable_that_nobody_sets_is_named() -> None:
    """Compose warns and puts nothing there; who reads a password wants to know."""
    assert fill("a$NONE$SET${ALSO}", KNOWN.get).unset == ("NONE", "ALSO")
    assert fill("${NONE:-}${NONE-x}", KNOWN.get).unset == ()
    assert fill("${DOUBTFUL:-x}", KNOWN.get) == Filled("a", ("NONE",))


def test_a_file_of_variables_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    """Quotes, comments, `export`, variables of above and of the shell; each with its line."""
    path = tmp_path / ".env"
    path.write_text(
        "\ufeff# a comment\n\n"
        "A=plain # and a comment\n"
        "B='it stays $SET # so'\n"
        'C="in $SET \\$5 \\"quotes\\""\n'
        "export D=${A}-${SET}\n"
        "E=pass#word\n"
        "F=\n"
        "SET_BY_SHELL\n"
        "\n"
        "G=pa$$word\n"
        "A=again\n",
        encoding="utf-8",
    )
    found = read_env_file(path, {"SET": Filled("x"), "SET_BY_SHELL": Filled("s")}.get)
    assert {name: line.filled.text for name, line in found.items()} == {
        "A": "again",
        "B": "it stays $SET # so",
        "C": 'in x $5 "quotes"',
        "D": "plain-x",
        "E": "pass#word",
        "F": "",
        "SET_BY_SHELL": "s",
        "G": "pa$word",
    }
    assert {name: line.place.line for name, line in found.items()} == {
        "A": 12, "B": 4, "C": 5, "D": 6, "E": 7, "F": 8, "SET_BY_SHELL": 9, "G": 11,
    }  # fmt: skip


def test_a_raw_file_of_variables_is_taken_as_it_is(tmp_path: Path) -> None:
    """`format: raw` knows no quotes and no variables."""
    path = tmp_path / "raw.env"
    path.write_text("A='q$X' #c\n# comment\nB=1=2\n")
    assert {name: line.filled.text for name, line in read_env_file(path, KNOWN.get, is_raw=True).items()} == {
        "A": "'q$X' #c",
        "B": "1=2",
    }


@pytest.mark.parametrize("line", ["A: 'hunter2", "A='hunter2", "A=hunter2$", "A='hunter2' x"])
def test_a_broken_line_is_named_by_its_number_alone(tmp_path: Path, line: str) -> None:
    """It may be the one with the password."""
    path = tmp_path / ".env"
    path.write_text(f"\nOK=1\n{line}\n")
    with pytest.raises(ComposeError) as refused:
        read_env_file(path, KNOWN.get)
    assert f"{path}:3: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
