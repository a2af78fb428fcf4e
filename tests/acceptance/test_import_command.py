"""`gateway-manager import`: a compose file becomes followers that launch, and nothing is written by halves."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from support.command import Command
from support.compose_files import LOGIN, PASSWORD, ComposeFiles, one_service
from support.home import FAR_RESTART_TIME, Home
from support.service import Service

TWO = f"""\
services:
  alice:
    image: ghcr.io/gnzsnz/ib-gateway:stable
    restart: always
    environment:
      TWS_USERID: alice123
      TWS_PASSWORD: {PASSWORD}
      TWS_USERID_PAPER: alicepaper
      TWS_PASSWORD_PAPER: ${{PAPER_PASSWORD:?is needed}}
      TRADING_MODE: both
      READ_ONLY_API: "no"
      AUTO_RESTART_TIME: {FAR_RESTART_TIME}
      TZ: America/New_York
      BYPASS_WARNING: "yes"
  bot:
    image: example/bot
    depends_on: [alice]
"""


@pytest.fixture
def compose(tmp_path: Path) -> ComposeFiles:
    return ComposeFiles(tmp_path)


def _content(home: Home) -> dict[str, bytes]:
    """Every file that is kept."""
    return {each.name: each.read_bytes() for each in home.directory.iterdir() if each.is_file()}


def test_an_imported_follower_is_launched(home: Home, command: Command, compose: ComposeFiles) -> None:
    """From the compose file to RUNNING, with the commands that the import itself names; live and paper are two gateways."""
    path = compose.write(TWO, {".env": f"PAPER_PASSWORD={PASSWORD}2\n"})
    done = command("import", str(path))
    assert (done.returncode, PASSWORD in done.stdout + done.stderr) == (0, False), done.stderr
    assert "BYPASS_WARNING has no counterpart" in done.stdout
    assert f"{path}:17: bot depends on alice" in done.stdout
    steps = [line.strip().partition("    #")[0] for line in done.stdout.splitlines() if line.startswith("    ")]
    assert steps == [
        f"docker compose -f {path} stop alice",
        f"docker compose -f {path} rm --force alice",
        "gateway-manager followers enable alice-live",
        "gateway-manager followers enable alice-paper",
    ]
    rows = command.json("followers", "list")
    assert [(each["id"], each["trading_mode"], each["enabled"]) for each in rows] == [
        ("alice-live", "live", False),
        ("alice-paper", "paper", False),
    ]
    assert [each["user"] for each in command.json("credentials", "list")] == ["alice123", "alicepaper"]
    assert EncryptedCredentials.at(home.directory).read("ibkr/alice-paper").password == f"{PASSWORD}2"
    for step in steps[2:]:
        assert command(*step.split()[1:]).returncode == 0
    asyncio.run(_run(home))


async def _run(home: Home) -> None:
    service = Service(home)
    try:
        await service.start()
        async with asyncio.timeout(120):
            while [each["status"] for each in (await service.gateways()).values()] != ["RUNNING"] * 2:
                await asyncio.sleep(0.2)
        assert PASSWORD not in service.log.read_text()
        await service.end(signal.SIGTERM)
    finally:
        service.close()


def test_a_dry_run_writes_nothing(home: Home, command: Command, compose: ComposeFiles) -> None:
    """Not even a directory; it says what a run would write."""
    path = compose.write(one_service(LOGIN))
    done = command("import", str(path), "--dry-run")
    assert done.returncode == 0
    assert 'id = "ib-gateway"' in done.stdout
    assert "The login of alice123 would be stored" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert not list(home.directory.iterdir())


def test_a_second_run_changes_nothing_and_says_so(home: Home, command: Command, compose: ComposeFiles) -> None:
    """Also after the follower was enabled, and given what no compose file has."""
    path = compose.write(one_service(LOGIN))
    assert command("import", str(path)).returncode == 0
    assert command("followers", "enable", "ib-gateway").returncode == 0
    assert command("followers", "set", "ib-gateway", "account=DU1234567").returncode == 0
    before = _content(home)
    done = command("import", str(path))
    assert done.returncode == 0
    assert "Nothing was written: all of it was there." in done.stdout
    assert _content(home) == before


def test_a_run_that_was_cut_short_is_completed(command: Command, compose: ComposeFiles) -> None:
    """The logins are written before the followers; the next run writes what is missing and leaves the rest."""
    path = compose.write(one_service(LOGIN))
    assert (
        command(
            "credentials",
            "set",
            "ibkr/ib-gateway",
            "--username",
            "alice123",
            "--password-stdin",
            said=PASSWORD.encode(),
        ).returncode
        == 0
    )
    versions = command.json("credentials", "list")
    assert command("import", str(path)).returncode == 0
    assert command.json("credentials", "list") == versions
    assert [each["id"] for each in command.json("followers", "list")] == ["ib-gateway"]


@pytest.mark.parametrize("conflict", ["follower", "login", "password"])
def test_a_conflict_is_refused_and_nothing_is_written(
    home: Home, command: Command, compose: ComposeFiles, conflict: str
) -> None:
    """Of two gateways the second one is in the way; the first isn't written either."""
    second = one_service(LOGIN).replace("ib-gateway:\n", "second:\n").partition("services:\n")[2]
    path = compose.write(one_service(LOGIN) + second)
    if conflict == "follower":
        command("followers", "add", "second", "--vault-secret-ref", "ibkr/second", "--live", "--disabled")
    else:
        user, said = ("alice123", b"another") if conflict == "password" else ("bob1", PASSWORD.encode())
        command("credentials", "set", "ibkr/second", "--username", user, "--password-stdin", said=said)
    before = _content(home)
    done = command("import", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "second" in done.stderr
    assert done.stderr.endswith("Nothing was written.\n")
    assert "another" not in done.stderr.replace("another login", "")
    assert _content(home) == before
    assert command("import", str(path), "--prefix", "old-").returncode == 0


def test_a_secret_kept_elsewhere_is_stored_by_its_owner_first(
    home: Home, command: Command, compose: ComposeFiles
) -> None:
    """The refusal names the command that stores it; afterwards the import goes through."""
    text = one_service(
        LOGIN.replace(f"TWS_PASSWORD: {PASSWORD}", "TWS_PASSWORD_FILE: /run/secrets/pw"), "secrets: [pw]"
    )
    path = compose.write(text + "\nsecrets: {pw: {external: true}}\n")
    done = command("import", str(path))
    assert done.returncode == 1
    assert "`gateway-manager credentials set ibkr/ib-gateway --username alice123`" in done.stderr
    assert not list(home.directory.iterdir())
    command(
        "credentials", "set", "ibkr/ib-gateway", "--username", "alice123", "--password-stdin", said=PASSWORD.encode()
    )
    assert command("import", str(path)).returncode == 0


def test_a_refused_followers_file_takes_the_logins_back(home: Home, command: Command, compose: ComposeFiles) -> None:
    """The directory of the followers can't be written: no login stays stored either."""
    path = compose.write(one_service(LOGIN))
    followers = home.directory / "store"
    followers.write_text("no directory")
    done = command("import", str(path), GATEWAY_MANAGER_STORE_URL=f"local:{followers}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert command.json("credentials", "list") == []


def test_several_reasons_are_all_said(command: Command, compose: ComposeFiles) -> None:
    """One line each on standard error, and how many there are."""
    path = compose.write(one_service(LOGIN.replace("paper", "x").replace("'no'", "y")))
    done = command("import", str(path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert "can't be imported for 2 reasons. Nothing was written." in done.stderr


def test_a_file_without_a_gateway_names_its_services(command: Command, compose: ComposeFiles) -> None:
    """Whoever has the image under another name learns the option."""
    path = compose.write("services: {db: {image: mongo}, gw: {image: mine}}\n")
    done = command("import", str(path))
    assert done.returncode == 1
    assert done.stderr == (
        f"{path}: none of its 2 services (db, gw) has an image gnzsnz/ib-gateway. `--service NAME` says which one is such a"
        " gateway under another name.\n"
    )


def test_one_user_twice_and_vault_are_remarked_on(command: Command, compose: ComposeFiles) -> None:
    """What would log a user in twice, or leave a stored login unread, is said."""
    second = one_service(LOGIN).replace("ib-gateway:\n", "second:\n").partition("services:\n")[2]
    path = compose.write(one_service(LOGIN) + second)
    done = command("import", str(path), VAULT_ADDR="http://127.0.0.1:1", VAULT_ENABLED="true")
    assert "ib-gateway and second are one IBKR user, alice123: enable one of them." in done.stdout
    assert "VAULT_ADDR is set, so logins are read from Vault" in done.stdout


@pytest.mark.parametrize(
    "lines",
    [
        "    env_file: ~no-such-user/file\n",
        '    volumes: ["~no-such-user/file:/run/x"]\n',
        "    secrets: [it]\nsecrets: {it: {file: ~no-such-user/file}}\n",
    ],
)
def test_the_home_of_nobody_is_no_defect(command: Command, compose: ComposeFiles, lines: str) -> None:
    """A path that begins with a name that is no user's here is a path like any other."""
    done = command("import", str(compose.write(one_service(LOGIN) + lines)), "--dry-run")
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "env_file" in lines else 0), done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_variables_that_double_each_other_fill_no_memory(command: Command, compose: ComposeFiles) -> None:
    """Forty lines would make a terabyte of ten characters."""
    doubling = "".join(f"A{each}=${{A{each - 1}}}${{A{each - 1}}}\n" for each in range(1, 41))
    path = compose.write(one_service(LOGIN), {".env": f"A0=0123456789\n{doubling}"})
    done = command("import", str(path), "--dry-run")
    assert done.returncode == 1
    assert "A11 has more than 16384 characters in place of its variables" in done.stderr
