"""A container registry on loopback with one small image, which may want a login; it counts what is asked of it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_TLS = b"\x16"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves `NAME:TAG` for any tag."""

    def __init__(self, config: dict[str, Any], *, login: tuple[str, str] | None = None, delay: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        """How often each kind of thing was given: "manifest", "blob", "denied"."""
        self.port = 0
        self._login = base64.b64encode(":".join(login).encode()).decode() if login else None
        self._delay = delay
        layer = _layer()
        whole = {"architecture": "amd64", "os": "linux", "config": config}
        whole |= {"rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer))]}, "history": [{}]}
        blob = json.dumps(whole).encode()
        self._blobs = {_digest(blob): blob, _digest(layer): layer}
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST}
        manifest |= {"config": {"mediaType": _CONFIG, "size": len(blob), "digest": _digest(blob)}}
        manifest |= {"layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)}]}
        self._manifest = json.dumps(manifest).encode()

    def image(self, name: str) -> str:
        """How an engine calls this registry's image."""
        return f"127.0.0.1:{self.port}/{name}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Registry]:
        """Serve for as long as the block lasts."""
        serving: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                await self._serve(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == _TLS:  # engines try that first, and go on without when they are told so
            writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
            await writer.drain()
            return
        while (request := first + await reader.readline()).count(b" ") == 2:
            first = b""
            method, path, _ = request.decode().split()
            authorization = ""
            while (header := await reader.readline()) not in {b"\r\n", b""}:
                if header.lower().startswith(b"authorization: basic "):
                    authorization = header.decode().split()[2]
            status, kind, body = self._answer(path, authorization)
            if "blobs" in path:
                await asyncio.sleep(self._delay)
            head = [f"HTTP/1.1 {status} x", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
            head += ["Docker-Distribution-Api-Version: registry/2.0", f"Docker-Content-Digest: {_digest(body)}"]
            if status == 401:
                head.append('WWW-Authenticate: Basic realm="test"')
            writer.write("\r\n".join([*head, "", ""]).encode() + (b"" if method == "HEAD" else body))
            await writer.drain()

    def _answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        if self._login is not None and authorization != self._login:
            self.asked["denied"] += 1
            return 401, "application/json", _error("UNAUTHORIZED", "authentication required")
        place, _, last = path.rpartition("/")
        if place.endswith("/manifests") and "missing" not in path:
            self.asked["manifest"] += 1
            return 200, _MANIFEST, self._manifest
        if place.endswith("/blobs") and last in self._blobs:
            self.asked["blob"] += 1
            return 200, "application/octet-stream", self._blobs[last]
        if path == "/v2/":
            return 200, "application/json", b"{}"
        return 404, "application/json", _error("MANIFEST_UNKNOWN", "manifest unknown")


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
