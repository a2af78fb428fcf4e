"""Looks for a secret in all the memory a process has, in every form that a copy of it may take."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_CHUNK = 2**24


def forms(secret: str) -> dict[str, bytes]:
    """Byte strings that show `secret`, or enough of it: encodings, escapes, hexadecimal, base64 at each alignment."""
    found = {
        "UTF-8": secret.encode(),
        "UTF-16, little endian": secret.encode("utf-16-le"),
        "UTF-16, big endian": secret.encode("utf-16-be"),
        "UTF-32": secret.encode("utf-32-le"),
        "JSON": json.dumps(secret).strip('"').encode(),
        "properties": json.dumps(secret).strip('"').replace("\\u", "\\U").upper().replace("\\U", "\\u").encode(),
        "URL": urllib.parse.quote(secret, safe="").encode(),
        "hexadecimal": secret.encode().hex().encode(),
    }
    for name, content in (("UTF-8", secret.encode()), ("UTF-16", secret.encode("utf-16-le"))):
        for shift in range(3):
            found[f"base64 of {name}, {shift}"] = _base64_inside(content, shift)
    return {name: content for name, content in found.items() if len(content) >= 8}


def search(pid: int, needles: Mapping[str, bytes]) -> set[str]:
    """The names of the needles that are in some readable range of the process."""
    longest = max(len(needle) for needle in needles.values())
    found: set[str] = set()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _ranges(pid):
            kept = b""
            for at in range(start, end, _CHUNK):
                content = kept + _read(memory.fileno(), at, min(_CHUNK, end - at))
                touched = b"\0\0\0%b\0\0\0" % content.strip(b"\0")  # most of a thread's stack never was
                found |= {name for name, needle in needles.items() if needle in touched}
                kept = content[-longest:]
    return found


def search_all(pid: int, needles: Mapping[str, bytes], *, but: str = "") -> set[str]:
    """The same of `pid` and of its living children, without those that run a program with the words `but` in its arguments."""
    found = search(pid, needles)
    for child in {*children(pid)} - {*(children(pid, running=but) if but else ())}:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile, and its memory with it
            found |= search(child, needles)
    return found


def children(pid: int, *, running: str = "") -> list[int]:
    """Every process below `pid` that lives, or those that run a program with these words in its arguments."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _text(task).split()):
            below += [child] if running in _text(Path(f"/proc/{child}/cmdline")) else []
            below += children(child, running=running)
    return below


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _base64_inside(content: bytes, shift: int) -> bytes:
    """What base64 makes of `content` when `shift` unknown bytes stand before it, without what the unknown ones touch."""
    encoded = base64.b64encode(b"\0" * shift + content)
    first = -(-shift * 8 // 6) if shift else 0
    whole = (shift + len(content)) * 8 // 6
    return encoded[first:whole]


def _ranges(pid: int) -> list[tuple[int, int]]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights.startswith("r") and not line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            start, end = (int(part, 16) for part in span.split("-"))
            found.append((start, end))
    return found


def _read(descriptor: int, at: int, length: int) -> bytes:
    try:
        return os.pread(descriptor, length, at)
    except OSError:
        return b""  # a range of a device, or one that went meanwhile
