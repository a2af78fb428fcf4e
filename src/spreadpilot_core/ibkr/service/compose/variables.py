"""`$NAME`, `${NAME}` and `${NAME:-default}` as Compose fills them in; `$$` is a dollar sign.

    ${NAME:-default}  default when it is unset or empty      ${NAME-default}  when it is unset
    ${NAME:?text}     refuses when it is unset or empty      ${NAME?text}     when it is unset
    ${NAME:+other}    other when it is set and not empty     ${NAME+other}    when it is set

What is refused is said without a word of the text, which may be a password with a dollar sign in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
_DEEPEST = 16
"""Defaults inside of defaults."""
_MOST_GROWTH = 16 * 1024
"""Characters that variables may add to a text: each of 40 lines that names the line above twice would double it."""


class VariableError(ValueError):
    """A text can't be filled in; a clause that says why."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A text with its variables filled in."""

    text: str = field(repr=False)
    unset: tuple[str, ...] = ()
    """Names that nobody sets and that have no default: nothing stands in their place."""
    is_reference: bool = False
    """The whole text was one variable in braces: its name is none of the words of a password."""


Lookup = Callable[[str], Filled | None]
"""What a variable holds; None: nobody sets it."""


def from_shell(name: str) -> Filled | None:
    """A variable of this process."""
    value = os.environ.get(name)
    return Filled(value) if value is not None else None


def fill(text: str, lookup: Lookup) -> Filled:
    """Fill in every variable.

    Raises:
        VariableError: a dollar sign begins no variable, or one that must be set is not.
    """
    unset: list[str] = []
    filled = _filled(text, lookup, unset, _DEEPEST)
    return Filled(filled, tuple(dict.fromkeys(unset)), is_reference=_REFERENCE.fullmatch(text) is not None)


def _filled(text: str, lookup: Lookup, unset: list[str], depth: int) -> str:
    if depth == 0:
        reason = "has defaults inside of defaults, too deep"
        raise VariableError(reason)
    parts: list[str] = []
    at = added = 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        at = dollar + 1
        if text.startswith("$", at):
            parts.append("$")
            at += 1
        elif text.startswith("{", at):
            end = _closing(text, at)
            parts.append(_braced(text[at + 1 : end], lookup, unset, depth))
            at = end + 1
        elif name := _NAME.match(text, at):
            parts.append(_plain(name[0], lookup, unset))
            at = name.end()
        else:
            reason = "holds a dollar sign that begins no variable: Compose wants $$ for a dollar sign"
            raise VariableError(reason)
        added += len(parts[-1])
        if added > _MOST_GROWTH:
            reason = f"has more than {_MOST_GROWTH} characters in place of its variables"
            raise VariableError(reason)
    parts.append(text[at:])
    return "".join(parts)


def _closing(text: str, brace_at: int) -> int:
    """Where the brace that is open at this place ends; those of variables inside count."""
    depth = 0
    for at in range(brace_at, len(text)):
        if text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        elif at == brace_at or (text.startswith("${", at - 1) and text[at] == "{"):
            depth += 1
    reason = "holds ${ without its }: Compose wants $$ for a dollar sign"
    raise VariableError(reason)


def _plain(name: str, lookup: Lookup, unset: list[str]) -> str:
    value = lookup(name)
    if value is None:
        unset.append(name)
        return ""
    unset.extend(value.unset)
    return value.text


def _braced(inside: str, lookup: Lookup, unset: list[str], depth: int) -> str:
    name = _NAME.match(inside)
    if name is None:
        reason = "holds ${ without the name of a variable: Compose wants $$ for a dollar sign"
        raise VariableError(reason)
    rest = inside[name.end() :]
    if not rest:
        return _plain(name[0], lookup, unset)
    value = lookup(name[0])
    counts_empty = rest.startswith(":")
    operator, other = rest[counts_empty : counts_empty + 1], rest[counts_empty + 1 :]
    is_there = value is not None and not (counts_empty and not value.text)
    match operator:
        case "-":
            return _plain(name[0], lookup, unset) if is_there else _filled(other, lookup, unset, depth - 1)
        case "+":
            return _filled(other, lookup, unset, depth - 1) if is_there else ""
        case "?":
            if is_there:
                return _plain(name[0], lookup, unset)
            reason = f"needs {_shown(name[0])}, which is {'empty or ' if counts_empty else ''}not set"
            raise VariableError(reason)
        case _:
            reason = "holds ${…} in a form that Compose does not know: it wants $$ for a dollar sign"
            raise VariableError(reason)


def _shown(name: str) -> str:
    return name if name.isupper() else "a variable"
