"""What is known of a follower's secret without the password: who would log in, and which version is the newest."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.model.secret_refs import shown_version
from spreadpilot_core.ibkr.reporting.announcer import Announcer, written_user_sentence
from spreadpilot_core.ibkr.supervision.services import Services


class KnownSecret:
    """One follower's; the audit trail tells of each version that nobody knew."""

    def __init__(
        self, follower_id: FollowerId, services: Services, announcer: Announcer, on_new_version: Callable[[], None]
    ) -> None:
        self._id = follower_id
        self._services = services
        self._announcer = announcer
        self._on_new_version = on_new_version
        self._rotation_noted: str | None = None
        self.newest_version: str | None = None
        self.refused: str | None = None
        """Why no login can be had from it as it is now: a sentence."""
        self.login: Login | None = None
        """Of the secret that was read last; no password is in it."""

    def expected_user(self, record: Record) -> str | None:
        """Who will log in, as far as is known before the secret is read in its turn."""
        return self.login.user if self.login is not None else record.user

    def read(self, login: Login, *, follower: Follower | None, record: Record) -> None:
        """The secret was read."""
        known, self.login, self.refused = self.login, login, None
        if login.written_user is not None and (known is None or known.written_user != login.written_user):
            self._announcer.notice(written_user_sentence(login))
        if login.notice is None:
            self.see_version(login.version, follower=follower, record=record)
        self.newest_version = login.version  # read later than any version that was asked for

    def see_version(self, version: str, *, follower: Follower | None, record: Record) -> None:
        """The newest version; one that nobody knew is written down."""
        self.refused = None
        known = self.newest_version or record.secret_version or version
        if version != self.newest_version:
            self._on_new_version()  # what is being read may be what was there before
        self.newest_version = version
        if version in (known, self._rotation_noted) or follower is None:
            return
        self._rotation_noted = version
        before = known if shown_version(known) == shown_version(version) else shown_version(known)
        self._services.auditor.note(
            "rotate",
            follower=self._id,
            ref=follower.vault_secret_ref,
            version=version,
            detail=f"instead of version {before}",
        )
        restart = f"`{self._services.limits.command} restart {shlex.quote(self._id)}`"
        then = f"It is used at the next login; {restart} has one made now, unless one is made by itself."
        self._announcer.rotated(shown_version(version), then)
