"""How commands and their arguments are written in usage lines and help: as in every manual, `FOLLOWER`, `[FOLLOWER]...`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import CommandFunctionType

_REQUIRED = re.compile(r"\{(.*)\}")


class Commands(typer.Typer):
    """A group of commands."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **rest: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As typer's own, of our kind."""
        return super().command(name, cls=cls or _Command, **rest)


class _Command(TyperCommand):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for each in self.params:
            if isinstance(each, TyperArgument):
                each.__class__ = _Argument  # typer makes them itself, and offers no other way


class _Argument(TyperArgument):
    """Without typer's braces around it, and without the name of a Python type behind it."""

    def _usage_display_name(self) -> str:
        return _REQUIRED.sub(r"\1", super()._usage_display_name())

    def display_type_rich(self, ctx: Any) -> str | None:  # noqa: ARG002  # as typer calls it
        return None
