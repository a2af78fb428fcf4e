"""The guard in a container's wrapper, on this machine: real shells, real processes, the lines that the controllers print."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.controller_log.exit_codes import LOGIN_LOOP
from spreadpilot_core.ibkr.model.gateways import Controller
from spreadpilot_core.ibkr.runtimes.images import IBC, IBCONTROLLER, SECRET_DIRECTORY
from spreadpilot_core.ibkr.runtimes.wrapper import LOGINS_LEFT_VARIABLE, WRAPPER
from support.runtimes import is_alive
from support.waiting import wait_until

SHELLS = ["dash", "busybox sh", "bash --posix"]
"""What `/bin/sh` is in the real images (dash), in small ones (busybox), and elsewhere."""
CONTROLLERS: list[Controller] = ["ibc", "ibcontroller"]
STREAM = {"ibc": 1, "ibcontroller": 2}
TYPED = {
    "ibc": "2026-11-24 14:01:33:192 IBC: Login attempt: 1",
    "ibcontroller": "2026-11-24 14:01:33,192 INFO ibcontroller.login: IBController > credentials submitted, awaiting outcome",
}
AGAIN = {
    "ibc": "2026-11-24 14:01:35:201 IBC: Cold restart in progress",
    "ibcontroller": "2026-11-24 14:01:35,201 WARNING ibcontroller.control_loop: IBController > transient login failure -- "
    "relaunching with a full fresh login: login error dialog; server disconnected",
}
COMPLETED = {
    "ibc": "2026-11-24 14:01:40:001 IBC: Login has completed",
    "ibcontroller": "2026-11-24 14:01:40,001 INFO ibcontroller.login: IBController > login completed",
}
OTHER = {
    "ibc": "2026-11-24 14:01:31:100 IBC: detected frame entitled: Loading...; event=Opened",
    "ibcontroller": "2026-11-24 14:01:31,100 INFO ibcontroller.launcher: IBController > launching instance gateway-paper (paper)",
}
LISTENING = (
    "   0: 0100007F:0FA2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0\n"
)
PATIENCE = 60


class Container:
    """The wrapper with one command, as the engine runs it, but for the walls around it."""

    def __init__(
        self,
        directory: Path,
        shell: str,
        controller: Controller | None,
        *command: str,
        left: int | None = None,
        wrapper: str = WRAPPER,
    ) -> None:
        self.kernel = directory / "net"
        self.kernel.mkdir()
        script = wrapper.replace(SECRET_DIRECTORY, str(directory)).replace("/proc/net/", f"{self.kernel}/")
        contract = IBC if controller == "ibc" else IBCONTROLLER
        environment = {"PATH": "/bin:/usr/bin"} | ({contract.password_file_variable: "x"} if controller else {})
        environment |= {LOGINS_LEFT_VARIABLE: str(left)} if left is not None else {}
        self.out, self.err = directory / "stdout", directory / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*shell.split(), "-c", script, "gateway-manager", str(directory), *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(b"3\nabc")
        self.process.stdin.close()

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def says(self, words: bytes) -> None:
        """Wait until it has said that, on either stream."""
        wait_until(lambda: words in self.out.read_bytes() + self.err.read_bytes())

    def close(self) -> None:
        """Nothing of it is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


Make = Callable[..., Container]


@pytest.fixture(name="shell", params=SHELLS)
def shell_fixture(request: pytest.FixtureRequest) -> str:
    """Each shell in turn."""
    shell: str = request.param
    if shutil.which(shell.split(maxsplit=1)[0]) is None:
        pytest.fail(f"{shell} is missing: apt-get install -y dash busybox-static bash")
    return shell


