from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.broker import COMMAND, CourierBroker, courier_environment, first_line
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import (
    AuditError,
    CredentialsRefusedError,
    CredentialStoreError,
    CredentialsUnavailableError,
    DeliveryError,
    DeliveryExpiredError,
    DeliveryUnsureError,
)
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Login
from spreadpilot_core.ibkr.settings import Settings
from support.couriers import couriers_in, is_alive, pids
from support.stdin_delivery import Doorway
from support.waiting import until

FLEET = 20


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    store = EncryptedCredentials.at(tmp_path)
    for number in range(FLEET):
        store.set(f"ibkr/f{number}", f"user{number}", f"pass\\wörd {number}")
    return tmp_path


@pytest.fixture
async def couriers(state_dir: Path) -> AsyncIterator[CourierBroker]:
    async with couriers_in(state_dir) as couriers:
        yield couriers


async def read(couriers: CourierBroker, number: int = 0) -> Login:
    return await couriers.read(f"ibkr/f{number}", "ibc", follower_id=FollowerId(f"f{number}"))


async def test_one_process_serves_a_burst_and_goes(couriers: CourierBroker, state_dir: Path, tmp_path: Path) -> None:
    """Twenty reads and deliveries at once take one courier, every password arrives, and it ends soon after the last."""
    with Doorway(tmp_path / "s", "docker") as doorway:
        logins = await asyncio.gather(*(read(couriers, number) for number in range(FLEET)))
        [pid] = pids(couriers)
        await asyncio.gather(
            *(couriers.deliver(login.ticket, doorway.target(f"c{number}")) for number, login in enumerate(logins))
        )
        delivered = time.monotonic()
        for number in range(FLEET):
            assert doorway.wait_for(f"c{number}") == f"pass\\\\w\\u00F6rd {number}".encode()
    assert [login.user for login in logins] == [f"user{number}" for number in range(FLEET)]
    assert {login.source for login in logins} == {"stored"}
    await until(lambda: not is_alive(pid))
    assert time.monotonic() - delivered < 10
    verdict = await asyncio.to_thread(AuditTrail(state_dir).verify)
    assert (verdict.findings, verdict.lines) == ((), 2 * FLEET)


async def test_the_next_burst_takes_a_new_process(couriers: CourierBroker, tmp_path: Path) -> None:
    """A courier that has left is replaced by the next question, and the old one's tickets are worth nothing."""
    with Doorway(tmp_path / "s", "simulated") as doorway:
        first = await read(couriers)
        await couriers.deliver(first.ticket, doorway.target("c1"))
        await until(lambda: not pids(couriers))
        second = await read(couriers)
        with pytest.raises(DeliveryExpiredError):
            await couriers.deliver(first.ticket, doorway.target("c2"))
        await couriers.deliver(second.ticket, doorway.target("c2"))


async def test_a_courier_that_is_expected_reads_what_is_asked_next(couriers: CourierBroker) -> None:
    """It starts while nobody waits for it; said again nothing more starts."""
    couriers.expect()
    couriers.expect()
    await until(lambda: len(pids(couriers)) == 1)
    [pid] = pids(couriers)
    await read(couriers)
    couriers.expect()
    assert pids(couriers) == [pid]


async def test_a_closed_broker_expects_nothing(couriers: CourierBroker) -> None:
    """No process is left over."""
    couriers.expect()
    await couriers.close()
    couriers.expect()
    await asyncio.sleep(0.1)
    assert pids(couriers) == []


async def test_versions_are_told_without_reading(couriers: CourierBroker, state_dir: Path) -> None:
    """The version is the one that a read gives; asking for it needs no key and is no read in the trail."""
    (state_dir / "credentials.key").rename(state_dir / "elsewhere")
    version = await couriers.version("secret/data/ibkr/f3")
    assert (await asyncio.to_thread(AuditTrail(state_dir).verify)).lines == 0
    (state_dir / "elsewhere").rename(state_dir / "credentials.key")
    assert (await read(couriers, 3)).version == version


