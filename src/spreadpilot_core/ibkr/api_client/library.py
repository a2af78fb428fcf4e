"""The library that clients come from when nobody names another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spreadpilot_core.ibkr.errors import ClientLibraryError


def default_ib_factory() -> Callable[[], Any]:
    """`ib_async.IB`, loaded now, off the event loop, and not with the first connect. Raises `ClientLibraryError`."""
    try:
        from ib_async import IB  # noqa: PLC0415  # a program may bring another library
    except (ImportError, RuntimeError) as error:  # the older eventkit asks for an event loop where there is none
        raise ClientLibraryError("ib_async", error) from error

    return IB  # type: ignore[no-any-return,unused-ignore]
