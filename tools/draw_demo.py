"""Draws the README's picture: a real run of the demo, its screen kept when most is going on and when all is well again."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from spreadpilot_core.ibkr.demo.demo import Demo
from spreadpilot_core.ibkr.demo.screens import LiveScreen
from spreadpilot_core.ibkr.service import tables

WIDTH = 128
IN_TROUBLE = {"reconnecting", "degraded", "needs_human"}


class Camera(LiveScreen):
    """The demo's own screen, drawn nowhere, which takes two pictures on the way."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True, width=WIDTH, height=60))
        self.film = Console(
            record=True, file=io.StringIO(), force_terminal=True, width=WIDTH, height=28, highlight=False
        )
        self._taken = False
        self._all_well = False

    def show(self, gateways: Sequence[tables.Row]) -> None:
        super().show(gateways)
        if not self._taken and {each["state"] for each in gateways} == IN_TROUBLE:
            self._taken = True
            self.film.print(Text("$ gateway-manager demo\n", style="bold"), self.picture(), Text())
        if self._all_well:
            self._all_well = False
            self.film.print(Text("  … half a minute later\n", style="bright_black italic"), tables.gateways(gateways))
            os.kill(os.getpid(), signal.SIGINT)

    def say(self, sentence: str, *, about: str = "", loud: bool = False) -> None:
        super().say(sentence, about=about, loud=loud)
        self._all_well |= sentence.startswith("That was all")


def main() -> int:
    camera = Camera()
    with tempfile.TemporaryDirectory(
        prefix="gateway-manager-demo-", dir="/tmp"
    ) as directory:  # short: it holds sockets
        asyncio.run(Demo(Path(directory), 3, camera).run(once=False))
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    Path(sys.argv[1]).write_text(
        camera.film.export_svg(title="gateway-manager demo", code_format=without_fonts, unique_id="demo"),
        encoding="utf-8",
    )
    return 0 if camera._taken else 1  # noqa: SLF001  # our own


if __name__ == "__main__":
    sys.exit(main())
