"""`followers.toml`: read whole, and edited the way its owner would, with comments and order kept.

    [[follower]]
    id = "anna"
    vault_secret_ref = "ibkr/anna"
    enabled = true

The manager only reads it. The commands `gateway-manager followers …` edit it, while a person may have it open in an
editor: a change is made under a lock, on the newest content, and put in place by one rename, so that no reader ever
sees half of it and a crash leaves the old or the new file.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from filelock import FileLock, Timeout
from tomlkit.items import AoT, Table

from spreadpilot_core.ibkr.errors import (
    FollowerEditError,
    StoreDamagedError,
    StoreUnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.protocols import Roster
from spreadpilot_core.ibkr.store.rosters import id_fault, parse_roster, written_id

FILE_NAME = "followers.toml"
TABLE = "follower"
NEWLINE = b"\n"
LOCK_WAIT = 10.0
"""Seconds that a command waits for another command's edit, which takes milliseconds."""


def parse_followers(content: bytes, path: Path) -> Roster:
    """The roster that this content of the file describes.

    Raises:
        StoreDamagedError: the content is no TOML, or holds something else than `[[follower]]` tables.
    """
    return parse_roster(_tables(content, path))


def read_content(path: Path) -> bytes:
    """The file's bytes; none when there is no file.

    Raises:
        StoreUnavailableError: it is there and can't be read.
    """
    try:
        return path.read_bytes()
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


def list_followers(path: Path) -> Roster:
    """What the file holds now, for the command. Raises as reading does."""
    return parse_followers(read_content(path), path)


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
    if fault := id_fault(follower_id):
        raise FollowerEditError(f"The follower can't be added: {fault}")
    if faulty := parse_roster([fields]).faulty:
        raise FollowerEditError(f"The follower can't be added: {faulty[follower_id].fault}")
    with _editing(path) as (_, tables):
        if _named(tables, follower_id):
            raise FollowerEditError(f"There is a follower {follower_id!r} in {path} already.")
        table = tomlkit.table()
        table.update(fields)
        tables.append(table)


def set_enabled(path: Path, follower_id: str, *, enabled: bool) -> None:
    """Enable or disable one follower.

    Raises:
        UnknownFollowerError: no record has this id.
        FollowerEditError: several records have it.
        StoreUnavailableError: the file can't be read, understood or written.
    """
    with _editing(path) as (_, tables):
        _only(tables, follower_id, path)["enabled"] = enabled


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


def _named(tables: AoT, follower_id: str) -> list[Table]:
    return [table for table in tables if written_id(table) == follower_id]


def _only(tables: AoT, follower_id: str, path: Path) -> Table:
    found = _named(tables, follower_id)
    if not found:
        raise UnknownFollowerError(follower_id, len(tables))
    if len(found) > 1:
        raise FollowerEditError(
            f"{len(found)} records in {path} have the id {follower_id!r}.", hint="Mend the file by hand."
        )
    return found[0]


@contextmanager
def _editing(path: Path) -> Iterator[tuple[tomlkit.TOMLDocument, AoT]]:
    """The file's document and its tables under the lock; written in place when the block ends well."""
    path = path.expanduser().resolve()  # a link stays a link: its target is replaced
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_WAIT):
            content = read_content(path)
            _tables(content, path)
            document = tomlkit.parse(content.decode())
            tables = document.setdefault(TABLE, tomlkit.aot())
            yield document, tables
            replace_content(path, tomlkit.dumps(document).encode())
    except Timeout as error:
        raise StoreUnavailableError(f"Another command holds {path} for more than {LOCK_WAIT:g} s.") from error
    except OSError as error:
        raise unreadable(path, error) from error


def replace_content(path: Path, content: bytes) -> None:
    """Put `content` in the file's place in one step, durable when this returns; mode 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
