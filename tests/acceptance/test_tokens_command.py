"""`tokens …` beside the service: made, used, listed and revoked, on both stores; and two managers of which one acts."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.command import Begun, Command
from support.home import Home
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures
from support.ports import free_ports
from support.waiting import PATIENCE, wait_until

ADAPTERS = ["local", pytest.param("mongodb", marks=may_build)]


@pytest.fixture
def port() -> int:
    return free_ports(1)


@pytest.fixture(params=ADAPTERS)
def command(request: pytest.FixtureRequest, home: Home, port: int) -> Command:
    """With this store."""
    settings: dict[str, Any] = {"http_address": f"127.0.0.1:{port}"}
    if request.param == "mongodb":
        settings |= {"store_url": "mongodb:", "mongo_uri": request.getfixturevalue("mongo_server")}
        settings |= {"mongo_db_name": request.getfixturevalue("mongo_database")}
    return Command(home, **settings)


def asked(port: int, token: str, method: str = "GET", path: str = "/gateways") -> int:
    """The code of the answer; 0 while nobody listens."""
    with suppress(httpx.TransportError):
        url = f"http://127.0.0.1:{port}/v1{path}"
        return httpx.request(method, url, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code
    return 0


def made(command: Command, *arguments: str) -> str:
    """The token that `tokens add` prints, alone on standard output."""
    done = command("tokens", "add", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gm_[A-Za-z0-9_-]{43}\n", done.stdout)
    return done.stdout.strip()


def test_a_token_lives_from_add_to_revoke(home: Home, command: Command, port: int) -> None:
    """Made before and beside the manager, known at once and after a restart, in the trail by its name, and gone when revoked."""
    early = made(command, "early", "--role", "viewer", "--expires", "30d")
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: asked(port, early) == 200)
        bot = made(command, "bot", "--role", "trader", "--followers", "alice, bob")
        assert asked(port, bot) == 200
        assert asked(port, bot, "POST", "/gateways/alice/reconnect") == 404  # nobody has that name
        assert asked(port, bot, "POST", "/gateways/alice/stop") == 403
        again = command("tokens", "add", "bot", "--role", "viewer")
        assert (again.returncode, again.stdout) == (1, "")
        assert "tokens revoke bot" in again.stderr
        listed = {each["name"]: each for each in command.json("tokens", "list")}
        assert (listed["bot"]["role"], listed["bot"]["followers"]) == ("trader", ["alice", "bob"])
        assert listed["early"]["expires_at"] > listed["early"]["created_at"]
        assert bot not in str(listed)
        assert bot not in serving.stderr
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: asked(port, bot) == 200)
        assert command("tokens", "revoke", "bot").returncode == 0
        wait_until(lambda: asked(port, bot) == 401)
        assert asked(port, early) == 200
        assert command("tokens", "revoke", "bot").returncode == 1
    lines = command.json("audit", "show")
    ours = {"token-add", "token-revoke", "request"}
    acts = [(each["act"], each["who"].partition(",")[0]) for each in lines if each["act"] in ours]
    command_ = "gateway-manager"
    assert acts[:3] == [("token-add", command_), ("token-add", command_), ("request", "token bot")]
    assert acts[-1] == ("token-revoke", command_)
    assert next(each for each in lines if each["act"] == "request")["detail"] == "POST /v1/gateways/alice/reconnect"
    assert "wrong-token" in {each["act"] for each in lines}
    assert not [path for path in home.directory.rglob("*") if path.is_file() and bot.encode() in path.read_bytes()]


@pytest.mark.parametrize("command", ["local"], indirect=True)
def test_what_can_be_no_token_is_refused(command: Command) -> None:
    """In one sentence, or as wrong usage, before anything is made."""
    for code, *arguments in (
        (2, "x", "--role", "king"),
        (2, "x", "--role", "viewer", "--expires", "soon"),
        (1, "x", "--role", "operator", "--followers", "alice"),
    ):
        done = command("tokens", "add", *map(str, arguments))
        assert (done.returncode, done.stdout) == (code, ""), done.stderr


@may_build
@pytest.mark.parametrize("command", ["mongodb"], indirect=True)
def test_a_command_at_a_standby_goes_on_to_the_leader(home: Home, command: Command, port: int) -> None:
    """A manager that stands by shows what it knows, knows the same tokens, and its command acts at the one that acts."""
    token = made(command, "me", "--role", "operator")
    standby_port = free_ports(1)
    standby_dir = home.directory / "two"
    settings = {
        "state_dir": standby_dir,
        "runtime_url": f"simulated:{home.directory}",
        "http_address": f"127.0.0.1:{standby_port}",
    }
    standby = Command(home, **settings)
    standby.environment = {
        **command.environment,
        **{f"GATEWAY_MANAGER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with command.begun("run") as first:
        first.says("manager started")
        wait_until(lambda: _leads(port, token) is True, within=2 * PATIENCE)
        with standby.begun("run") as second:
            second.says("manager started")
            wait_until(lambda: _leads(standby_port, token) is False)
            assert asked(standby_port, token) == 200
            url = f"http://127.0.0.1:{standby_port}/v1/gateways/nobody/stop"
            refused = httpx.post(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
            assert (refused.status_code, refused.json()["error"]) == (503, "NOT_LEADER")
            assert refused.json()["leader"]["url"] == f"http://127.0.0.1:{port}"
            assert Path(refused.json()["leader"]["socket"]).parent == home.directory
            followed = standby("stop", "nobody")
            assert (followed.returncode, "no follower 'nobody'" in followed.stderr) == (1, True), followed.stderr
            _ends(standby, second)
    shutil.rmtree(standby_dir)


def _ends(command: Command, serving: Begun) -> None:
    """A manager that stands by is detached by its own command."""
    done = command("detach", "--yes")
    assert done.returncode == 0, done.stderr
    assert serving.ends() == 0


def _leads(port: int, token: str) -> bool | None:
    """Whether the manager there says that it acts; None while nobody says anything."""
    with suppress(httpx.TransportError):
        url = f"http://127.0.0.1:{port}/v1/manager"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        leads = answer.json().get("leader")
        return leads if isinstance(leads, bool) else None
    return None
