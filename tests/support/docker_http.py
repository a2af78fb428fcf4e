"""The engine as an outsider reaches it: plain requests over its socket, without the code under test.

Tests use it to do what an operator or a fault does (`docker kill`, `docker rm -f`), to look at what was made, and to clean
up. It blocks, for milliseconds.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import tarfile
from typing import Any
from urllib.parse import urlencode

from support.waiting import wait_until

LONG = 120.0
"""Seconds: loading an image on a busy machine takes some."""
_REMOVAL_SECONDS = 60.0


class DockerApiError(Exception):
    """The engine answered with an error status."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=LONG)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LONG)
        self.sock.connect(self._path)


class DockerApi:
    """One engine, by its socket."""

    def __init__(self, socket_path: str) -> None:
        self.socket = socket_path

    def ask(self, method: str, path: str, /, *, body: Any = None, **parameters: Any) -> Any:
        """One request; JSON is parsed. Bytes are sent as they are, anything else as JSON."""
        connection = _Connection(self.socket)
        data, kind = (body, "application/x-tar") if isinstance(body, bytes) else (json.dumps(body), "application/json")
        query = f"?{urlencode(parameters)}" if parameters else ""
        try:
            connection.request(
                method, path + query, body=None if body is None else data, headers={"Content-Type": kind}
            )
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status >= 400:
            raise DockerApiError(response.status, text.strip())
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return json.loads(text) if is_json and text.count("\n") <= 1 and text else text

    def is_there(self) -> bool:
        """Whether an engine answers."""
        try:
            return bool(self.ask("GET", "/version"))
        except (OSError, http.client.HTTPException, DockerApiError):
            return False

    def containers(self, *labels: str) -> list[dict[str, Any]]:
        """All containers, in any state, with these labels."""
        found: list[dict[str, Any]] = self.ask("GET", "/containers/json", all=1, filters=json.dumps({"label": labels}))
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        """Everything about one container."""
        found: dict[str, Any] = self.ask("GET", f"/containers/{container}/json")
        return found

    def run(self, config: dict[str, Any], *, name: str | None = None) -> str:
        """Create and start a container; gives its id."""
        parameters = {"name": name} if name else {}
        container: str = self.ask("POST", "/containers/create", body=config, **parameters)["Id"]
        self.ask("POST", f"/containers/{container}/start")
        return container

    def execute(self, container: str, *command: str) -> str:
        """What a command prints inside (both streams)."""
        order = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Tty": True}
        work = self.ask("POST", f"/containers/{container}/exec", body=order)["Id"]
        said: str = self.ask("POST", f"/exec/{work}/start", body={"Detach": False, "Tty": True})
        return said.replace("\r\n", "\n")

    def put_file(self, container: str, path: str, content: bytes) -> None:
        """Write a file inside, readable by all."""
        directory, _, name = path.rpartition("/")
        buffer, entry = io.BytesIO(), tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(entry, io.BytesIO(content))
        self.ask("PUT", f"/containers/{container}/archive", body=buffer.getvalue(), path=directory)

    def logs(self, container: str) -> str:
        """Everything that it printed, frames and all."""
        said: str = self.ask("GET", f"/containers/{container}/logs", stdout=1, stderr=1)
        return said

    def remove(self, container: str) -> None:
        """Remove it by force, and wait until it is gone, also when somebody else is removing it; gone already is fine."""
        wait_until(lambda: self._removed(container), within=_REMOVAL_SECONDS)

    def _removed(self, container: str) -> bool:
        try:
            self.ask("DELETE", f"/containers/{container}", force=1, v=1)
        except DockerApiError as error:
            if error.status not in {404, 409}:
                raise
            return error.status == 404
        return True

    def remove_everything_of(self, owner_label: str) -> None:
        """Containers, volumes and networks that bear this label ("key=value")."""
        filters = json.dumps({"label": [owner_label]})
        for container in self.containers(owner_label):
            self.remove(container["Id"])
        for volume in self.ask("GET", "/volumes", filters=filters)["Volumes"] or ():
            self.ask("DELETE", f"/volumes/{volume['Name']}", force=1)
        for network in self.ask("GET", "/networks", filters=filters):
            self._remove_network(network["Id"])

    def _remove_network(self, network: str) -> None:
        """Also when the engine keeps endpoints of containers that are gone, as it may for a moment after fifty ends at once."""
        wait_until(lambda: self._network_removed(network))

    def _network_removed(self, network: str) -> bool:
        try:
            self.ask("DELETE", f"/networks/{network}")
        except DockerApiError as error:
            if error.status != 403:
                raise
            for endpoint in self.ask("GET", f"/networks/{network}")["Containers"].values():
                body = {"Container": endpoint["Name"], "Force": True}
                self.ask("POST", f"/networks/{network}/disconnect", body=body)
            return False
        return True
