from __future__ import annotations

import base64
import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import (
    ImageMissingError,
    LaunchError,
    RegistryDeniedError,
    RegistryUnreachableError,
)
from spreadpilot_core.ibkr.runtimes.docker.engine import EngineRefusedError
from spreadpilot_core.ibkr.runtimes.docker.images import PullProgress, pull_error, registry_of, stored_login
from spreadpilot_core.ibkr.runtimes.docker.network import _routed_ranges, free_ranges


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("ghcr.io/gnzsnz/ib-gateway:latest", "ghcr.io"),
        ("localhost/x", "localhost"),
        ("127.0.0.1:5000/x@sha256:1", "127.0.0.1:5000"),
        ("gnzsnz/ib-gateway", "docker.io"),
        ("busybox", "docker.io"),
    ],
)
def test_registry_of_a_reference(reference: str, registry: str) -> None:
    """Only a host has a dot, a colon, or is localhost."""
    assert registry_of(reference)[0] == registry


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (404, "manifest for x:y not found: manifest unknown: manifest unknown", ImageMissingError),
        (404, "pull access denied for x, repository does not exist or may require 'docker login'", RegistryDeniedError),
        (500, "Head https://ghcr.io/v2/x: denied", RegistryDeniedError),
        (500, "Get https://r/v2/: unauthorized: incorrect username or password", RegistryDeniedError),
        (500, "Get https://r/v2/: dial tcp: lookup r: no such host", RegistryUnreachableError),
        (500, "Get https://r/v2/: net/http: TLS handshake timeout", RegistryUnreachableError),
        (
            500,
            "Get http://127.0.0.1:1/v2/: dial tcp 127.0.0.1:1: connect: connection refused",
            RegistryUnreachableError,
        ),
        (0, "unexpected EOF", RegistryUnreachableError),
    ],
)
def test_what_a_registry_says_is_told_with_its_cure(status: int, said: str, kind: type[LaunchError]) -> None:
    """Missing, denied and unreachable are three troubles with three cures."""
    error = pull_error("r/x:y", "r", EngineRefusedError("pull r/x:y", status, said))
    assert type(error) is kind
    assert error.hint


def test_an_unknown_refusal_keeps_the_engines_words() -> None:
    """Nothing is guessed."""
    refused = EngineRefusedError("pull x", 500, "the moon is full")
    assert pull_error("x", "r", refused) is refused


def test_progress_is_a_sentence() -> None:
    """Layers and megabytes, from the engine's lines."""
    progress = PullProgress("r/x:y")
    progress.take({"status": "Pulling from r/x", "id": "y"})
    progress.take({"status": "Pulling fs layer", "id": "aa"})
    progress.take({"status": "Already exists", "id": "bb"})
    progress.take({"status": "Downloading", "id": "aa", "progressDetail": {"current": 3 << 20, "total": 9 << 20}})
    assert progress.sentence == "Pulling r/x:y: 1 of 2 layers, 3 of 9 MiB loaded."
    progress.take({"status": "Pull complete", "id": "aa"})
    progress.take({"status": "Digest: sha256:1"})
    assert progress.sentence.startswith("Pulling r/x:y: 2 of 2 layers")


# ---------------------------------------------------------------------------------------------- logins


def write(directory: Path, config: object) -> None:
    (directory / "config.json").write_text(json.dumps(config))


async def test_a_stored_login_is_found_by_its_registry(tmp_path: Path) -> None:
    """As `docker login` leaves it, with or without the scheme; another registry's is not given away."""
    entry = base64.b64encode(b"joe:pw").decode()
    write(tmp_path, {"auths": {"https://r.example": {"auth": entry}, "tok.example": {"identitytoken": "t"}}})
    assert await stored_login(tmp_path, "r.example") == {"auth": entry}
    assert await stored_login(tmp_path, "tok.example") == {"identitytoken": "t"}
    assert await stored_login(tmp_path, "other.example") is None


@pytest.mark.parametrize(
    ("key", "server"),
    [
        ("r.example", "r.example"),
        ("http://r.example", "r.example"),
        ("https://r.example/v1/", "r.example"),
        ("r.example:5000", "r.example:5000"),
        ("index.docker.io", registry_of("joe/image")[1]),
        ("https://index.docker.io/v1/", registry_of("joe/image")[1]),
    ],
)
async def test_a_login_is_found_however_docker_wrote_its_registry(tmp_path: Path, key: str, server: str) -> None:
    """Docker's client compares hosts; older ones wrote whole addresses."""
    entry = base64.b64encode(b"joe:pw").decode()
    write(tmp_path, {"auths": {"other.example": {"auth": "x"}, key: {"auth": entry}}})
    assert await stored_login(tmp_path, server) == {"auth": entry}


@pytest.mark.parametrize("key", ["r.example:5000", "r.example.org", "https://mirror.example/r.example", "x.r.example"])
async def test_another_hosts_login_is_not_given_away(tmp_path: Path, key: str) -> None:
    """A port and a longer name are other hosts, and a path is none."""
    write(tmp_path, {"auths": {key: {"auth": base64.b64encode(b"joe:pw").decode()}}})
    assert await stored_login(tmp_path, "r.example") is None


@pytest.mark.parametrize(
    "config",
    [
        *([], 7, "x", None, {"auths": []}, {"auths": {"r.example": []}}, {"auths": {"r.example": {"auth": 7}}}),
        *({"credHelpers": []}, {"credHelpers": {"r.example": 7}}, {"credsStore": ["x"]}),
    ],
)
async def test_a_config_that_makes_no_sense_has_no_login(tmp_path: Path, config: object) -> None:
    """What is not as `docker login` leaves it is passed over; the registry says what it wants."""
    write(tmp_path, config)
    assert await stored_login(tmp_path, "r.example") is None


async def test_a_helper_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the login is in a keychain, the same program is asked that Docker asks."""
    helper = tmp_path / "docker-credential-mine"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"joe\\", \\"Secret\\": \\"$1 $server\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    write(tmp_path, {"credsStore": "mine"})
    assert await stored_login(tmp_path, "r.example") == {"username": "joe", "password": "get r.example"}
    helper.write_text("#!/bin/sh\necho credentials not found\nexit 1\n")
    assert await stored_login(tmp_path, "r.example") is None


@pytest.mark.parametrize("config", [None, "not json", {"credsStore": "nosuchhelper"}, {"auths": None}])
async def test_no_login_is_no_trouble(tmp_path: Path, config: object) -> None:
    """A missing, broken or empty configuration means a pull without a login."""
    if config == "not json":
        (tmp_path / "config.json").write_text("{")
    elif config is not None:
        write(tmp_path, config)
    assert await stored_login(tmp_path, "r.example") is None


# ---------------------------------------------------------------------------------------------- networks


def test_a_range_that_is_used_is_never_chosen() -> None:
    """Neither by another Docker network nor by a route of this host."""
    used = [IPv4Network("10.192.0.0/13"), IPv4Network("10.200.0.0/22")]
    chosen = next(free_ranges(used, begin=0))
    assert chosen == IPv4Network("10.200.4.0/22")
    assert list(free_ranges([IPv4Network("10.0.0.0/8")], begin=5)) == []


def test_two_owners_begin_at_different_places() -> None:
    """So that two that start at once seldom want the same."""
    assert next(free_ranges([], begin=1)) != next(free_ranges([], begin=2))


def test_routes_of_this_host(tmp_path: Path) -> None:
    """The kernel's table, little-endian; the default route says nothing of use."""
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0002C00A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert _routed_ranges(table) == [IPv4Network("10.192.2.0/24")]
    assert _routed_ranges(tmp_path / "none") == []
