"""One MongoDB database, as few operations as the stores need. The only module that knows pymongo.

Every operation is bounded in time and ends in an answer or in `StoreUnavailableError`; pymongo's own exceptions stay
here, since their texts may hold the connection string, and with it a password. They are not even chained: an error is
raised anew outside the handler, so that no traceback can show them.

An operation that was asked for runs to its end in a task of its own, also when its caller is cancelled: pymongo's
operations are not made for that (4.20 loses sockets, and sometimes the cancellation itself). Each is short anyway.

Writes are acknowledged by the majority and by its journal, so what was answered survives a killed server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import unquote_plus, urlsplit

import pymongo
from bson import ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON, InvalidDocument
from pydantic import SecretStr
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DocumentTooLarge, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from spreadpilot_core.ibkr.errors import SettingsError, StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongodb.cures import cure
from spreadpilot_core.ibkr.system.wording import HIDDEN
from spreadpilot_core.ibkr.tasks import Tasks

T = TypeVar("T")
Document = dict[str, Any]
Where = Mapping[str, Any]

ANSWER_WITHIN = 6.0
"""Seconds for one operation, reaching a server included; a local one takes about a millisecond."""
REACH_WITHIN = 3.0
"""Seconds to find a server that answers: the manager's start may take ten in all."""
CLOSE_WITHIN = 2.0
"""Seconds that closing waits for operations that are under way."""
CHANGE_WAIT = 0.5
"""Seconds that the server waits for a change before it answers that there is none."""
_HIDDEN = "**********"
_DUPLICATE_KEY = 11000
"""MongoDB's code."""


class ChangesNotOfferedError(Exception):
    """The server answered that it has no change streams, or has forgotten where to resume: poll, or begin anew."""


