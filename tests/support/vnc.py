"""VNC servers: one that writes down what reaches it, and a real one (TigerVNC)."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from spreadpilot_core.ibkr.model.details import ScreenAddress
from spreadpilot_core.ibkr.screens.rfb import VERSION, answer_to
from support.ports import free_ports
from support.real_parts import need
from support.waiting import wait_until

INSTALL = "apt-get install tigervnc-standalone-server tigervnc-tools x11-xserver-utils"
PASSWORD = "scr33n-p"
CHALLENGE = bytes(range(16, 32))
SERVER_INIT = b"\x02\x80\x01\xe0" + bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]) + b"\0\0\0\4test"
_OF_FILES = bytes([0xE8, 0x4A, 0xD6, 0x60, 0xC4, 0x72, 0x1A, 0xE0])
"""The key with which VNC servers keep passwords in files; everybody's the same."""


class WritingServer:
    """Lets in whoever knows the password, and keeps what they send."""

    def __init__(self) -> None:
        self.heard = b""
        self.let_in = 0
        self.open = 0

    @asynccontextmanager
    async def served(self, password: str | None = PASSWORD) -> AsyncIterator[ScreenAddress]:
        """Where it is."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield ScreenAddress("127.0.0.1", server.sockets[0].getsockname()[1], password)
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            writer.write(VERSION)
            await reader.readexactly(len(VERSION))
            writer.write(b"\x01\x02")
            await reader.readexactly(1)
            writer.write(CHALLENGE)
            if await reader.readexactly(16) != answer_to(CHALLENGE, PASSWORD):
                writer.write(b"\0\0\0\1\0\0\0\5wrong")
                return
            writer.write(bytes(4))
            await reader.readexactly(1)
            writer.write(SERVER_INIT)
            self.let_in += 1
            while data := await reader.read(4096):
                self.heard += data
        except asyncio.IncompleteReadError:
            return
        finally:
            self.open -= 1
            writer.close()


@contextmanager
def tigervnc(width: int = 640, height: int = 480, colour: tuple[int, ...] = (0, 0, 0)) -> Iterator[ScreenAddress]:
    """A real one with a screen of this size, all of one colour; where it is not installed, the test is skipped, and fails in CI."""
    program = shutil.which("Xvnc") or need("TigerVNC", INSTALL)
    painter = shutil.which("xsetroot") or need("xsetroot", INSTALL)
    port = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="vnc-") as place:
        file = Path(place) / "password"
        encryptor = Cipher(TripleDES(_OF_FILES * 3), modes.ECB()).encryptor()  # noqa: S305  # as VNC has it
        file.write_bytes(encryptor.update(PASSWORD.encode().ljust(8, b"\0")))
        log = Path(place) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *(program, f":{port}", "-rfbport", str(port), "-localhost", "-SecurityTypes", "VncAuth"),
                    *("-PasswordFile", file, "-geometry", f"{width}x{height}", "-depth", "24", "-nolisten", "unix"),
                ],
                stdout=stream,
                stderr=stream,
            )
        try:
            wait_until(lambda: b"Listening for VNC connections" in log.read_bytes() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            subprocess.run([painter, "-display", f":{port}", "-solid", f"#{bytes(colour).hex()}"], check=True)
            yield ScreenAddress("127.0.0.1", port, PASSWORD)
        finally:
            process.terminate()
            process.wait()
