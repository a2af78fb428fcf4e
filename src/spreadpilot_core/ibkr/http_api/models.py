"""What is said over HTTP in either direction, beside what the manager's own objects say of themselves."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from spreadpilot_core.ibkr.access.callers import Role
from spreadpilot_core.ibkr.http_api.leader import LeaderAddress
from spreadpilot_core.ibkr.model.records import HistoryEntry
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot


class Refusal(BaseModel):
    """Every answer that is no success."""

    error: str
    """The error's class name."""
    sentence: str
    hint: str | None = None


class Accepted(BaseModel):
    """What was begun goes on; the header `Location` says where its answer is fetched."""

    operation: str
    """Its id."""
    gateway: GatewaySnapshot | None
    """How it stands now; null where it is about the whole manager."""


class NotLeaderRefusal(Refusal):
    """This manager stands by."""

    leader: LeaderAddress | None
    """Who acts; null where nobody knows."""


class SignIn(BaseModel):
    """With which token."""

    model_config = ConfigDict(extra="forbid")

    token: StrictStr


class SessionView(BaseModel):
    """Who is signed in."""

    name: str
    """Of the token."""
    role: Role
    followers: tuple[str, ...] | None
    """The only ones that the token knows of; null: all of them."""
    csrf_token: str | None
    """What requests that change something bring in the header `X-CSRF-Token`; null without a session."""


class Launch(BaseModel):
    """What may be said with a launch."""

    model_config = ConfigDict(extra="forbid")

    retry_login: StrictBool = False  # an override is said plainly, not by a word that looks like yes
    """Take one more login after a rejection or a spent limit."""
    override_account_lock: StrictStr | None = None
    """The IBKR user whose account may be locked for one more login still."""
    live: StrictBool = False
    """Confirm that a follower who was paper trades live from now on, as its record asks."""


class ClientAsked(BaseModel):
    """What may be said with a lease of a client id."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[StrictStr, Field(min_length=1, max_length=100)] | None = None
    """What the program calls itself: it gets the same client id again when it comes back, while that is free."""


class GivenBack(BaseModel):
    """How the end of a lease went."""

    given_back: bool
    """False: it had ended already."""


class Removals(BaseModel):
    """Whom to let go."""

    model_config = ConfigDict(extra="forbid")

    follower_ids: list[str] | None = None
    """As `/v1/followers/missing` names them; None for all of those."""


class Reconnected(BaseModel):
    """How a reconnect ended."""

    reconnected: bool
    gateway: GatewaySnapshot


class HistoryView(BaseModel):
    """A page of the history."""

    entries: tuple[HistoryEntry, ...]
    """Newest first."""
    older: str | None
    """What `before` says for the next page; null: this was the last."""


class ManagerView(BaseModel):
    """Who serves here."""

    pid: int
    version: str
    state_dir: str
    store: str
    followers: str
    """What the followers are in: the store, unless another place is named."""
    runtime: str
    notices: tuple[str, ...]
    """What concerns the whole manager now, a sentence each."""
    identity: str | None
    """What its containers bear; null until the record store was read."""
    adopted: tuple[str, ...]
    """Identities that it has taken over."""
    leader: bool
    """Whether it acts; one that stands by answers what it knows, and changes nothing."""
    leader_address: LeaderAddress | None
    """Where the manager that acts is reached; null where nobody knows."""
    left_alone: tuple[str, ...]
    """A sentence about each container that looks like a gateway and is not its own."""


class Detached(ManagerView):
    """Who detaches, and what it leaves."""

    left: tuple[str, ...]
    """A sentence for each login that was waited for and did not succeed."""