class MongoDatabase:
    """The database `name` behind `uri`."""

    def __init__(self, uri: SecretStr, name: str) -> None:
        self._uri = uri
        self._name = name
        self._hidden = _secrets_of(uri.get_secret_value())
        self._client: AsyncMongoClient[Document] | None = None
        self._is_open = False
        self._closing = asyncio.Event()
        self._tasks = Tasks("MongoDB")
        self._host = _hosts(uri.get_secret_value())
        self.label = f"MongoDB at {self._host}"
        """What to call it; never with a user or password."""

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoDatabase:
        """The database that `mongo_uri` and `mongo_db_name` name.

        Raises:
            SettingsError: `mongo_uri` is missing or no connection string. The value is not shown.
        """
        uri = settings.mongo_uri
        if uri is None:
            raise SettingsError(
                "mongo_uri", None, "store_url is mongodb: and needs it, such as mongodb://localhost:27017"
            )
        if fault := _uri_fault(uri.get_secret_value()):
            raise SettingsError("mongo_uri", HIDDEN, f"it must be a MongoDB connection string: {fault}")
        return cls(uri, settings.mongo_db_name)

    async def open(self) -> None:
        """Reach the server once. Raises `StoreUnavailableError`; may be called again."""
        self._closing.clear()
        if self._client is None:
            client = await asyncio.to_thread(self._new_client)
            if isinstance(client, StoreUnavailableError):
                raise client
            self._client = client
        await self._answer(lambda database: database.command("ping"))
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether the server was ever reached since this was opened; until then whoever opens it says why it is not."""
        return self._is_open

    async def now(self) -> datetime:
        """The server's clock."""
        answer = await self._answer(  # a command's answer is read by its own options, and would come without a zone
            lambda database: database.command("hello", codec_options=database.codec_options)
        )
        if not isinstance(now := answer.get("localTime"), datetime):
            raise StoreUnavailableError(f"{self.label} doesn't say its time.")
        return now

    async def close(self) -> None:
        """Wait a little for what runs, then close every connection; safe to call twice and when never opened."""
        client, self._client = self._client, None
        self._is_open = False
        self._closing.set()
        await self._tasks.wait(CLOSE_WITHIN)
        if client is not None:
            await asyncio.shield(client.close())
        await self._tasks.cancel()

    # ------------------------------------------------------------------ documents

    async def find(
        self, collection: str, where: Where | None = None, *, fields: Sequence[str] | None = None
    ) -> list[Document]:
        """All documents that match, by `_id`; only `fields` of them when given. An ObjectId comes as its hex text."""
        found = await self._answer(
            lambda database: database[collection].find(where or {}, list(fields) if fields else None).to_list()
        )
        documents = [{name: _readable(value) for name, value in document.items()} for document in found]
        return sorted(documents, key=lambda document: str(document.get("_id")))

    async def insert(self, collection: str, document: Document) -> bool:
        """Add one document; False when its `_id` is there already."""

        async def insert(database: AsyncDatabase[Document]) -> bool:
            try:
                await database[collection].insert_one(document)
            except DuplicateKeyError:
                return False
            return True

        return await self._answer(insert)

    async def put(self, collection: str, document: Document) -> None:
        """Write one document whole, whether or not its `_id` is there."""
        where = {"_id": document["_id"]}
        try:
            await self._answer(lambda database: database[collection].replace_one(where, document, upsert=True))
        except _DuplicateError:  # two that made it at once: now it is there
            await self._answer(lambda database: database[collection].replace_one(where, document))

    async def put_all(self, collection: str, documents: Sequence[Document]) -> None:
        """Write several documents whole in one request, when nobody else makes the same ones now."""
        writes = [pymongo.ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
        if writes:
            await self._answer(lambda database: database[collection].bulk_write(writes))

    async def add_new(self, collection: str, documents: Sequence[Document]) -> None:
        """Add documents in this order, leaving out those whose `_id` is there already."""

        async def insert(database: AsyncDatabase[Document]) -> None:
            try:
                await database[collection].insert_many(documents, ordered=False)
            except BulkWriteError as error:
                if not _only_duplicates(error):
                    raise

        if documents:
            await self._answer(insert)

    async def delete(self, collection: str, where: Where) -> int:
        """Delete all that match; how many they were."""
        result = await self._answer(lambda database: database[collection].delete_many(where))
        return result.deleted_count

    async def newest(self, collection: str, field: str, *, skip: int) -> Document | None:
        """The document after the `skip` newest by `field`, or None."""
        found = await self._answer(
            lambda database: database[collection].find({}, [field]).sort(field, -1).skip(skip).limit(1).to_list()
        )
        return found[0] if found else None

    async def page(self, collection: str, where: Where, *, by: Sequence[str], limit: int) -> list[Document]:
        """The last `limit` documents that match by these fields, the last one first."""
        order = [(field, -1) for field in by]
        return await self._answer(lambda database: database[collection].find(where).sort(order).limit(limit).to_list())

    async def index(self, collection: str, *fields: str) -> None:
        """Have the server find and sort by these fields fast."""
        await self._answer(lambda database: database[collection].create_index([(field, 1) for field in fields]))

    # ------------------------------------------------------------------ changes

    async def follow(
        self,
        collection: str,
        *,
        after: Mapping[str, Any] | None,
        on_change: Callable[[Mapping[str, Any] | None, bool], None],
    ) -> None:
        """Follow the collection's changes until `close`.

        Args:
            collection: whose changes.
            after: where to resume; None means from now on.
            on_change: called with the mark to resume after, and whether something changed: once the stream stands, and
                again and again at short intervals.

        Raises:
            ChangesNotOfferedError: the server can't, or can't resume there.
            StoreUnavailableError: it can't be reached, or the stream broke.
        """
        task = self._tasks.begin("follow", self._followed(collection, after, on_change), then=_seen)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _followed(
        self,
        collection: str,
        after: Mapping[str, Any] | None,
        on_change: Callable[[Mapping[str, Any] | None, bool], None],
    ) -> None:
        trouble: Exception
        try:
            with pymongo.timeout(ANSWER_WITHIN):
                stream = await self._database()[collection].watch(
                    resume_after=after, max_await_time_ms=int(CHANGE_WAIT * 1000)
                )
            async with stream:
                on_change(stream.resume_token, False)
                while not self._closing.is_set():
                    with pymongo.timeout(ANSWER_WITHIN):
                        change = await stream.try_next()
                    on_change(stream.resume_token, change is not None)
                return
        except OperationFailure as error:
            passing = error.timeout or error.has_error_label("ResumableChangeStreamError")
            trouble = self._trouble(error) if passing else ChangesNotOfferedError(self._said(error))
        except PyMongoError as error:
            trouble = self._trouble(error)
        raise trouble

    # ------------------------------------------------------------------ asking

    def _new_client(self) -> AsyncMongoClient[Document] | StoreUnavailableError:
        """A client, or why there can be none; off the loop, since it reads certificates and the system's name."""
        try:
            return AsyncMongoClient(
                self._uri.get_secret_value(),
                appname="gateway-manager",
                tz_aware=True,
                serverSelectionTimeoutMS=int(REACH_WITHIN * 1000),
                connectTimeoutMS=int(REACH_WITHIN * 1000),
                w="majority",
                journal=True,
            )
        except (PyMongoError, ValueError, TypeError, OSError) as error:
            return self._trouble(error)

    def _database(self) -> AsyncDatabase[Document]:
        if self._client is None:
            raise StoreUnavailableError(f"{self.label} is not open.")
        options: CodecOptions[Document] = CodecOptions(
            tz_aware=True,
            unicode_decode_error_handler="replace",  # one spoiled record must not hide the others
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
        )
        return self._client.get_database(self._name, codec_options=options, read_preference=ReadPreference.PRIMARY)

    async def _answer(self, question: Callable[[AsyncDatabase[Document]], Awaitable[T]]) -> T:
        """Ask, within the time. Raises `StoreUnavailableError` without a trace of pymongo's own error."""
        task = self._tasks.begin("question", self._asked(question), then=_seen)
        await asyncio.wait({task}, timeout=ANSWER_WITHIN + REACH_WITHIN)
        if not task.done() or task.cancelled():
            raise StoreUnavailableError(f"{self.label} does not answer.")
        return task.result()

    async def _asked(self, question: Callable[[AsyncDatabase[Document]], Awaitable[T]]) -> T:
        database = self._database()
        trouble: StoreUnavailableError
        try:
            if not database.client.topology_description.has_writable_server():
                with pymongo.timeout(REACH_WITHIN):  # in ANSWER_WITHIN it would look for one all the time
                    await database.command("ping")
            with pymongo.timeout(ANSWER_WITHIN):
                return await question(database)
        except DuplicateKeyError:
            trouble = _DuplicateError(f"{self.label} has such a document already.")
        except (DocumentTooLarge, InvalidBSON, InvalidDocument, OverflowError, UnicodeError, RecursionError) as error:
            trouble = StoreDamagedError(f"{self.label} can't take or give one document: {self._said(error):.200}.")
        except (PyMongoError, ValueError, TypeError) as error:
            trouble = self._trouble(error)
        raise trouble

    def _trouble(self, error: Exception) -> StoreUnavailableError:
        said = self._said(error)
        code = error.code if isinstance(error, OperationFailure) else None
        return StoreUnavailableError(f"{self.label} can't be used: {said}.", hint=cure(said, code))

    def _said(self, error: Exception) -> str:
        """The error's own words, short and without any secret."""
        text = str(error)
        if isinstance(error, BulkWriteError):
            text = str((error.details or {}).get("writeErrors", text))
        for end in (", full error:", " (configured timeouts", ", Timeout:", ", timeLeft:", ", Topology Description:"):
            text = text.partition(end)[0]
        for secret in self._hidden:
            text = text.replace(secret, _HIDDEN)
        said = text.strip().partition("\n")[0].rstrip(".")
        return said.removeprefix(f"{self._host}: ")


class _DuplicateError(StoreUnavailableError):
    """A unique key is there already."""


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of how it ended, in case nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


def _only_duplicates(error: BulkWriteError) -> bool:
    """Whether everything was written but what is there already."""
    details = error.details or {}
    refused = details.get("writeErrors") or []
    is_acknowledged = not details.get("writeConcernErrors")
    return is_acknowledged and bool(refused) and all(each.get("code") == _DUPLICATE_KEY for each in refused)


def _readable(value: Any) -> Any:
    return str(value) if isinstance(value, ObjectId) else value


def _hosts(uri: str) -> str:
    """The host part of a connection string: what follows the last "@", so that no password can be part of it."""
    rest = uri.partition("://")[2].rpartition("@")[2]
    return rest.partition("?")[0].partition("/")[0] or "an unnamed host"


def _secrets_of(uri: str) -> list[str]:
    """Every spelling of the connection string and its password, longest first."""
    login = uri.partition("://")[2].rpartition("@")[0]
    password = login.partition(":")[2]
    spellings = {uri, login, password, unquote_plus(password)}
    return sorted((each for each in spellings if each), key=len, reverse=True)


def _uri_fault(uri: str) -> str | None:
    """What is wrong with a connection string, without showing it; None when nothing is."""
    scheme = urlsplit(uri).scheme
    if scheme == "mongodb+srv":  # its servers' names are asked for when it is opened
        return None
    try:
        parse_uri(uri)
    except (PyMongoError, ValueError, TypeError) as error:
        said = str(error)
        for secret in _secrets_of(uri):
            said = said.replace(secret, _HIDDEN)
        return said.rstrip(".")
    return None
