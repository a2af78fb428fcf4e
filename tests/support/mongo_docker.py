"""`mongod` from Docker, for `support.mongo`: a replica set of one, so that change streams run, published on a free loopback port.

Only an engine that is there already is asked (DOCKER_HOST, /var/run/docker.sock), and only where the image is at hand or
can be pulled. The container keeps its data in the caller's directory, and the engine removes it when it ends.

Seen to run: no engine, an engine that can't pull, and start, freeze and end of a container of another image. A real
`mongo` image was never at hand where this was written, so neither its `mongod` nor its replica set was ever run.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from support.docker_engine import given_engine
from support.docker_http import DockerApi, DockerApiError
from support.waiting import wait_until

IMAGE = "mongo:7"
LABEL = "org.spreadpilot.gateway-manager.test-mongo"
_ALREADY = 23


class MongoContainer:
    """One running container, with what `support.mongo` asks of a process."""

    def __init__(self, api: DockerApi, port: int, directory: Path) -> None:
        self._api = api
        self._port = port
        made = api.ask("POST", "/containers/create", body=_container(port, directory))
        self._path = f"/containers/{made['Id']}"
        try:
            api.ask("POST", f"{self._path}/start")
        except DockerApiError:
            api.ask("DELETE", self._path)
            raise

    def poll(self) -> int | None:
        """None while it runs."""
        try:
            state: dict[str, Any] = self._api.ask("GET", f"{self._path}/json")["State"]
        except DockerApiError:
            return 0
        return None if state["Running"] else int(state["ExitCode"])

    def wait(self, timeout: float = 30) -> int:
        """Until it is gone. Raises `subprocess.TimeoutExpired`."""
        try:
            wait_until(lambda: self.poll() is not None, within=timeout)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(IMAGE, timeout) from error
        return self.poll() or 0

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """A signal to its `mongod`; freezing and lifting that is the engine's to do."""
        verbs = {signal.SIGSTOP: "pause", signal.SIGCONT: "unpause"}
        self._api.ask("POST", f"{self._path}/{verbs.get(number) or f'kill?signal={number.name}'}")

    def begin_replica_set(self) -> None:
        """Make it its own replica set; it was one already when its directory is not new."""
        address = f"127.0.0.1:{self._port}"
        wait_until(lambda: self.poll() is not None or _initiated(address))


def mongo_container(port: int, directory: Path) -> MongoContainer | None:
    """A container that begins to run; None where there is no engine or no image."""
    api = given_engine()
    if api is None or not _has_image(api.socket):
        return None
    directory.mkdir(parents=True, exist_ok=True)
    container = MongoContainer(api, port, directory)
    container.begin_replica_set()
    return container


@functools.cache
def _has_image(socket: str) -> bool:
    """Whether the image is at hand, or was pulled; asked once in a run."""
    api = DockerApi(socket)
    name, _, tag = IMAGE.partition(":")
    for attempt in ("at hand", "pulled"):
        try:
            if attempt == "pulled":
                api.ask("POST", "/images/create", fromImage=name, tag=tag)
            api.ask("GET", f"/images/{IMAGE}/json")
        except (DockerApiError, OSError, HTTPException):
            continue
        return True
    return False


def _container(port: int, directory: Path) -> dict[str, Any]:
    inside = f"{port}/tcp"
    return {
        "Image": IMAGE,
        "Cmd": ["mongod", "--dbpath", "/data/db", "--port", str(port), "--bind_ip_all", "--replSet", "tests"],
        "User": f"{os.getuid()}:{os.getgid()}",
        "Labels": {LABEL: str(os.getpid())},
        "ExposedPorts": {inside: {}},
        "HostConfig": {
            "AutoRemove": True,
            "Binds": [f"{directory}:/data/db"],
            "PortBindings": {inside: [{"HostIp": "127.0.0.1", "HostPort": str(port)}]},
        },
    }


def _initiated(address: str) -> bool:
    members = {"_id": "tests", "members": [{"_id": 0, "host": address}]}
    with pymongo.MongoClient[dict[str, Any]](
        f"mongodb://{address}/", directConnection=True, serverSelectionTimeoutMS=500
    ) as client:
        try:
            client.admin.command("replSetInitiate", members)
        except OperationFailure as error:
            return error.code == _ALREADY
        except PyMongoError:
            return False
    return True
