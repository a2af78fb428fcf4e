"""What a gateway can say stands in the troubleshooting page: the sentences are taken from the code, so the page can't fall behind."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from spreadpilot_core.ibkr.errors import RecordsLostError
from spreadpilot_core.ibkr.model.gateways import Login
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.reporting.announcer import written_user_sentence

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/spreadpilot_core/ibkr"
SPOKEN_BY = ("deciding", "supervision", "controller_log/login_cures.py")
"""Where sentences about a gateway are made."""
GAP = "\0"
SHORTEST = 12
"""Characters of a part of a sentence between two values; a shorter one tells nothing."""
PAGE = re.sub(r"\s+", " ", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))


def sentences(path: Path) -> Iterator[str]:
    """The texts of a module that read as a sentence, with a gap for each value; no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts: set[ast.AST] = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
    for node in ast.walk(tree):
        text = "" if node in parts else re.sub(r"\{\w+\}", GAP, _text(node)).strip()
        if re.match(rf"[A-Z`{GAP}]", text) and text.endswith(".") and " " in text:
            yield text


def _text(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) if isinstance(value, ast.Constant) else GAP for value in values)
        case _:
            return ""


def modules() -> Iterator[Path]:
    for name in SPOKEN_BY:
        path = PACKAGE / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def test_every_sentence_is_explained() -> None:
    """Each part of each sentence is on the page, word for word."""
    parts = {(path.name, part.strip()) for path in modules() for text in sentences(path) for part in text.split(GAP)}
    assert sorted(each for each in parts if len(each[1]) >= SHORTEST and each[1] not in PAGE) == []


def test_what_is_said_elsewhere_is_explained() -> None:
    """Records that are lost, user names in another form."""
    lost = str(RecordsLostError()).partition(" Put ")[0]
    written = written_user_sentence(Login("anna", "1", "stored", None, "ticket", written_user="Anna"))
    assert lost in PAGE
    assert [part for part in re.split("'[Aa]nna'", written) if part.strip(" .") not in PAGE] == []


def test_sentences_are_found_where_they_are_made() -> None:
    """The test above would prove nothing if it looked in the wrong places."""
    found = {sentence for path in modules() for sentence in sentences(path)}
    assert len(found) > 100
    assert "IBKR resets its servers now, and drops logins without an answer." in found
    assert f"Next login at {GAP} UTC." in found


def test_every_reason_code_has_its_cure() -> None:
    """A program that branches on a code finds what to tell its user."""
    table = PAGE.partition("### By reason code")[2]
    assert [code.value for code in ReasonCode if f"`{code.value}`" not in table] == []
