"""Parts of the outside world that a test needs: told with the command that gets them, never silently passed over."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def need(part: str, command: str) -> NoReturn:
    """Skip the test because `part` is missing, saying the `command` that gets it; where CI is set, fail.

    Args:
        part: What is missing, e.g. "a Docker Engine".
        command: What a developer types to get it, e.g. "apt-get install docker.io".
    """
    sentence = f"{part} is missing here; get it with: {command}"
    if "CI" in os.environ:
        pytest.fail(f"{sentence} (a missing real part fails in CI)", pytrace=False)
    pytest.skip(sentence)