async def test_each_error_keeps_its_kind(couriers: CourierBroker, state_dir: Path, tmp_path: Path) -> None:
    """Refused, store trouble, audit trouble and a failed delivery reach the manager as what they are, hints included."""
    with pytest.raises(CredentialsRefusedError, match=r"no stored credentials for nobody.*credentials set nobody"):
        await couriers.read("nobody", "ibc", follower_id=FollowerId("f"))
    with pytest.raises(CredentialsRefusedError, match="no reference"):
        await couriers.version("../nobody")
    login = await read(couriers)
    refusing = Doorway(tmp_path / "s", "docker", refuse="no such container")
    with refusing as doorway, pytest.raises(DeliveryError, match=r"404.*no such container"):
        await couriers.deliver(login.ticket, doorway.target("c1"))
    (state_dir / "credentials.key").write_text("not a key")
    with pytest.raises(CredentialStoreError, match="holds no key"):
        await read(couriers)
    (state_dir / "audit.jsonl").unlink()
    (state_dir / "audit.jsonl").mkdir()
    with pytest.raises(AuditError, match="No secret is read until it can be"):
        await read(couriers)


async def test_a_delivery_that_cannot_be_audited_failed(
    couriers: CourierBroker, state_dir: Path, tmp_path: Path
) -> None:
    """When the trail can't take the delivery's line the container must go, so it is a delivery error."""
    login = await read(couriers)
    (state_dir / "audit.jsonl").unlink()
    (state_dir / "audit.jsonl").symlink_to("/dev/full")
    with Doorway(tmp_path / "s", "simulated") as doorway, pytest.raises(DeliveryUnsureError, match="No space left"):
        await couriers.deliver(login.ticket, doorway.target("c1"))


async def test_cancelling_one_takes_nothing_from_the_others(couriers: CourierBroker, tmp_path: Path) -> None:
    """Callers cancelled at any moment leave the rest served and the courier free to go."""
    reads = [asyncio.ensure_future(read(couriers, number)) for number in range(FLEET)]
    for number, task in enumerate(reads):
        await asyncio.sleep(0.01)
        if number % 2:
            task.cancel()
    logins = [login for login in await asyncio.gather(*reads, return_exceptions=True) if isinstance(login, Login)]
    assert len(logins) >= FLEET // 2
    with Doorway(tmp_path / "s", "simulated") as doorway:
        await asyncio.gather(*(couriers.deliver(login.ticket, doorway.target(login.user)) for login in logins))
    await until(lambda: not pids(couriers))


async def test_a_courier_that_dies_is_replaced(couriers: CourierBroker, tmp_path: Path) -> None:
    """Killed while it holds a password: that delivery fails as never sent, and the next read gets a new courier."""
    lost = await read(couriers)
    [pid] = pids(couriers)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not pids(couriers))
    with Doorway(tmp_path / "s", "simulated") as doorway:
        with pytest.raises(DeliveryExpiredError):
            await couriers.deliver(lost.ticket, doorway.target("c1"))
        await couriers.deliver((await read(couriers)).ticket, doorway.target("c2"))
        assert "c1" not in doorway.received


async def test_a_courier_that_dies_in_a_delivery_fails_it(couriers: CourierBroker, tmp_path: Path) -> None:
    """Killed between attach and answer: nobody knows what arrived, so the delivery failed."""
    with Doorway(tmp_path / "s", "simulated") as doorway:
        doorway.silent = True
        login = await read(couriers)
        delivery = asyncio.ensure_future(couriers.deliver(login.ticket, doorway.target("c1")))
        await until(lambda: doorway.requests)
        os.kill(pids(couriers)[0], signal.SIGKILL)
        with pytest.raises(DeliveryUnsureError, match="exit code -9"):
            await delivery


async def test_a_silent_courier_is_given_up_and_replaced(state_dir: Path) -> None:
    """One that is frozen while it owes an answer is killed when its time is over, and the next read is served."""
    async with couriers_in(state_dir) as couriers:
        await read(couriers)
        [courier] = couriers._live.values()
        [pid] = pids(couriers)
        courier._silence = 1.0  # of this one alone: a start and a read may take longer where others work too
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(CredentialsUnavailableError, match="owed an answer for 1 s"):
            await read(couriers)
        await until(lambda: not is_alive(pid))
        assert (await read(couriers)).user == "user0"


