"""The installed manager tells people: by a real webhook and a real mail server, with the simulated fleet behind it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretVersion
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.client import ControlClient
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME
from support.command import Begun, Command
from support.home import Home, eventually
from support.receivers import Received, hanging, mail_server, webhook
from support.waiting import wait_until

SECRET = "word-that-nobody-may-see"
USER = "trader77"
_URLS = "GATEWAY_MANAGER_NOTIFY_URLS"
FIFTY = [f"f{number:02}" for number in range(50)]


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    place = Home(ports=getattr(request, "param", 12))
    place.users = USER
    place.settings |= {"on_exit": "detach", "log_format": "json", "log_level": "debug", "healthcheck_interval": 30.0}
    place.settings |= {"detach_wait": 0, "notify_outage_delay": 2.0, "secret_poll_interval": 600.0}
    yield place
    asyncio.run(place.end())


def fill(home: Home, followers: Sequence[str], *, fields: str = "") -> None:
    """Followers with a login each, all in one write."""
    table = '[[follower]]\nid = "{0}"\nvault_secret_ref = "ibkr/{0}"\nenabled = true\n' + fields + "\n"
    (home.directory / FILE_NAME).write_text("".join(table.replace("{0}", each) for each in followers))
    version = SecretVersion("1", None)
    logins = {
        f"ibkr/{each}": Credentials(user=f"{USER}{each}", password="a-password", version=version, source="vault")
        for each in followers
    }
    EncryptedCredentials.at(home.directory).remember(logins)


def script(home: Home, **followers: object) -> None:
    """What goes wrong in which starts."""
    path = home.directory / SCRIPTS
    path.write_text(json.dumps({"followers": {name: {"laps": laps} for name, laps in followers.items()}}))


def states(home: Home) -> list[str]:
    """Of all gateways."""
    with ControlClient(home.directory) as client:
        return [each["state"] for each in client.gateways()]


def notices(home: Home) -> str:
    """What concerns the whole manager."""
    with ControlClient(home.directory) as client:
        return " ".join(client.manager()["notices"])


async def inject(home: Home, fault: str, followers: Sequence[str], **how: float) -> None:
    """The same fault in the running gateways of all of them."""
    runtime: SimulatedRuntime = home.runtime()
    await runtime.open()
    for each in followers:
        await runtime.inject(each, fault, **how)
    await runtime.close()


def _said(received: Received, number: int) -> str:
    """The body of a message about followers."""
    return [body for title, body in received.messages if title in received.about_followers][number]


def shows_no_secret(serving: Begun, home: Home) -> None:
    """Neither the log, though it tells everything, nor what the manager keeps, holds an address or a user's message."""
    assert SECRET not in serving.stdout + serving.stderr
    kept = b"".join(path.read_bytes() for path in home.directory.rglob("*.sqlite3*"))
    assert SECRET.encode() not in kept


@pytest.mark.parametrize("home", [60], indirect=True)
def test_fifty_gateways_that_lose_ibkr_are_one_message_whatever_other_channels_do(home: Home) -> None:
    """By webhook and by mail, once each and its end once; one that refuses, one that hangs and one that fails hold up nothing."""
    fill(home, FIFTY)
    with ExitStack() as places:
        hook, mail = places.enter_context(webhook(SECRET)), places.enter_context(mail_server())
        failing, silent = places.enter_context(webhook(SECRET)), places.enter_context(hanging(SECRET))
        failing.status = 500
        urls = [silent, f"json://127.0.0.1:9/{SECRET}", failing.url, hook.url, mail.url]
        command = Command(home, notify_urls=" ".join(urls), notify_outage_delay=8.0, parallel_starts=50)
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: states(home) == ["ready"] * 50, within=180)
            asyncio.run(inject(home, "link_lost", FIFTY))
            wait_until(lambda: hook.about_followers and mail.about_followers)
            wait_until(lambda: all(f"channel {place} have failed" in notices(home) for place in (1, 2, 3)))
            assert "It answered with status 500." in notices(home)
            assert set(states(home)) == {"degraded"}
            asyncio.run(inject(home, "link_restored", FIFTY))
            wait_until(lambda: len(hook.about_followers) > 1 and len(mail.about_followers) > 1)
            assert SECRET not in notices(home)
            serving.signal(signal.SIGTERM)
            assert serving.ends() == 0
            shows_no_secret(serving, home)
    begun, ended = "50 gateways are out of service", "Resolved: 50 gateways"
    assert (hook.about_followers, mail.about_followers) == ([begun, ended], [begun, ended])
    assert f"{', '.join(FIFTY[:10])} and 40 more" in _said(hook, 0)
    assert "The gateway has lost IBKR since" in _said(mail, 0)
    assert "Next: The gateway reconnects to IBKR by itself." in _said(mail, 0)
    assert all(USER not in body for _, body in (*hook.messages, *mail.messages))


