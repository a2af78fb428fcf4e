"""What the tests of the installed command stand on; a module that needs another home or command has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from support.command import Command
from support.home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """A home without followers, on the simulated runtime and the local store."""
    place = Home()
    yield place
    asyncio.run(place.end())


@pytest.fixture
def command(home: Home) -> Command:
    """The installed command in it."""
    return Command(home)