async def test_an_old_courier_is_asked_for_nothing_new(state_dir: Path, tmp_path: Path) -> None:
    """After a minute of steady work a new process takes over; the old one still delivers what it holds."""
    async with couriers_in(state_dir, age=0.0) as couriers:
        first, second = await read(couriers, 1), await read(couriers, 2)
        assert len(pids(couriers)) == 2
        with Doorway(tmp_path / "s", "simulated") as doorway:
            await couriers.deliver(first.ticket, doorway.target("c1"))
            await couriers.deliver(second.ticket, doorway.target("c2"))


async def test_closing_ends_every_courier(state_dir: Path) -> None:
    """After `close` no process is left, also one that is frozen or was being asked, and nothing is read any more."""
    async with couriers_in(state_dir, age=0.0) as couriers:
        await read(couriers)
        await read(couriers)
        running = pids(couriers)
        os.kill(running[0], signal.SIGSTOP)
        asked = asyncio.ensure_future(read(couriers))
        await asyncio.sleep(0)
        await couriers.close()
        assert not any(is_alive(pid) for pid in running + pids(couriers))
        with pytest.raises(CredentialsUnavailableError):
            await asked
        with pytest.raises(CredentialsUnavailableError, match="stopping"):
            await read(couriers)
        await couriers.close()


@pytest.mark.parametrize(
    ("command", "why"),
    [(("/no/such/program",), "could not be started"), ((sys.executable, "-c", "exit(3)"), "exit code 3")],
)
async def test_a_courier_that_cannot_start(state_dir: Path, command: tuple[str, ...], why: str) -> None:
    """A child that can't be started, or ends at once, is an error that may pass, for every caller."""
    async with couriers_in(state_dir, command=command) as couriers:
        answers = await asyncio.gather(read(couriers, 1), read(couriers, 2), return_exceptions=True)
    assert all(isinstance(answer, CredentialsUnavailableError) for answer in answers)
    assert all(why in str(answer) for answer in answers)


async def test_a_question_left_unread_goes_to_the_next_courier(state_dir: Path, tmp_path: Path) -> None:
    """What is asked while a courier leaves is answered by its successor, and the caller sees nothing of it."""
    went = tmp_path / "went"
    leaves_first = (
        f"import os, sys\nif not os.path.exists({str(went)!r}):\n    open({str(went)!r}, 'w').close()\n"
        "    sys.stdin.readline(); sys.stdin.readline(); print('{\"leaving\": true}', flush=True)\nelse:\n"
        f"    os.execv(sys.executable, {list(COMMAND)!r})\n"
    )
    async with couriers_in(state_dir, command=(sys.executable, "-c", leaves_first)) as couriers:
        assert (await read(couriers, 5)).user == "user5"
    assert went.exists()


def seen_of(pid: int) -> tuple[bytes, str, list[bytes]]:
    proc = Path(f"/proc/{pid}")
    return (
        (proc / "environ").read_bytes(),
        (proc / "limits").read_text(),
        (proc / "cmdline").read_bytes().split(b"\0"),
    )


