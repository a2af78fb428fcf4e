"""A process that has the simulated gateways of a directory close all their API sockets within a few milliseconds.

It waits for a line on standard input, asks for all of it on one connection to the gateways' host, and prints when it
began and when the host had done it (monotonic seconds, the same clock in every process).

    python -m benchmarks.support.cut_off DIRECTORY OWNER FOLLOWER...
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from spreadpilot_core.ibkr.simulator.engine.files import read_address


def main(directory: Path, owner: str, followers: Sequence[str]) -> None:
    """Connect, wait for the word, cut."""
    address = read_address(directory)
    assert address is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address.socket)
        answers = connection.makefile("rb")
        connection.sendall(_line(op="hello", owner=owner, manager="benchmark"))
        answers.readline()
        sys.stdin.readline()
        begin = time.monotonic()
        cuts = [_line(op="inject", follower_id=each, fault="drop_clients", arguments={}) for each in followers]
        connection.sendall(b"".join(cuts))
        refused = [answer for _ in cuts if "ok" not in (answer := json.loads(answers.readline()))]
        assert not refused, refused
        print(json.dumps([begin, time.monotonic()]))


def _line(**request: object) -> bytes:
    return json.dumps(request).encode() + b"\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
