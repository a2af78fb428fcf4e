"""A broker in memory that holds made-up logins, for tests of what stands above it: no courier, no file, no secret worth keeping."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.credentials.courier.encoding import UntypableError, check_user, encode
from spreadpilot_core.ibkr.errors import (
    CredentialsRefusedError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Controller, DeliveryTarget, Login

HELD_FOR = 30.0
"""Seconds that a password is held for its delivery, as by a courier."""


@dataclass(frozen=True, slots=True)
class _Secret:
    user: str
    password: str = field(repr=False)
    version: str


@dataclass(frozen=True, slots=True)
class _Held:
    content: bytes = field(repr=False)
    until: float


class InMemoryBroker:
    """Fulfils `seams.CredentialBroker`."""

    def __init__(self, send: Callable[[DeliveryTarget, bytes], None]) -> None:
        """`send` does what a courier's sender does; what it raises is a failed delivery."""
        self.renew_within: float | None = None
        self.is_away = False
        """Every read fails as long as it is."""
        self.reads: list[str] = []
        """The references that were read, in order."""
        self._send = send
        self._secrets: dict[str, _Secret] = {}
        self._held: dict[str, _Held] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, ref: str, user: str, password: str) -> None:
        """Store a login under this reference; whoever listens is told."""
        self._secrets[ref] = _Secret(user, password, f"{next(self._numbers)}-made-up")
        self._wake()

    def drop(self, ref: str) -> None:
        """Delete it."""
        self._secrets.pop(ref, None)
        self._wake()

    def expect(self) -> None:
        """It is ready."""

    async def read(self, ref: str, controller: Controller, *, follower_id: FollowerId) -> Login:
        """Hold the password for its delivery."""
        del follower_id
        secret = await self._secret(ref)
        self.reads.append(ref)
        try:
            check_user(secret.user, controller)
            content = encode(secret.password, controller)
        except UntypableError as error:
            raise CredentialsRefusedError(f"The secret {ref} can't be used: it {error}.") from None
        ticket = f"ticket-{next(self._numbers)}"
        self._held[ticket] = _Held(content, asyncio.get_running_loop().time() + HELD_FOR)
        return Login(user=secret.user, version=secret.version, source="stored", written_at=None, ticket=ticket)

    async def deliver(self, ticket: str, delivery_target: DeliveryTarget) -> None:
        """Bring it to the delivery target, once."""
        await asyncio.sleep(0)
        held = self._held.pop(ticket, None)
        if held is None or held.until <= asyncio.get_running_loop().time():
            msg = f"The password was asked for later than {HELD_FOR:.0f} s after it was read."
            raise DeliveryExpiredError(msg)
        try:
            self._send(delivery_target, held.content)
        except Exception as error:
            msg = f"Container {delivery_target.container_id[:12]} could not be given its password: {error}."
            raise DeliveryError(msg) from error

    async def version(self, ref: str, *, follower_id: FollowerId | None = None) -> str:
        """The newest version."""
        del follower_id
        return (await self._secret(ref)).version

    async def hints(self) -> AsyncIterator[None]:
        """Yield at the beginning, and whenever a login has changed since."""
        while not self._closed:
            changed = self._changed
            yield
            await changed.wait()

    async def close(self) -> None:
        """Hold nothing any more."""
        self._closed = True
        self._held.clear()
        self._wake()

    async def _secret(self, ref: str) -> _Secret:
        await asyncio.sleep(0)
        if self._closed or self.is_away:
            msg = "The made-up logins are away."
            raise CredentialsUnavailableError(msg)
        if ref not in self._secrets:
            msg = f"There is no made-up login {ref}."
            raise CredentialsRefusedError(msg)
        return self._secrets[ref]

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
