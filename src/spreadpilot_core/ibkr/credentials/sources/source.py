"""What a source of credentials answers, and the protocol it fulfils. Known inside the courier and to the commands only.

A source is asked from many threads at once, blocks while it works, and translates its vendor's exceptions into
`CredentialsUnavailableError` (may pass by itself) or `CredentialsRefusedError` (will not). The two are never mixed up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from spreadpilot_core.ibkr.errors import CredentialsRefusedError
from spreadpilot_core.ibkr.model.secret_refs import shown_version

Source = Literal["vault", "stored"]


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """Which content a secret has, without the content."""

    version: str
    """Names this content: "NUMBER-MARK", where people read the number and the mark tells a secret made anew."""
    written_at: datetime | None
    """When this version was written, UTC."""

    needed_reading: bool = False
    """Whether the password had to be read to tell, since the source keeps no versions."""

    @property
    def shown(self) -> str:
        """What people call this version."""
        return shown_version(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One IBKR login. The password shows in no repr."""

    user: str
    password: str = field(repr=False)
    version: SecretVersion
    source: Source
    notice: str | None = None
    """A sentence for the snapshot, e.g. why stored credentials are used."""
    is_fallback: bool = False
    """Whether they stand in for a source that is away."""


class SecretGoneError(CredentialsRefusedError):
    """The source confirmed that the secret is deleted, or denied to us: what was remembered of it must go."""


class CredentialSource(Protocol):
    """Gives the login that a reference names."""

    def read(self, ref: str) -> Credentials:
        """The newest version of the secret, password included."""

    def version(self, ref: str) -> SecretVersion:
        """The newest version's name, without reading the password where the source can tell."""

    @property
    def renew_within(self) -> float | None:
        """Seconds within which the source wants to be asked again, to keep its own key alive; None: no matter."""

    def close(self) -> None:
        """Let go of sessions and tokens; safe to call twice."""
