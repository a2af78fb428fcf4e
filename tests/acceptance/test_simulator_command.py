"""`python -m spreadpilot_core.ibkr.simulator` as a user runs it: a process of its own, its streams, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator

import pytest
from ib_async import IB

DEADLINE = 30.0
COMMAND = (sys.executable, "-m", "spreadpilot_core.ibkr.simulator")


@contextlib.asynccontextmanager
async def running(*arguments: str, stdin: int = PIPE) -> AsyncIterator[Process]:
    """The command, killed at the end when it still runs."""
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdin=stdin, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(stream: asyncio.StreamReader | None) -> str:
    """The next line of a stream."""
    assert stream is not None
    async with asyncio.timeout(DEADLINE):
        return (await stream.readline()).decode().strip()


async def address_of(process: Process) -> tuple[str, int]:
    """Where the process says it listens."""
    line = await line_of(process.stdout)
    assert line.startswith("Simulated IB Gateway (")
    host, port = line.removesuffix(".").rsplit(" ", 1)[1].split(":")
    return host, int(port)


async def end_of(process: Process) -> tuple[int, str]:
    """The exit code and what was left on standard error."""
    async with asyncio.timeout(DEADLINE):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def connected_accounts(host: str, port: int) -> list[str]:
    """The accounts that a client sees."""
    ib = IB()
    await ib.connectAsync(host, port, clientId=7, timeout=10)
    try:
        return ib.managedAccounts()
    finally:
        ib.disconnect()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    """It says where it listens, serves the accounts it was given, and ends with 0 and silence at a signal."""
    async with running("--port", "0", "--account", "DU1234567", "--account", "DU7654321", stdin=DEVNULL) as process:
        host, port = await address_of(process)
        assert host == "127.0.0.1"
        assert await connected_accounts(host, port) == ["DU1234567", "DU7654321"]
        process.send_signal(number)
        assert await end_of(process) == (0, "")


async def test_live_with_the_other_controllers_log() -> None:
    """A live login is approved by itself; the log goes to standard error as that controller writes it."""
    async with running("--port", "0", "--live", "--controller", "ibc", "--log", stdin=DEVNULL) as process:
        await address_of(process)
        process.terminate()
        code, log = await end_of(process)
    assert code == 0
    assert "IBC: Second Factor Authentication initiated" in log
    assert "Forking :::4001 onto 0.0.0.0:4003" in log


async def test_faults_from_standard_input() -> None:
    """A line makes a fault happen, a wrong one is answered with what is known, and the end of the input ends nothing."""
    async with running("--port", "0") as process:
        host, port = await address_of(process)
        assert process.stdin is not None
        process.stdin.write(b'explode\nnotice {"code": "x"}\n\ndrop_clients\nmute handshake\n')
        assert (await line_of(process.stderr)).startswith("Not done: there is no fault 'explode' here; known are")
        assert (await line_of(process.stderr)).startswith("Not done: code of fault notice is 'x', but must be a number")
        await _until_answered(host, port, answered=False)
        process.stdin.write(b"help\nunmute\n")
        process.stdin.close()
        assert (await line_of(process.stderr)).startswith("slow_start: ")
        await _until_answered(host, port, answered=True)
        process.terminate()
        assert (await end_of(process))[0] == 0


async def _until_answered(host: str, port: int, *, answered: bool) -> None:
    async with asyncio.timeout(DEADLINE):
        while await _is_answered(host, port) is not answered:  # a port says nothing by itself
            await asyncio.sleep(0.05)


async def _is_answered(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"API\0\0\0\0\tv100..178")
        async with asyncio.timeout(0.5):
            return bool(await reader.read(10))
    except TimeoutError:
        return False
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--fault", "wrong_password"), 77),
        (("--fault", "log_off@0.1"), 0),
        (("--fault", 'kill={"exit_code": 9}@0.1'), 9),
        (("--controller", "ibc", "--fault", "crash=134"), 134),
    ],
)
async def test_gateway_that_ends_by_itself(arguments: tuple[str, ...], code: int) -> None:
    """The container's exit code is the command's, with a sentence."""
    async with running("--port", "0", *arguments, stdin=DEVNULL) as process:
        assert await end_of(process) == (code, f"The gateway has ended with exit code {code}.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the following arguments are required: --port"),
        (("--port", "x"), "argument --port: invalid int value: 'x'"),
        (("--port", "70000"), "port is 70000, but must be 0 to 65535"),
        (("--port", "0", "--account", "DU,1"), "account 'DU,1' is no account number"),
        (("--port", "0", "--server-version", "12"), "12"),
        (("--port", "0", "--fault", "explode"), "there is no fault 'explode' here"),
        (("--port", "0", "--fault", "slow_start=soon"), "seconds of fault slow_start is 'soon', but must be a number"),
        (("--port", "0", "--controller", "tws"), "argument --controller: invalid choice: 'tws'"),
    ],
)
async def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    """Wrong arguments: one line that says what is wrong, exit code 2."""
    async with running(*arguments, stdin=DEVNULL) as process:
        code, errors = await end_of(process)
    assert code == 2
    assert words in errors
    assert errors.count("\n") == 1


async def test_taken_port() -> None:
    """A port in use: one line, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with running("--port", str(port), stdin=DEVNULL) as process:
            code, errors = await end_of(process)
    assert code == 1
    assert errors == f"simulator: port {port} of 127.0.0.1 can't be used: Address already in use.\n"


async def test_frozen_gateway_ends_at_a_signal_all_the_same() -> None:
    """A signal thaws it first: the command never hangs."""
    async with running("--port", "0", "--fault", "freeze@0.2", stdin=DEVNULL) as process:
        await address_of(process)
        await asyncio.sleep(0.4)
        process.terminate()
        assert (await end_of(process))[0] == 0