def test_three_phones_are_three_messages_and_a_followers_own_channel_hears_of_that_one(home: Home) -> None:
    """Each prompt at once and alone; a record's channel hears of its follower, and the approvals come together."""
    with webhook(SECRET) as hook, webhook(SECRET) as own:
        fill(home, ["anna", "ben", "carl"], fields='trading_mode = "live"\n')
        with (home.directory / FILE_NAME).open("a") as file:
            file.write(f'notify_urls = ["{own.url}"]\n')  # carl's, who is the last
        script(home, **{name: [{"second_factor": {"answer": "pending"}}] for name in ("anna", "ben", "carl")})
        command = Command(home, notify_urls=hook.url)
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: len(hook.about_followers) == 3 and len(own.about_followers) == 1)
            assert sorted(hook.about_followers) == [
                f"{name}: approve the login on the phone" for name in ("anna", "ben", "carl")
            ]
            assert own.about_followers == ["carl: approve the login on the phone"]
            asyncio.run(inject(home, "approve_second_factor", ["anna", "ben", "carl"]))
            wait_until(lambda: len(hook.about_followers) > 3 and len(own.about_followers) > 1)
            listed = command("followers", "list", "--json").stdout
            shows_no_secret(serving, home)
    assert hook.about_followers[3:] == ["Resolved: 3 logins"], hook.messages[3:]
    assert own.about_followers[1:] == ["Resolved: carl"]
    assert SECRET not in listed
    assert "set (hidden)" in listed


def test_a_message_that_waits_outlives_a_kill_and_comes_once(home: Home) -> None:
    """Kill -9 while its channel fails; the next manager sends it, the one after that sends nothing, and then its end."""
    fill(home, ["anna"])
    script(home, anna=[{"wrong_password": True}])
    with webhook(SECRET) as hook:
        hook.status = 500
        command = Command(home, notify_urls=hook.url)
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: hook.tries and "channel 1 have failed" in notices(home))
            serving.signal(signal.SIGKILL)
            serving.ends()
        assert hook.messages == []
        hook.status = 204
        with command.begun("run") as serving:
            wait_until(lambda: hook.about_followers == ["anna needs somebody"])
            serving.signal(signal.SIGTERM)
            assert serving.ends() == 0
        with command.begun("run") as serving:
            serving.says("manager started")
            wait_until(lambda: states(home) == ["needs_human"])
            script(home, anna=[{}])  # a host of gateways that is begun anew begins with the first start again
            asyncio.run(home.set_password("anna", "another"))
            wait_until(lambda: states(home) == ["ready"])
            wait_until(lambda: "Resolved: anna" in hook.about_followers)
            serving.signal(signal.SIGTERM)
            assert serving.ends() == 0
    assert [each for each in hook.about_followers if "secret" not in each] == ["anna needs somebody", "Resolved: anna"]
    assert "To do: Store the right password" in _said(hook, 0)


