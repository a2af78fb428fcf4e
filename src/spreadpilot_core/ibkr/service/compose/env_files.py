"""`.env` and `env_file:`: lines of NAME=VALUE, with single quotes, double quotes or none, as Compose reads them.

What is not in single quotes has its variables filled in, from the shell and from the lines above.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream

from spreadpilot_core.ibkr.service.compose.nodes import read_text
from spreadpilot_core.ibkr.service.compose.places import ComposeError, Place, shown_name
from spreadpilot_core.ibkr.service.compose.variables import Filled, Lookup, VariableError, fill

_QUOTE = re.compile(r"[^=]*=[^\S\r\n]*(['\"]?)")


@dataclass(frozen=True, slots=True)
class Line:
    """One variable of a file."""

    filled: Filled
    place: Place


def read_env_file(path: Path, lookup: Lookup, *, is_raw: bool = False) -> Mapping[str, Line]:
    """Every variable of the file by its name; the last line of a name counts.

    Args:
        path: the file.
        lookup: variables that its values may name beside those above them.
        is_raw: a value is everything behind the first equals sign.

    Raises:
        ComposeError: the file can't be read, or a line in it is no NAME=VALUE.
    """
    text = read_text(path)
    if is_raw:
        return dict(_raw_lines(text, str(path)))
    found: dict[str, Line] = {}

    def value_of(name: str) -> Filled | None:
        outer = lookup(name)
        return found[name].filled if outer is None and name in found else outer

    for binding in parse_stream(io.StringIO(text)):
        written = binding.original.string
        blank = len(written) - len(written.lstrip())
        place = Place(str(path), binding.original.line + written.count("\n", 0, blank))
        if binding.error:
            raise ComposeError(place, "this line is no NAME=VALUE")
        if binding.key is None:
            continue
        if binding.value is None:
            if (outer := lookup(binding.key)) is not None:
                found[binding.key] = Line(outer, place)
            continue
        quote = _QUOTE.match(written.lstrip())
        mark = quote[1] if quote else ""
        found[binding.key] = _filled(binding.key, binding.value, mark, place, value_of)
    return found


def _filled(name: str, value: str, quote: str, place: Place, lookup: Lookup) -> Line:
    if quote == "'":
        return Line(Filled(value), place)
    if quote:
        value = value.replace(r"\$", "$$")
    try:
        filled = fill(value, lookup)
    except VariableError as error:
        raise ComposeError(place, f"{shown_name(name)} {error}", hint="Single quotes keep a value as it is.") from None
    return Line(filled, place)


def _raw_lines(text: str, file: str) -> Iterator[tuple[str, Line]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.partition("=")
            if equals:
                yield name.strip(), Line(Filled(value), Place(file, number))
