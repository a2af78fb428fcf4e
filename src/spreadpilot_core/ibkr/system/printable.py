"""What comes from outside (records, accounts, container logs, answers of engines and of Vault) as a terminal may have it.

A control character could move the cursor, rename the window or write to the clipboard; one of Unicode's that turns the direction of
writing, or can't be seen, makes a text look like another. Each is shown by its code as JSON writes it, so JSON stays JSON. The
program's streams escape whatever is printed (`escape_streams`); only what colours a terminal by itself, and escapes its texts by
itself, writes beside them (`unescaped`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast


def printable(text: str, *, keep: str = "") -> str:
    """The text with each character escaped that can't be seen, but for those to `keep`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else json.dumps(each)[1:-1] for each in text)


def one_line(text: str) -> str:
    """The text as one printable line: what is blank, new lines too, becomes a space."""
    return printable(" ".join(text.split()))


def escape_streams() -> None:
    """From now on what this program prints is printable, line by line."""
    sys.stdout = cast("TextIO", _Escaping(unescaped(sys.stdout)))
    sys.stderr = cast("TextIO", _Escaping(unescaped(sys.stderr)))


def unescaped(stream: TextIO) -> TextIO:
    """The stream itself, for who colours a terminal and lets no text through but `printable` ones."""
    return stream.stream if isinstance(stream, _Escaping) else stream


class _Escaping:
    """A text stream that passes on printable text alone."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(printable(text, keep="\n\t"))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