async def test_a_manager_inside_a_program_tells_by_the_same_settings_and_blocks_nothing(home: Home) -> None:
    """On the program's own event loop, beside a channel that hangs."""
    await asyncio.to_thread(fill, home, ["anna"])
    await asyncio.to_thread(script, home, anna=[{"wrong_password": True}])
    with webhook(SECRET) as hook, hanging(SECRET) as silent:
        embedded = {name: value for name, value in home.settings.items() if name not in ("log_format", "log_level")}
        async with GatewayManager(**embedded, notify_urls=[silent, hook.url]) as manager:
            await eventually(lambda: hook.about_followers == ["anna needs somebody"])
            await eventually(lambda: "channel 1 have failed" in " ".join(manager.list_notices()))
            assert not manager.is_healthy("anna")


def test_the_command_says_which_channel_fails_and_shows_none(home: Home, tmp_path: Path) -> None:
    """Those of settings, file and records; addresses are hidden in the settings, in errors and in the table."""
    with webhook(SECRET) as hook, webhook(SECRET) as own, mail_server() as mail:
        fill(home, ["anna"], fields=f'notify_urls = "{own.url}"\n')
        own.status = 403
        (tmp_path / "urls").write_text(f"# people\n{mail.url}\n\n")
        command = Command(home, notify_urls=hook.url, notify_urls_file=tmp_path / "urls")
        done = command("notify", "test")
        shown = command("settings", "show").stdout
        looked = [
            json.loads(command("doctor", "--json", **more).stdout) for more in ({}, {_URLS: f"nonsense://{SECRET}"})
        ]
    lines = [[each for each in found if each["check"] == "notifications"] for found in looked]
    assert [[each["verdict"] for each in found] for found in lines] == [["warning"], ["problem", "warning"]]
    assert SECRET not in str(looked)
    assert (done.returncode, done.stderr) == (1, "1 of 3 channels failed.\n")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["CHANNEL", "KIND", "RESULT"],
        ["channel", "1", "JSON", "sent"],
        ["channel", "2", "E-Mail", "sent"],
        ["channel", "1", "of", "anna", "JSON", "It", "answered", "with", "status", "403."],
    ]
    assert (hook.titles, mail.titles) == (["A test of the gateway manager"],) * 2
    assert SECRET not in shown
    assert "set (hidden)" in shown


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("NOTIFY_URLS", SECRET, "must be addresses of channels"),
        ("NOTIFY_URLS", f"nonsense://{SECRET}", "its address 1 is none that apprise knows (nonsense://…)"),
        ("NOTIFY_URLS_FILE", "/nowhere/at/all", "No such file or directory"),
        ("NOTIFY_MIN_SEVERITY", "loud", "'info', 'warning' or 'error'"),
    ],
)
def test_a_channel_that_cannot_be_used_stops_the_start_without_being_shown(
    home: Home, variable: str, value: str, sentence: str
) -> None:
    """One sentence, with the setting and what is allowed."""
    done = Command(home)("run", **{f"GATEWAY_MANAGER_{variable}": value})
    assert done.returncode == 1
    assert variable.lower() in done.stderr
    assert sentence in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_without_the_package_one_sentence_says_which_to_install(home: Home, tmp_path: Path) -> None:
    """Only where a channel is set; nobody else needs it."""
    (tmp_path / "apprise.py").write_text("raise ModuleNotFoundError(\"No module named 'apprise'\", name='apprise')\n")
    command = Command(home)
    without = {"PYTHONPATH": str(tmp_path)}
    done = command("run", **without, GATEWAY_MANAGER_NOTIFY_URLS=f"json://127.0.0.1/{SECRET}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "notify_urls is set, but it needs a package that is not installed (apprise): "
        "`pip install -r requirements/service.txt` in the checkout brings it (docs/installing.md)."
    )
    assert command("notify", "test", **without).stderr.startswith("There is no channel.")
    slip = command("run", GATEWAY_MANAGER_CONFIG=str(_file_with(tmp_path, f'notify_url = "tgram://{SECRET}/1"')))
    assert "notify_urls was meant?" in slip.stderr
    assert SECRET not in slip.stderr
    refused = command("followers", "set", "anna", f"notify_urls=json://{SECRET}")
    assert refused.returncode == 1
    assert SECRET not in refused.stderr


def _file_with(place: Path, text: str) -> Path:
    path = place / "settings.toml"
    path.write_text(text)
    return path
