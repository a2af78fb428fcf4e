"""Bringing a secret to the standard input of a container that waits for it: once, by the sender of its delivery target's kind.

A delivery target is a mapping of str to str; its `kind` names the sender (see `senders`), the rest is for that one.

Standard library only, so that the process which holds a password loads no SDK that its runtime does not need. It is sent once and
never again: after a failure the container is removed, since a second attach may be lost or may add to the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

from spreadpilot_core.ibkr.credentials.courier import senders
from spreadpilot_core.ibkr.errors import DeliveryError

TIMEOUT = 20.0
"""Seconds for one delivery; it takes milliseconds, and the manager gives up on a silent courier at 30."""


class _Sender(Protocol):
    def send(self, target: Mapping[str, str], secret: bytes, timeout: float) -> None: ...


def kinds() -> frozenset[str]:
    """The kinds of delivery targets that there is a sender for."""
    return frozenset(module.name for module in iter_modules(senders.__path__))


def deliver(delivery_target: Mapping[str, str], secret: bytes, *, timeout: float = TIMEOUT) -> None:
    """Bring `secret` to `delivery_target`.

    Raises:
        DeliveryError: it is not certain that all of it arrived.
    """
    kind = delivery_target.get("kind", "")
    if kind not in kinds():
        msg = f"There is no delivery target of kind {kind!r}."
        raise DeliveryError(msg)
    sender = cast("_Sender", import_module(f"{senders.__name__}.{kind}"))
    try:
        sender.send(delivery_target, secret, timeout)
    except (OSError, KeyError, ValueError, RecursionError) as error:
        reason = f"no {error} in the delivery target" if isinstance(error, KeyError) else f"{error}"
        msg = f"Container {delivery_target.get('container', '?')[:12]} could not be given its password: {reason}."
        raise DeliveryError(msg) from None
