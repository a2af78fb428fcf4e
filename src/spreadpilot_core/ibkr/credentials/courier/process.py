"""The courier: the short-lived child process that alone ever holds a password.

Python can't wipe a string from memory, so the process that saw one must end. The manager starts it with
`sys.executable -m spreadpilot_core.ibkr.credentials.courier.process` (no `multiprocessing`, since a user's script may have no
`__main__` guard) and speaks JSON lines with its standard streams; `broker` is the other side. It serves a burst of
followers, since starting Python costs time, and takes the keys to the secrets itself, from environment and files.

    first line   settings, without secrets: state_dir, key_file, passphrase_file, vault (its address), mount, remember, who
    asked        {"id", "do": "read", "ref", "controller", "follower"}   {"id", "do": "deliver", "ticket", "delivery_target"}
                 {"id", "do": "version", "ref", "follower"}           {"id", "do": "forget", "ticket"}
    answered     {"id", …} or {"id", "error": {"kind", "what", "hint"}}, in whatever order they are ready; with "spans", what
                 it took (see `spans`), where "traced" was asked
    also said    {"said": sentence} for the log; {"leaving": true} as the last line: what was asked later was not done

It ends at the end of input, and within a second of its last delivery when nothing else is pending. It writes no core
dump, other processes of its user can't look into it, and what it prints when it fails names places in the code and no
values.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.courier.held_secrets import Answer, HeldSecrets
from spreadpilot_core.ibkr.credentials.sources.chosen import open_source
from spreadpilot_core.ibkr.credentials.spans import recording, timed
from spreadpilot_core.ibkr.errors import (
    AuditError,
    CredentialsRefusedError,
    CredentialStoreError,
    DeliveryError,
    DeliveryExpiredError,
    GatewayManagerError,
)

LINGER = 0.5
"""Seconds without work after which a courier ends that has read a secret."""
LINGER_UNTOUCHED = 10.0
"""The same for one that only told versions, so that a fleet's looks at its versions share a process."""
_TICK = 0.1
_PARALLEL = 32
"""Secrets read at once, and as many deliveries beside them."""
_PR_SET_DUMPABLE = 4
LONGEST_LINE = 2**18
"""Bytes of one line, either way; the longest that is meant has some thousand."""
_LONGEST_SENTENCE = 1000

_KINDS: tuple[tuple[type[GatewayManagerError], str], ...] = (
    (DeliveryExpiredError, "expired"),
    (DeliveryError, "delivery"),
    (CredentialStoreError, "store"),
    (CredentialsRefusedError, "refused"),
    (AuditError, "audit"),
)


class Courier:
    """Reads what is asked, lets threads do it, answers, and knows when to leave."""

    def __init__(self, held_secrets: HeldSecrets, answer: Callable[[Answer], None], *, linger: float = LINGER) -> None:
        self._held_secrets = held_secrets
        self._answer = answer
        self._linger = linger
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_PARALLEL, "read")
        self._deliverers = ThreadPoolExecutor(_PARALLEL, "deliver")
        self._lock = threading.Lock()
        self._busy = 0
        self._has_read = False
        self._last_work = time.monotonic()

    def serve(self, lines: BinaryIO) -> bool:
        """Work until it is time to leave, or until input ends; whether the manager is still there."""
        threading.Thread(target=self._listen, args=(lines,), name="listen", daemon=True).start()
        while True:
            try:
                line = self._inbox.get(timeout=_TICK)
            except queue.Empty:
                if self._may_leave():
                    return True
                continue
            if not line:
                return False
            if (request := _request(line)) is None:
                self._answer({"said": "The courier was asked something that it can't understand."})
            else:
                self._begin(request)

    def _listen(self, lines: BinaryIO) -> None:
        for line in whole_lines(lines):
            self._inbox.put(line)
        self._inbox.put(b"")

    def _begin(self, request: Mapping[str, Any]) -> None:
        with self._lock:
            self._busy += 1
        pool = self._deliverers if request["do"] in {"deliver", "forget"} else self._readers
        pool.submit(self._work, request)

    def _work(self, request: Mapping[str, Any]) -> None:
        with recording() as spans:
            answer = self._answered(request)
        self._answer({"id": request["id"], **answer, **({"spans": spans} if request.get("traced") else {})})
        with self._lock:
            self._busy -= 1
            if request["do"] != "version":
                self._last_work = time.monotonic()

    def _answered(self, request: Mapping[str, Any]) -> Answer:
        try:
            with timed(f"courier {request['do']}"):
                return self._do(request)
        except GatewayManagerError as error:
            return {"error": {"kind": _kind(error), "what": _cut(error.what), "hint": _cut(error.hint)}}
        except BaseException as error:  # noqa: BLE001  # a task's boundary: the manager must not wait for ever
            return {"error": {"kind": "failed", "what": f"The courier failed: {_places(error)}.", "hint": None}}

    def _do(self, request: Mapping[str, Any]) -> Answer:
        match request["do"]:
            case "read":
                self._has_read = True
                return self._held_secrets.read(request["ref"], request["controller"], request["follower"])
            case "deliver":
                return self._held_secrets.deliver(request["ticket"], request["delivery_target"])
            case "forget":
                return self._held_secrets.forget(request["ticket"])
            case "version":
                if not self._has_read:
                    self._last_work = time.monotonic()
                answer = self._held_secrets.version(request["ref"], request.get("follower"))
                self._has_read = self._has_read or answer["needed_reading"]
                return answer
            case other:
                msg = f"The courier does not know {other!r}."
                raise CredentialsRefusedError(msg)

    def _may_leave(self) -> bool:
        with self._lock:
            idle = time.monotonic() - self._last_work
            linger = self._linger if self._has_read else LINGER_UNTOUCHED
            return not self._busy and idle >= linger and self._held_secrets.is_empty


