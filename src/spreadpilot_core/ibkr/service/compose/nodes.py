"""YAML as Compose reads it, with the line of everything in it: scalars stay the text that was written.

Nodes are walked only where something is wanted, and each mapping's merge keys are put together once, so that aliases of
aliases cost nothing. Of a syntax error the line alone is said: the parser's own words may quote a password.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spreadpilot_core.ibkr.service.compose.places import ComposeError, Place, shown_name
from spreadpilot_core.ibkr.system.regular_files import read_regular

LONGEST = 2**20
"""Bytes of a compose file, or of a file of variables."""
_STANDARD = "tag:yaml.org,2002:"
_NULL = f"{_STANDARD}null"
_MERGE = f"{_STANDARD}merge"
_NUMBER = re.compile(
    r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)(e[-+]?[0-9]+)?|[-+]?0[xob][0-9a-f_]+|[-+]?\.inf|\.nan"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?",
    re.IGNORECASE | re.ASCII,
)
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a mapping: where its key stands, and its value."""

    place: Place
    node: Node


_A_COPY = (
    "Copy it, with the `.env` and the secrets beside it, to where that user may read (`install -d -o USER -m 0700` makes such a directory),"
    " import it there, and remove the copy, which holds passwords."
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, as it was written."""

    text: str | None
    """None: nothing is written."""
    place: Place
    is_exact: bool = True
    """False: without quotes, YAML reads a number or a date that is written otherwise."""


def read_text(path: Path) -> str:
    """The text of a compose file or a file of variables.

    Raises:
        ComposeError: there is none, it can't be read, or is no text.
    """
    try:
        return read_regular(path, longest=LONGEST).decode("utf-8-sig")
    except FileNotFoundError:
        raise ComposeError(str(path), "there is no such file") from None
    except PermissionError:
        raise ComposeError(str(path), f"the user {getpass.getuser()} may not read it", hint=_A_COPY) from None
    except OSError as error:
        raise ComposeError(str(path), f"it can't be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ComposeError(str(path), "it is not UTF-8 text") from None
    except ValueError:
        raise ComposeError("The file", "its name can't be one") from None


class YamlFile:
    """One file of YAML, and how to walk it."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises `ComposeError`."""
        self.name = str(path)
        self.directory = path.parent
        self._merged: dict[int, Mapping[str, Entry]] = {}
        self._merging: set[int] = set()
        self.root = self._compose(read_text(path))

    def place(self, node: Node) -> Place:
        """Where it begins."""
        return Place(self.name, node.start_mark.line + 1)

    def mapping(self, node: Node, what: str) -> Mapping[str, Entry]:
        """The entries of a mapping, those of its merge keys included; an empty one where nothing is written."""
        if id(node) in self._merged:
            return self._merged[id(node)]
        if _is_null(node):
            return {}
        if not isinstance(node, MappingNode):
            raise ComposeError(self.place(node), f"{what} must be a mapping")
        if id(node) in self._merging:
            raise ComposeError(self.place(node), f"{what} merges itself")
        self._merging.add(id(node))
        entries = MappingProxyType(self._entries(node, what))
        self._merging.discard(id(node))
        self._merged[id(node)] = entries
        return entries

    def sequence(self, node: Node, what: str) -> Sequence[Node]:
        """The items of a list; none where nothing is written."""
        if _is_null(node):
            return ()
        if not isinstance(node, SequenceNode):
            raise ComposeError(self.place(node), f"{what} must be a list")
        return tuple(node.value)

    def scalar(self, node: Node, what: str) -> Scalar:
        """One value."""
        place = self.place(node)
        if not isinstance(node, ScalarNode):
            raise ComposeError(place, f"{what} must be one value", hint="Put a text with special characters in quotes.")
        if not node.tag.startswith(_STANDARD):
            raise ComposeError(place, f"{what} begins with a YAML tag", hint="Put a text that begins with ! in quotes.")
        if _is_null(node):
            return Scalar(None, place)
        is_plain_number = node.style is None and _NUMBER.fullmatch(node.value) is not None
        return Scalar(node.value, place, not is_plain_number or _PLAIN_NUMBER.fullmatch(node.value) is not None)

    def _entries(self, node: MappingNode, what: str) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise ComposeError(self.place(key), f"a key in {what} is no text")
            if key.tag == _MERGE:
                sources = value.value if isinstance(value, SequenceNode) else [value]
                for each in sources:
                    for name, entry in self.mapping(each, what).items():
                        merged.setdefault(name, entry)
            elif key.value in own:
                raise ComposeError(self.place(key), f"{shown_name(key.value)} is in {what} twice")
            else:
                own[key.value] = Entry(self.place(key), value)
        return merged | own

    def _compose(self, text: str) -> Node:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except RecursionError:
            raise ComposeError(self.name, "it is nested too deeply") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = Place(self.name, mark.line + 1) if mark is not None else self.name
            raise ComposeError(
                where, "it can't be understood as YAML", hint="Put a text with special characters in quotes."
            ) from None
        except (yaml.YAMLError, ValueError, OverflowError):
            raise ComposeError(self.name, "it can't be understood as YAML") from None
        if root is None:
            raise ComposeError(self.name, "it is empty")
        return root


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == _NULL
