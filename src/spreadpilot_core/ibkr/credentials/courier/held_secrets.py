"""What the courier does with one secret: read it, check it for the controller, hold it for a moment, deliver it, audit it.

Called from several threads of the courier at once. Answers are plain data for the manager; a password is in none of
them, and is held as the controller's own bytes only, until it is delivered or 30 s old.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from spreadpilot_core.ibkr.credentials.courier import stdin_delivery
from spreadpilot_core.ibkr.credentials.courier.encoding import Controller, UntypableError, check_user, encode
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, CredentialSource
from spreadpilot_core.ibkr.errors import (
    CredentialsRefusedError,
    DeliveryError,
    DeliveryExpiredError,
    GatewayManagerError,
)
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.users import canonical_user

LIFETIME = 30.0
"""Seconds that a password is held for its delivery."""

Answer = dict[str, Any]


class Trail(Protocol):
    """The part of the audit trail that is needed here; both raise `AuditError`."""

    def ready(self) -> None:
        """Make sure that a line can be written."""

    def append(self, act: str, *, who: str, outcome: str = "done", **facts: str | None) -> AuditHead:
        """Write one line; the newest there is then."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A password on its way, as the bytes that its controller wants."""

    content: bytes = field(repr=False)
    facts: dict[str, str | None]
    until: float


class HeldSecrets:
    """Holds what was read until it is delivered."""

    def __init__(
        self,
        source: CredentialSource,
        trail: Trail,
        *,
        who: str,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._trail = trail
        self._who = who
        self._lifetime = lifetime
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held any more; what is too old is let go of first."""
        now = self._clock()
        with self._lock:
            for ticket in [ticket for ticket, held in self._held.items() if held.until <= now]:
                del self._held[ticket]
            return not self._held

    def read(self, ref: str, controller: Controller, follower: str) -> Answer:
        """Read the secret and hold it; user, version, source and a ticket for `deliver`.

        Raises:
            GatewayManagerError: why not; audited as well.
        """
        self._trail.ready()
        facts: dict[str, str | None] = {"follower": follower, "ref": ref}
        try:
            found = self._source.read(ref)
            facts |= {"version": found.version.version, "source": found.source, "detail": found.notice}
            content = _typed(found, ref, controller)
        except GatewayManagerError as error:
            self._note("read", error.what, facts)
            raise
        self._note("fallback" if found.is_fallback else "read", "done", facts)
        ticket = secrets.token_hex(8)
        with self._lock:
            self._held[ticket] = _Held(content, facts | {"detail": None}, self._clock() + self._lifetime)
        return {
            "user": canonical_user(found.user),
            "written_user": found.user if found.user != canonical_user(found.user) else None,
            "version": found.version.version,
            "source": found.source,
            "written_at": found.version.written_at.isoformat() if found.version.written_at else None,
            "notice": found.notice,
            "ticket": ticket,
            "renew_within": self._source.renew_within,
        }

    def deliver(self, ticket: str, delivery_target: Mapping[str, str]) -> Answer:
        """Bring what `ticket` stands for to the delivery target, once, whatever becomes of it.

        Raises:
            DeliveryExpiredError: it is no longer held; nothing was sent.
            DeliveryError: it is not certain that it arrived.
        """
        with self._lock:
            held = self._held.pop(ticket, None)
        if held is None or held.until <= self._clock():
            msg = f"The password was asked for later than {self._lifetime:.0f} s after it was read."
            raise DeliveryExpiredError(msg)
        facts = held.facts | {"detail": f"to container {delivery_target.get('container')}"}
        try:
            stdin_delivery.deliver(delivery_target, held.content)
        except DeliveryError as error:
            self._note("deliver", error.what, facts)
            raise
        self._note("deliver", "done", facts)
        return {"delivered": True}

    def version(self, ref: str, follower: str | None = None) -> Answer:
        """The secret's newest version; audited where the password had to be read to tell.

        Raises:
            GatewayManagerError: why not.
        """
        found = self._source.version(ref)
        if found.needed_reading:
            facts = {"follower": follower, "ref": ref, "version": found.version, "detail": "for its version alone"}
            self._note("read", "done", facts)
        return {
            "version": found.version,
            "renew_within": self._source.renew_within,
            "needed_reading": found.needed_reading,
        }

    def forget(self, ticket: str) -> Answer:
        """Let go of what nobody will ask for."""
        with self._lock:
            self._held.pop(ticket, None)
        return {"forgotten": True}

    def _note(self, act: str, outcome: str, facts: Mapping[str, str | None]) -> None:
        self._trail.append(act, who=self._who, outcome=outcome, **facts)


def _typed(found: Credentials, ref: str, controller: Controller) -> bytes:
    try:
        what = "user name"
        check_user(found.user, controller)
        what = "password"
        return encode(found.password, controller)
    except UntypableError as error:
        msg = f"The secret {ref} (version {found.version.shown}) can't be used: its {what} {error}."
        raise CredentialsRefusedError(msg) from None
