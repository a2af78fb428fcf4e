"""`followers.toml`: read whole, and edited the way its owner would, with comments and order kept.

    [[follower]]
    id = "anna"
    vault_secret_ref = "ibkr/anna"
    enabled = true

The manager only reads it. The commands `gateway-manager followers …` edit it, while a person may have it open in an
editor: a change is made under a lock, on the newest content, and put in place by one rename, so that no reader ever
sees half of it and a crash leaves the old or the new file. A change that would leave the record unusable is not made.

Whom a command removes is noted beside the file (`followers.removed`), before the file changes: by that the manager
tells an operator's act from an accident. The note goes once the follower is there again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomlkit
from filelock import FileLock, Timeout
from tomlkit.exceptions import ParseError
from tomlkit.items import AoT, Table

from spreadpilot_core.ibkr.errors import (
    FollowerEditError,
    StoreDamagedError,
    StoreUnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId, Roster
from spreadpilot_core.ibkr.store.rosters import id_fault, parse_roster, written_id
from spreadpilot_core.ibkr.system.home_paths import in_home
from spreadpilot_core.ibkr.system.regular_files import read_regular
from spreadpilot_core.ibkr.system.whole_files import make_for_owner, write_whole

FILE_NAME = "followers.toml"
REMOVED_NAME = "followers.removed"
TABLE = "follower"
NEWLINE = b"\n"
_TOO_DEEP = "its tables or lists are nested too deeply"
LOCK_WAIT = 10.0
"""Seconds that a command waits for another command's edit, which takes milliseconds."""


def parse_followers(content: bytes, path: Path, *, ports: range | None = None) -> Roster:
    """The roster that this content of the file describes; `ports` are those that a follower may pin.

    Raises:
        StoreDamagedError: the content is no TOML, or holds something else than `[[follower]]` tables.
    """
    return parse_roster(_tables(content, path), ports=ports)


def read_followers(path: Path, *, ports: range | None = None) -> Roster:
    """What the file holds now, and whom commands have removed from it. Raises as reading and parsing do."""
    roster = list_followers(path, ports=ports)
    noted = _noted(path)
    if back := noted & {*roster.usable, *roster.faulty}:
        _drop_notes(path)
    return replace(roster, removed=noted - back)


def read_content(path: Path) -> bytes:
    """The file's bytes; none when there is no file.

    Raises:
        StoreUnavailableError: it is there and can't be read, or is no regular file.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> StoreUnavailableError:
    """The error for a file that the system doesn't let us read or write."""
    return StoreUnavailableError(
        f"{path} can't be used: {error.strerror or error}.",
        hint="It must be a file that this user may read and write, in a directory where it may make files.",
    )


def _tables(content: bytes, path: Path) -> Sequence[Any]:
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(NEWLINE, 0, error.start) + 1
        raise _damaged(path, f"line {line} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise _damaged(path, _with_line(str(error), content)) from error
    except RecursionError:
        raise _damaged(path, _TOO_DEEP) from None
    if unknown := [name for name in document if name != TABLE]:
        raise _damaged(path, f"it holds {min(unknown)!r}, but every follower is a table headed [[{TABLE}]]")
    tables = document.get(TABLE, [])
    if not isinstance(tables, list):
        raise _damaged(path, f"it holds [{TABLE}], but every follower is a table headed [[{TABLE}]]")
    return tables


def _with_line(message: str, content: bytes) -> str:
    """The parser's message with its place in front: "line 3, column 7: expected …"."""
    cause, _, place = message.rstrip(")").rpartition(" (at ")
    if place == "end of document":
        place = f"line {content.rstrip().count(NEWLINE) + 1}"
    return f"{place}: {cause[:1].lower()}{cause[1:]}"


def _damaged(path: Path, what: str) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path} can't be understood: {what}.",
        hint="Mend the file; until then the followers stay as they were last read.",
    )


# ---------------------------------------------------------------------------------------------- edits


def list_followers(path: Path, *, ports: range | None = None) -> Roster:
    """What the file holds now, for the command. Raises as reading does."""
    return parse_followers(read_content(path), path, ports=ports)


def check_file(path: Path, *, ports: range | None = None) -> Roster:
    """What this file would give; a missing one is an error here. Raises as reading does."""
    if not path.exists():
        raise StoreUnavailableError(f"There is no file {path}.")
    return list_followers(path, ports=ports)


def add_follower(
    path: Path,
    follower_id: str,
    *,
    vault_secret_ref: str,
    live: bool = False,
    account: str | None = None,
    enabled: bool = True,
) -> None:
    """Append one follower, paper unless `live`.

    Raises:
        FollowerEditError: the id is illegal or there already, or the record would be faulty.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    fields: dict[str, Any] = {"id": follower_id, "vault_secret_ref": vault_secret_ref, "enabled": enabled}
    if live:
        fields["trading_mode"] = "live"
    if account is not None:
        fields["account"] = account
    add_followers(path, [fields])


def add_followers(path: Path, records: Sequence[Mapping[str, Any]], *, ports: range | None = None) -> None:
    """Append several followers, all or none.

    Raises:
        FollowerEditError: an id is illegal or there already, or a record would be faulty.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    for fields in records:
        if fault := id_fault(fields["id"]):
            raise FollowerEditError(f"The follower can't be added: {fault}")
        if faulty := parse_roster([fields], ports=ports).faulty:
            raise FollowerEditError(f"The follower can't be added: {faulty[fields['id']].fault}")
    with _editing(path) as (_, tables):
        for fields in records:
            if _named(tables, fields["id"]):
                raise FollowerEditError(f"There is a follower {fields['id']!r} in {path} already.")
            tables.append(_table(fields))
        _write_notes(path, _noted(path) - {FollowerId(each["id"]) for each in records})