async def test_a_courier_inherits_little(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vault's variables are passed on; other secrets of the manager's environment are not; core dumps are off."""
    monkeypatch.setenv("VAULT_TOKEN", "the-token")
    monkeypatch.setenv("MONGO_URI", "mongodb://user:mongo-password@db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    async with couriers_in(state_dir) as couriers:
        await read(couriers)
        [pid] = pids(couriers)
        inherited, limits, arguments = seen_of(pid)
    assert b"VAULT_TOKEN=the-token" in inherited
    assert b"mongo-password" not in inherited
    assert b"aws-secret" not in inherited
    assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")) == ["0", "0"]
    assert arguments[1:3] == [b"-m", b"spreadpilot_core.ibkr.credentials.courier.process"]


@pytest.mark.parametrize("lines", [0, 1])
def test_the_end_of_input_ends_it(state_dir: Path, lines: int) -> None:
    """A manager that dies takes its courier with it, before or after the first line."""
    first = first_line(Settings.read(state_dir=state_dir, vault_enabled=False))
    done = subprocess.run(
        COMMAND,
        input=json.dumps(first).encode() + b"\n" if lines else b"",
        env=courier_environment(os.environ),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_failure_inside_tells_places_and_no_values(state_dir: Path) -> None:
    """An unexpected error ends in an answer, or a line on standard error, that names code and never quotes a value."""
    planted = (
        "from spreadpilot_core.ibkr.credentials.courier import held_secrets as custody, process as courier\n"
        "def read(self, ref, controller, follower):\n    'caf\\u00e9-password'.encode('ascii')\n"
        "custody.HeldSecrets.read = read\n"
        "courier.main()\n"
    )
    first = first_line(Settings.read(state_dir=state_dir, vault_enabled=False))
    request = {"id": 1, "do": "read", "ref": "a", "controller": "ibc", "follower": "f"}
    with subprocess.Popen(
        (sys.executable, "-c", planted),
        stdin=-1,
        stdout=-1,
        stderr=-1,
        env=courier_environment(os.environ),
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018  # pipes were asked for
        process.stdin.write(json.dumps(first).encode() + b"\n" + json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        process.stdin.write(b"this is no JSON and names a password\n")
        process.stdin.close()
        told = process.stdout.read() + process.stderr.read()
    assert b"UnicodeEncodeError at" in answer
    assert b"caf" not in answer
    assert b"something that it can't understand" in told
    assert b"password" not in told


@pytest.mark.parametrize("length", [70_000, 1_500_000])
async def test_a_reference_without_end_fails_its_own_follower(
    couriers: CourierBroker, state_dir: Path, length: int
) -> None:
    """Asked among others, it alone is refused, in one short sentence, and the trail of it all stays whole."""
    long = FollowerId("long")
    asked = [couriers.read("x" * length, "ibc", follower_id=long), couriers.version("y" * length)]
    answers = await asyncio.gather(*(read(couriers, number) for number in range(3)), *asked, return_exceptions=True)
    assert [login.user for login in answers[:3] if isinstance(login, Login)] == ["user0", "user1", "user2"]
    for refused in answers[3:]:
        assert isinstance(refused, CredentialsRefusedError)
        assert len(str(refused)) < 500
    assert (await read(couriers, 4)).user == "user4"
    assert len(pids(couriers)) == 1
    assert (await asyncio.to_thread(AuditTrail(state_dir).verify)).findings == ()


def test_a_hardened_process_is_not_dumpable() -> None:
    """After `harden` the kernel counts the process as not dumpable, and no core is written."""
    code = (
        "import ctypes, resource; from spreadpilot_core.ibkr.credentials.courier.process import harden\n"
        "harden(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0 (0, 0)\n"


def test_the_manager_loads_nothing_that_reads_secrets() -> None:
    """Importing the manager's side loads neither Vault's client nor encryption."""
    code = (
        "import sys, spreadpilot_core.ibkr.credentials.broker, spreadpilot_core.ibkr.audit.trail\n"
        "print([name for name in ('hvac', 'cryptography', 'requests', "
        "'spreadpilot_core.ibkr.credentials.sources.encrypted.source') if name in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


def test_a_courier_loads_no_more_than_it_needs() -> None:
    """One starts for each burst of logins: neither records nor settings, and no library that checks or logs them."""
    code = (
        "import sys, spreadpilot_core.ibkr.credentials.courier.process\n"
        "print([name for name in ('pydantic', 'structlog', 'asyncio', 'hvac') if name in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


_LEAVES_ONE_OUT = """
import json, sys
sys.stdin.readline()
for line in sys.stdin:
    asked = json.loads(line)
    if asked["ref"] != "left-out":
        print(json.dumps({"id": asked["id"], "version": "1"}), flush=True)
"""


async def test_a_courier_that_answers_others_is_not_given_up_for_one_that_it_owes() -> None:
    """With hundreds in its row an answer may take longer than a courier may be silent; each of the others shows that it works."""
    couriers = CourierBroker({}, command=(sys.executable, "-c", _LEAVES_ONE_OUT), silence=5.0)
    loop = asyncio.get_running_loop()
    try:
        left_out = asyncio.create_task(couriers.version("left-out"))
        began = loop.time()
        while loop.time() < began + 6.5:
            assert await couriers.version("another") == "1"
            await asyncio.sleep(0.05)
        assert not left_out.done()
    finally:
        await couriers.close()
    with pytest.raises(CredentialsUnavailableError):
        await left_out
