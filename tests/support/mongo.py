"""A real MongoDB-protocol server on a free loopback port: yours, `mongod`, `mongo` from Docker, or FerretDB.

GATEWAY_MANAGER_TEST_MONGO_URI   a running server, used as it is (a test that kills its server starts another)
mongod on the PATH               started by each test module that needs one
mongo from Docker                the same, where an engine answers and has the image or can pull it (see `mongo_docker`)
FerretDB 1.24.2                  the same, built once of tests/real_parts/ferretdb (see `go_programs`)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pymongo
import pytest
from pymongo.errors import PyMongoError

from support.go_programs import BUILD_TIME, GoProgram, may_build
from support.mongo_docker import MongoContainer, mongo_container
from support.ports import free_ports
from support.waiting import wait_until

__all__ = ["BUILD_TIME", "MongoServer", "answers", "ferretdb_program", "may_build", "mongo_database", "mongo_server"]


class MongoServer:
    """One server of our own, with its data in `directory`; it may be killed and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_ports(1)  # none that an outgoing connection may get while the server is away
        self.uri = f"mongodb://127.0.0.1:{self.port}/"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | MongoContainer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = _mongod(self.port, self._directory)
        container = None if command else mongo_container(self.port, self._directory)
        self._process = container or self._begin(command or _ferretdb(self.port, self._directory))
        wait_until(self._answers)

    def _begin(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory.parent / f"{self._directory.name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """End it, tidily at first."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT freeze it and lift that."""
        assert self._process is not None
        self._process.send_signal(number)  # none is sent to a process that has ended
        if number == signal.SIGSTOP:  # which a busy machine carries out later
            wait_until(self._is_frozen)

    def _is_frozen(self) -> bool:
        """Whether none of its threads runs any more."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task")
        try:
            return all(each.read_text().rpartition(")")[2].split()[0] in "tT" for each in tasks.glob("*/stat"))
        except OSError:  # one of them has just ended
            return False

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended at once; its log lies beside its directory"
        return answers(self.uri)


def answers(uri: str) -> bool:
    """Whether a server answers there."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(uri, serverSelectionTimeoutMS=500)
    try:
        client.admin.command("ping")
    except PyMongoError:
        return False
    finally:
        client.close()
    return True


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a server that stays up."""
    given = os.environ.get("GATEWAY_MANAGER_TEST_MONGO_URI")
    if given:
        yield given
        return
    with MongoServer(tmp_path_factory.mktemp("mongo") / "data") as server:
        yield server.uri


@pytest.fixture
def mongo_database(mongo_server: str) -> Iterator[str]:
    """The name of an empty database on it, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    with pymongo.MongoClient(mongo_server) as client:
        client.drop_database(name)


def _mongod(port: int, directory: Path) -> list[str] | None:
    program = shutil.which("mongod")
    if program is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    return [program, "--dbpath", str(directory), "--port", str(port), "--bind_ip", "127.0.0.1"]


def _ferretdb(port: int, directory: Path) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    return [str(ferretdb_program()), f"127.0.0.1:{port}", str(directory)]


def ferretdb_program() -> Path:
    """FerretDB, built when the cache lacks it; where it can't be, the test is skipped, and fails in CI."""
    return GoProgram("ferretdb", "a MongoDB server").needed()