class LineWriter:
    """The way back to the manager; a line is written whole. When nobody listens any more the process ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, sentence: str) -> None:
        """Something for the manager's log."""
        self.answer({"said": sentence})

    def answer(self, line: Answer) -> None:
        """Write one line; in place of one that is too long its question is answered with that."""
        raw = json.dumps(line).encode()
        if len(raw) >= LONGEST_LINE:
            what = f"The courier's answer has {len(raw)} bytes, which is too long."
            error = {"id": line.get("id"), "error": {"kind": "failed", "what": what, "hint": None}}
            raw = json.dumps(error if "id" in line else {"said": what}).encode()
        try:
            with self._lock:
                self._stream.write(raw + b"\n")
                self._stream.flush()
        except OSError:
            os._exit(0)


def whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream; one that is too long comes as its beginning, which nobody can understand."""
    first_piece = b""
    while piece := stream.readline(LONGEST_LINE):
        first_piece = first_piece or piece
        if piece.endswith(b"\n"):
            yield first_piece
            first_piece = b""
    if first_piece:
        yield first_piece


def _request(line: bytes) -> Mapping[str, Any] | None:
    """What is asked in this line; None when it is no question."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(request, dict) and isinstance(request.get("id"), int) and isinstance(request.get("do"), str)
    return request if is_one else None


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST_SENTENCE else f"{text[: _LONGEST_SENTENCE - 1]}…"


def harden() -> None:
    """Leave no trace: no core dump, no look from other processes of this user, no value in a traceback, no Ctrl-C."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sys.excepthook = _tell
    threading.excepthook = lambda failed: _tell(failed.exc_type, failed.exc_value, failed.exc_traceback)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)


def _tell(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    sys.stderr.write(f"courier: {_places(error) if error else kind.__name__}\n")
    sys.stderr.flush()


def _places(error: BaseException) -> str:
    """Type and places of an error, without its text: a codec's or a library's own text may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{type(error).__name__} at {' < '.join(f'{Path(at.filename).name}:{at.lineno}' for at in reversed(frames))}"


def _kind(error: GatewayManagerError) -> str:
    return next((kind for known, kind in _KINDS if isinstance(error, known)), "unavailable")


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the manager alone: what a library prints goes to standard error instead."""
    asked, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return os.fdopen(asked, "rb"), os.fdopen(answers, "wb")


def main() -> None:
    """Run the courier on the standard streams."""
    harden()
    asked, answers = _own_streams()
    first = asked.readline()
    if not first:
        os._exit(0)
    settings = json.loads(first)
    writer = LineWriter(answers)
    trail = AuditTrail(Path(settings["state_dir"]))
    source = open_source(settings, trail=trail, say=writer.say)
    held_secrets = HeldSecrets(source, trail, who=settings["who"])
    if Courier(held_secrets, writer.answer).serve(asked):
        writer.answer({"leaving": True})
    source.close()
    os._exit(0)


if __name__ == "__main__":
    main()
