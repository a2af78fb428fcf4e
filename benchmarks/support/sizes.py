"""The options of a benchmark: how much of everything, and `--small`, which is for seeing that it runs, not for figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def options(
    documentation: str | None, *, arguments: Sequence[str] | None = None, **sizes: tuple[Any, Any]
) -> argparse.Namespace:
    """What was asked for: each size has a default, and another one with `--small`.

    `sizes` are pairs of the two, by the option's name.
    """
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="so little that it means nothing, to see that it runs")
    for name, (usual, small) in sizes.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(usual), metavar="N", help=f"{usual}; {small} with --small"
        )
    given = parser.parse_args(arguments)
    for name, (usual, small) in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, small if given.small else usual)
    return given