@pytest.fixture(name="container")
def container_fixture(tmp_path: Path, shell: str) -> Iterator[Make]:
    """Makes containers, and ends them."""
    made: list[Container] = []

    def make(controller: Controller | None, *command: str, **more: Any) -> Container:
        made.append(Container(tmp_path, shell, controller, *command, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def python(program: str) -> tuple[str, str, str]:
    """A command that runs this program."""
    return sys.executable, "-c", f"import os, signal, subprocess, sys, time\n{program}"


def prints(
    controller: Controller, *lines: str, pause: float = 0, then: str = "time.sleep(300)"
) -> tuple[str, str, str]:
    """A command that prints these lines to its controller's stream, and lives on."""
    return python(
        f"""
for line in {list(lines)!r}:
    os.write({STREAM[controller]}, line.encode() + b"\\n")
    time.sleep({pause})
{then}
"""
    )


# ---------------------------------------------------------------------------------------------- what it ends


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_second_login_that_failed_ends_the_container(container: Make, controller: Controller) -> None:
    """Two typed, none completed, and the controller begins anew: nobody else is there to end it."""
    lap = (OTHER[controller], TYPED[controller], AGAIN[controller])
    made = container(controller, *prints(controller, *lap * 2, pause=0.006))
    assert made.ends() == LOGIN_LOOP
    said = [made.out, made.err][STREAM[controller] - 1].read_text()
    assert said.startswith("\n".join(lap * 2))
    assert made.err.read_text().endswith(
        "gateway-manager: 2 logins were typed, none completed: the container is ended\n"
    )


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_third_login_ends_the_container_whatever_else_is_said(container: Make, controller: Controller) -> None:
    """A controller that words its new beginning in another way is found out by what it types."""
    made = container(controller, *prints(controller, *(TYPED[controller], "something new") * 3, pause=0.006))
    assert made.ends() == LOGIN_LOOP


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_loop_is_seen_in_bursts_and_pieces(container: Make, controller: Controller) -> None:
    """Many lines in one write, one line in many writes, with bytes around it that are no text."""
    noise = "\\xff\\x00\\x1b[31m" + "x" * 70_000
    program = f"""
burst = "".join(line + "\\n" for line in {[OTHER[controller]] * 200 + [TYPED[controller], AGAIN[controller]]!r}).encode()
os.write({STREAM[controller]}, b"{noise}\\n" + burst)
for byte in {(TYPED[controller] + chr(10) + AGAIN[controller] + chr(10))!r}.encode():
    os.write({STREAM[controller]}, bytes([byte]))
    time.sleep(0.001)
time.sleep(300)
"""
    assert container(controller, *python(program)).ends() == LOGIN_LOOP


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_everything_the_command_started_goes_with_a_loop(container: Make, controller: Controller) -> None:
    """The controller behind the script is what types; it must not go on while the container's end is written down."""
    lines = (TYPED[controller], AGAIN[controller]) * 2
    child = prints(controller, *lines, then="os.write(1, b'pid %d\\n' % os.getpid())\ntime.sleep(300)")
    made = container(controller, *python(f"print(os.getpid(), flush=True)\nsubprocess.run({list(child)!r})"))
    assert made.ends() == LOGIN_LOOP
    script = int(made.out.read_text().split()[0])
    wait_until(lambda: not Path(f"/proc/{script}").exists())


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_last_login_of_the_budget_is_ended_before_a_second_one(container: Make, controller: Controller) -> None:
    """The launch said that a single one may fail: it is over when the controller begins anew."""
    lap = (OTHER[controller], TYPED[controller], AGAIN[controller])
    made = container(controller, *prints(controller, *lap, pause=0.006), left=1)
    assert made.ends() == LOGIN_LOOP
    assert made.err.read_text().endswith("gateway-manager: 1 login was typed, none completed: the container is ended\n")


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_second_login_beyond_the_budget_ends_the_container_whatever_else_is_said(
    container: Make, controller: Controller
) -> None:
    """Where the new beginning is worded in another way, what was typed is enough."""
    made = container(controller, *prints(controller, *(TYPED[controller], "something new") * 2, pause=0.006), left=1)
    assert made.ends() == LOGIN_LOOP


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("left", [2, 3, 8])
def test_two_may_fail_wherever_the_budget_has_room_for_two(container: Make, controller: Controller, left: int) -> None:
    """More than two it lets through nowhere."""
    one = container(controller, *prints(controller, TYPED[controller], AGAIN[controller], "all is said"), left=left)
    one.says(b"all is said")
    _stays(one)


# ---------------------------------------------------------------------------------------------- what it leaves alone


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_one_login_is_left_alone_whatever_the_log_says(container: Make, controller: Controller) -> None:
    """It may be waiting for a phone, or be in; that is for a manager to judge."""
    made = container(
        controller, *prints(controller, TYPED[controller], *[AGAIN[controller], OTHER[controller]] * 5, "all is said")
    )
    made.says(b"all is said")
    _stays(made)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_completed_login_forgives_what_was_typed_before(container: Make, controller: Controller) -> None:
    """Weeks of nightly restarts and of lost sessions are no loop."""
    good = (TYPED[controller], AGAIN[controller], TYPED[controller], COMPLETED[controller])
    made = container(controller, *prints(controller, *good * 5, TYPED[controller], AGAIN[controller], "all is said"))
    made.says(b"all is said")
    _stays(made)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_after_a_completed_login_the_last_of_the_budget_is_no_last_any_more(
    container: Make, controller: Controller
) -> None:
    """The launch spoke of its own login; days later nobody knows here what is left."""
    lines = (TYPED[controller], COMPLETED[controller], TYPED[controller], AGAIN[controller], "all is said")
    made = container(controller, *prints(controller, *lines), left=1)
    made.says(b"all is said")
    _stays(made)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_command_is_not_told_how_many_logins_are_left(container: Make, controller: Controller) -> None:
    """It is between the launch and the guard."""
    made = container(controller, *python(f"print(os.environ.get({LOGINS_LEFT_VARIABLE!r}))"), left=1)
    assert made.ends() == 0
    assert made.out.read_text() == "None\n"


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_what_listens_is_never_ended(container: Make, controller: Controller, tmp_path: Path) -> None:
    """An open API port says that a login is in, whatever the log says; when it has shut, the next sign counts."""
    shut = f"os.remove({str(tmp_path / 'net' / 'tcp')!r})"
    lines = (TYPED[controller], AGAIN[controller]) * 5
    wait = f"while not os.path.exists({str(tmp_path / 'net' / 'tcp')!r}): time.sleep(0.01)"
    program = prints(controller, *lines, "all is said", then=f"sys.stdin.readline()\ntime.sleep(1)\n{shut}")[2]
    more = prints(controller, TYPED[controller])[2].partition("\n")[2]
    made = container(controller, sys.executable, "-c", f"import os, time, sys\n{wait}\n{program}\n{more}")
    (made.kernel / "tcp").write_text(f"  sl  local_address …\n{LISTENING}")
    made.says(b"all is said")
    _stays(made, seconds=0.5)
    assert made.ends() == LOGIN_LOOP


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_words_that_are_not_the_controllers_count_for_nothing(container: Make, controller: Controller) -> None:
    """The gateway prints to the same stream, and a window's title may hold any word."""
    alike = [line[24:] for line in (TYPED[controller], AGAIN[controller])]
    other = next(each for each in CONTROLLERS if each != controller)
    alike += [f"JWPRINT {TYPED[controller]}", TYPED[other], AGAIN[other], f" {TYPED[controller]}"]
    made = container(controller, *prints(controller, *alike * 5, "all is said"))
    made.says(b"all is said")
    _stays(made)


def _stays(made: Container, *, seconds: float = 0.3) -> None:
    time.sleep(seconds)  # the guard acts within milliseconds; that it never does can only be waited for
    assert made.process.poll() is None


# ---------------------------------------------------------------------------------------------- what it must not change


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("code", [0, 77])
def test_the_commands_exit_code_is_the_containers(container: Make, controller: Controller, code: int) -> None:
    """Its last words too, also those without a line end."""
    program = f"os.write({STREAM[controller]}, b'error: last words')\nos._exit({code})"
    made = container(controller, *python(program))
    assert made.ends() == code
    assert [made.out, made.err][STREAM[controller] - 1].read_bytes() == b"error: last words"


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_command_that_ends_before_the_relay_has_begun_gives_its_own_code(
    container: Make, controller: Controller
) -> None:
    """Once the wrapper took whoever had `/dev/null` open for one that writes to the relay: itself."""
    opens = "exec </proc/self/fd/9 9<&-"
    assert opens in WRAPPER
    late = WRAPPER.replace(opens, f"sleep 0.5; {opens}", 1)
    made = container(controller, "sh", "-c", f"echo told >&{STREAM[controller]}; exit 7", wrapper=late)
    assert made.ends() == 7
    assert b"told" in made.out.read_bytes() + made.err.read_bytes()


def test_a_command_that_was_killed_gives_the_signals_code(container: Make) -> None:
    """As an init process tells it: 128 and the signal."""
    assert container("ibc", *python("os.kill(os.getpid(), signal.SIGKILL)")).ends() == 137


def test_a_command_that_is_not_there_gives_the_shells_code(container: Make) -> None:
    """127, as without a guard."""
    assert container("ibcontroller", "/nowhere/run.sh").ends() == 127


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_reach_the_command_as_they_are(container: Make, controller: Controller, name: str) -> None:
    """None is ignored from the start, and what the command does then is waited for."""
    number = getattr(signal, name).value
    program = f"""
default = signal.getsignal({number}) in (signal.SIG_DFL, signal.default_int_handler)
def end(number, frame):
    os.write({STREAM[controller]}, b"got %d, default %d" % (number, default))
    time.sleep(0.2)
    os.write({STREAM[controller]}, b", closed")
    os._exit(77)
signal.signal({number}, end)
os.write(1, b"ready\\n")
while True:
    time.sleep(1)
"""
    made = container(controller, *python(program))
    made.says(b"ready")
    wait_until(lambda: _traps(made.process.pid, number))
    made.process.send_signal(number)
    assert made.ends() == 77
    said = made.out.read_bytes() + made.err.read_bytes()
    assert b"got %d, default 1, closed" % number in said


def _traps(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_each_stream_keeps_its_bytes_and_their_order(container: Make, controller: Controller, tmp_path: Path) -> None:
    """Two megabytes of anything on each, in writes of any size, come out as they went in."""
    rng = random.Random(7)
    streams = [rng.randbytes(2_000_000), rng.randbytes(1_000_000).hex().encode()]
    for each, content in enumerate(streams, 1):
        (tmp_path / f"in{each}").write_bytes(content)
    program = f"""
import random
rng, left = random.Random(5), {{n: open(f"{tmp_path}/in{{n}}", "rb").read() for n in (1, 2)}}
while any(left.values()):
    n = rng.choice([n for n in left if left[n]])
    left[n] = left[n][os.write(n, left[n][:rng.choice([1, 80, 5000, 200_000])]):]
"""
    made = container(controller, *python(program))
    assert made.ends() == 0
    assert [made.out.read_bytes(), made.err.read_bytes()] == streams


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_what_the_command_left_running_does_not_hold_the_end_up(container: Make, controller: Controller) -> None:
    """The image's scripts leave a forwarder and a screen behind, which hold the log open and would never end."""
    program = "subprocess.Popen(['sleep', '300'])\nprint('a', flush=True)\nsys.exit(77)"
    began = time.monotonic()
    assert container(controller, *python(program)).ends() == 77
    assert time.monotonic() - began < PATIENCE / 2


def test_nothing_of_it_shows_beside_the_secret(container: Make, tmp_path: Path) -> None:
    """The directory in memory holds what was delivered and, once that is removed, nothing."""
    made = container("ibc", *prints("ibc", TYPED["ibc"]))
    made.says(b"Login attempt")
    assert [each.name for each in tmp_path.iterdir() if each.is_fifo()] == []
    assert (tmp_path / "password").read_bytes() == b"abc"


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("part", ["relay", "sieve"])
def test_a_part_of_it_that_was_killed_holds_nothing_up(
    container: Make, controller: Controller, part: str, tmp_path: Path
) -> None:
    """Whatever the kernel takes of it, for want of memory say, the gateway goes on and its log goes on coming."""
    go = tmp_path / "go"
    program = f"""
os.write(1, b"ready\\n")
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
for number in range(2000):
    os.write({STREAM[controller]}, b"%d %s\\n" % (number, b"x" * 100))
sys.exit(5)
"""
    lines = [f"{number} {'x' * 100}" for number in range(2000)]
    made = container(controller, *python(program))
    made.says(b"ready")
    for pid in wait_until(lambda: _parts(made.process.pid, part)):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_alive(pid))  # what it has read by then is lost with it
    go.touch()
    assert made.ends() == 5
    assert [made.out, made.err][STREAM[controller] - 1].read_text().endswith("\n".join(lines) + "\n")


def _parts(session: int, part: str) -> list[int]:
    """The process that copies, or those that read the copy (a shell may do their work itself)."""
    said = subprocess.run(["ps", "-o", "pid=,comm=", "-s", str(session)], capture_output=True, text=True, check=True)
    comms = {int(pid): comm for pid, comm in (line.split(None, 1) for line in said.stdout.splitlines())}
    copying = [pid for pid in comms if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"tee\0")]
    if part == "relay" or not copying:
        return copying
    copy = Path(f"/proc/{copying[0]}/fd/9").stat()
    return [pid for pid in comms if comms[pid] != "tee" and _reads(pid, copy)]


def _reads(pid: int, pipe: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(f"/proc/{pid}/fd/0").stat(), pipe)
    except OSError:
        return False


def test_without_a_controller_nothing_is_guarded(container: Make) -> None:
    """An image of which nothing says what types in it runs as it would without a guard."""
    assert container(None, "sh", "-c", "exit 5").ends() == 5
