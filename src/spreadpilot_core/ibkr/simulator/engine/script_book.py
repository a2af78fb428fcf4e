"""Who gets which faults, accounts, controller and timings: `scripts.json` in the host's directory, and what was said since.

    {
      "controller": "ibc",                                        or "ibcontroller", the default
      "timings": "real",                                       or "fast", the default; or {"login": 3.0} over the fast ones
      "server_version": 178,
      "followers": {
        "alice": {"laps": [{"wrong_password": true}]},         the first start of alice's gateway rejects its password
        "bob": {"accounts": ["DU1000001"], "timings": "real", "controller": "ibc", "password_sha256": "5e88…"}
      }
    }

Everything is optional. The file is read again whenever something is created or started, so an edit counts from the next
start on. Without `password_sha256` any password is right. A follower's laps (see `simulator.script`) are used up one a start, over all its containers, once for each owner;
they begin anew when its entry changes, when a program gives it other laps, and with a new host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator import faults, reset_hours
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from spreadpilot_core.ibkr.simulator.script import Script, Timings

CONTROLLERS = ("ibcontroller", "ibc")
_NAMED_TIMINGS = {"fast": Timings.FAST, "real": Timings.REAL}
_FOLLOWER_KEYS = {"laps", "accounts", "timings", "controller", "server_version", "password_sha256", "reset_hours"}
_KEYS = (_FOLLOWER_KEYS - {"laps", "accounts", "password_sha256"}) | {"followers"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one follower's gateway is to be."""

    accounts: Sequence[str]
    script: Script
    timings: Timings
    server_version: int
    password_sha256: str | None
    _books: dict[tuple[str, ...], Exchange]

    def open_books(self, fresh: Exchange) -> Exchange:
        """The books of these accounts: orders, cash and positions are IBKR's and outlive a gateway."""
        return self._books.setdefault(tuple(self.accounts), fresh)


class ScriptBook:
    """Reads the file, remembers what programs said, and keeps each follower's place in its script."""

    def __init__(self, directory: Path | None) -> None:
        """None: there is no file."""
        self._path = directory / SCRIPTS if directory is not None else None
        self._said: dict[str, dict[str, Any]] = {}
        self._books: dict[tuple[str, ...], Exchange] = {}
        self._scripts: dict[tuple[str, str], tuple[object, Script]] = {}

    def say(self, follower_id: str, entry: Mapping[str, Any]) -> None:
        """Take a follower's entry from a program; it wins over the file's, key by key."""
        _check(entry, _FOLLOWER_KEYS, follower_id)
        _script(entry.get("laps", ()), follower_id)
        _timings(entry.get("timings", "fast"), follower_id)
        self._said[follower_id] = {**self._said.get(follower_id, {}), **entry}
        if "laps" in entry:
            for key in [key for key in self._scripts if key[1] == follower_id]:
                del self._scripts[key]

    def add_to_next(self, owner: str, follower_id: str, fault: str, arguments: Mapping[str, Any]) -> None:
        """Let a fault happen at the follower's next start, whatever its script has for it. Raises `ValueError`."""
        checked = faults.check(fault, arguments, at_start=True)
        self._script(owner, follower_id, self._entry(follower_id).get("laps", ())).add_to_next(fault, checked)

    def controller(self, follower_id: str) -> str:
        """The controller that a follower's gateway has when its image doesn't say."""
        controller = self._entry(follower_id).get("controller", CONTROLLERS[0])
        if controller not in CONTROLLERS:
            raise _wrong(f"{follower_id}: controller is {controller!r}, but must be one of {', '.join(CONTROLLERS)}")
        return str(controller)

    def reset_hours(self, follower_id: str) -> str:
        """When its IBKR resets, as text; none by default. Raises `Refused`."""
        stated = self._entry(follower_id).get("reset_hours", "")
        try:
            reset_hours.check(stated)
        except ValueError as error:
            raise _wrong(f"{follower_id}: {error}") from error
        return str(stated)

    def part(self, owner: str, follower_id: str, *, user: str, trading_mode: str) -> Part:
        """What the gateway that starts now is to be. Raises `Refused` when the file can't be used."""
        entry = self._entry(follower_id)
        return Part(
            accounts=_accounts(entry.get("accounts"), follower_id)
            or [made_up_account(user or follower_id, trading_mode)],
            script=self._script(owner, follower_id, entry.get("laps", ())),
            timings=_timings(entry.get("timings", "fast"), follower_id),
            server_version=entry.get("server_version", 178),
            password_sha256=entry.get("password_sha256"),
            _books=self._books,
        )

    def _script(self, owner: str, follower_id: str, laps: Any) -> Script:
        known = self._scripts.get((owner, follower_id))
        if known is None or known[0] != laps:
            known = self._scripts[owner, follower_id] = (laps, _script(laps, follower_id))
        return known[1]

    def _entry(self, follower_id: str) -> dict[str, Any]:
        book = self._read()
        entry = book.get("followers", {}).get(follower_id, {})
        _check(entry, _FOLLOWER_KEYS, follower_id)
        general = {key: value for key, value in book.items() if key != "followers"}
        return {**general, **entry, **self._said.get(follower_id, {})}

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        if self._path.exists() and not self._path.is_file():  # a FIFO keeps its reader for ever
            raise _wrong("it is no file")
        try:
            book = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise _wrong(f"it can't be read ({error})") from error
        _check(book, _KEYS, "the file")
        if not isinstance(book.get("followers", {}), dict):
            raise _wrong("followers must be a mapping from follower ids")
        return dict(book)


def made_up_account(user: str, trading_mode: str) -> str:
    """The account of a user that none was scripted for: always the same one for the same user."""
    number = int.from_bytes(hashlib.sha256(user.encode()).digest()[:6], "big") % 9_000_000 + 1_000_000
    return f"{'U' if trading_mode == 'live' else 'DU'}{number}"


def _script(laps: Any, follower_id: str) -> Script:
    if not isinstance(laps, (list, tuple)) or not all(isinstance(lap, Mapping) for lap in laps):
        raise _wrong(f"{follower_id}: laps must be a list of mappings, one for each start")
    try:
        return Script.from_json(laps)
    except (ValueError, TypeError) as error:
        raise _wrong(f"{follower_id}: {error}") from error


def _timings(value: Any, follower_id: str) -> Timings:
    if isinstance(value, str) and value in _NAMED_TIMINGS:
        return _NAMED_TIMINGS[value]
    if isinstance(value, Mapping):
        try:
            return dataclasses.replace(Timings.FAST, **{name: float(seconds) for name, seconds in value.items()})
        except (TypeError, ValueError) as error:
            raise _wrong(f"{follower_id}: timings: {error}") from error
    raise _wrong(f"{follower_id}: timings is {value!r}, but must be fast, real or a mapping of seconds")


def _accounts(value: Any, follower_id: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(account, str) for account in value):
        raise _wrong(f"{follower_id}: accounts must be a list of account numbers")
    return list(value)


def _check(entry: Any, known: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise _wrong(f"{where}: must be a mapping")
    if unknown := sorted(set(entry) - known):
        raise _wrong(f"{where}: there is no {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _wrong(what: str) -> Refused:
    return Refused("bad_request", f"{SCRIPTS} can't be used: {what}.")