def rendered(records: Sequence[Mapping[str, Any]]) -> str:
    """These records as the file would have them."""
    document = tomlkit.document()
    tables = document.setdefault(TABLE, tomlkit.aot())
    for fields in records:
        tables.append(_table(fields))
    return tomlkit.dumps(document)


def _table(fields: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    table.update(fields)
    return table


def set_enabled(path: Path, follower_id: str, *, enabled: bool) -> None:
    """Enable or disable one follower.

    Raises:
        UnknownFollowerError: no record has this id.
        FollowerEditError: several records have it.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    with _editing(path) as (_, tables):
        _only(tables, follower_id, path)["enabled"] = enabled


def set_fields(
    path: Path, follower_id: str, changes: Mapping[str, Any], *, ports: range | None = None
) -> Mapping[str, str]:
    """Change fields of one follower, each by its name, an option of the gateway as "gateway.NAME"; None takes one out.

    Returns:
        Other records that can't be used, with the fault of each: the file was written all the same.

    Raises:
        UnknownFollowerError: no record has this id.
        FollowerEditError: several records have it, or the record would be faulty; the file is as it was.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    if "id" in changes:
        raise FollowerEditError(
            "The id of a follower can't be changed.", hint="Remove it, and add it under its new id."
        )

    faulty: dict[str, str] = {}

    def check(content: bytes) -> None:
        faulty.update({name: each.fault for name, each in parse_followers(content, path, ports=ports).faulty.items()})
        if fault := faulty.pop(follower_id, None):
            raise FollowerEditError(f"{follower_id} can't be changed so: {fault}")

    with _editing(path, check) as (_, tables):
        table = _only(tables, follower_id, path)
        for name, value in changes.items():
            _set_field(table, name, value)
    return faulty


def _set_field(table: Any, name: str, value: Any) -> None:
    part, _, option = name.partition(".")
    if option:
        inner = table.get(part)
        if inner is None and value is None:
            return
        if inner is None:
            table[part] = inner = tomlkit.table()
        if not isinstance(inner, MutableMapping):
            raise FollowerEditError(f"{name} can't be set: {part} is no table.")
        table, name = inner, option
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def remove_follower(path: Path, follower_id: str) -> None:
    """Take one follower out of the file, with the comments inside its table.

    Raises:
        UnknownFollowerError: no record has this id.
        FollowerEditError: several records have it.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    with _editing(path) as (document, tables):
        tables.remove(_only(tables, follower_id, path))
        if not tables:
            document.remove(TABLE)
        _write_notes(path, _noted(path) | {FollowerId(follower_id)})


def _named(tables: AoT, follower_id: str) -> list[Table]:
    return [table for table in tables if written_id(table) == follower_id]


def _only(tables: AoT, follower_id: str, path: Path) -> Table:
    found = _named(tables, follower_id)
    if not found:
        raise UnknownFollowerError(follower_id, [str(written_id(each)) for each in tables])
    if len(found) > 1:
        raise FollowerEditError(
            f"{len(found)} records in {path} have the id {follower_id!r}.", hint="Mend the file by hand."
        )
    return found[0]


@contextmanager
def _editing(path: Path, check: Callable[[bytes], None] = lambda _: None) -> Iterator[tuple[tomlkit.TOMLDocument, AoT]]:
    """The file's document and its tables under the lock; written in place when the block, and then `check`, end well."""
    path = in_home(path).resolve()  # a link stays a link: its target is replaced
    with _locked(path):
        content = read_content(path)
        _tables(content, path)
        document = _document(content, path)
        tables = document.setdefault(TABLE, tomlkit.aot())
        yield document, tables
        edited = tomlkit.dumps(document).encode()
        check(edited)
        write_whole(path, edited, keep_mode=True)


def _document(content: bytes, path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(content.decode())
    except RecursionError:
        raise _damaged(path, _TOO_DEEP) from None
    except ParseError as error:  # it is stricter in some than the parser that reads it
        raise _damaged(path, _with_line(str(error), content)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_for_owner(lock := path.with_name(f".{path.name}.lock"))
        with FileLock(lock, timeout=LOCK_WAIT, mode=0o600):
            yield
    except Timeout as error:
        raise StoreUnavailableError(f"Another command holds {path} for more than {LOCK_WAIT:g} s.") from error
    except OSError as error:
        raise unreadable(path, error) from error


# ---------------------------------------------------------------------------------------------- notes of removals


def _noted(path: Path) -> frozenset[FollowerId]:
    """Whom commands have removed; a note that can't be read is none: then the manager waits and asks, as it should."""
    try:
        names = json.loads(read_regular(path.with_name(REMOVED_NAME)))
    except (OSError, ValueError, RecursionError):
        return frozenset()
    return (
        frozenset(FollowerId(name) for name in names if isinstance(name, str))
        if isinstance(names, list)
        else frozenset()
    )


def _write_notes(path: Path, names: frozenset[FollowerId]) -> None:
    """Note these as removed by command. The caller holds the lock."""
    notes = path.with_name(REMOVED_NAME)
    if names != _noted(path):
        write_whole(notes, json.dumps(sorted(names), ensure_ascii=False).encode() + b"\n")


def _drop_notes(path: Path) -> None:
    """Forget the notes of those who are in the file again, so that their next loss is no operator's act."""
    with suppress(StoreUnavailableError), _locked(in_home(path).resolve()):
        roster = parse_followers(read_content(path), path)
        _write_notes(path, _noted(path) - {*roster.usable, *roster.faulty})
