"""Every password arrives at the login form as it is, through both generations of the image."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from typing import Any

import pytest

from spreadpilot_core.ibkr.credentials.courier.encoding import UntypableError, encode
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.runtimes.docker.containers import HealthCheck, Labelled, container_config
from spreadpilot_core.ibkr.runtimes.docker.naming import Naming
from spreadpilot_core.ibkr.runtimes.images import identify
from spreadpilot_core.ibkr.runtimes.wrapper import WRAPPER
from support.docker_bench import Bench, bench_fixture, engine_fixture, own_engine_fixture  # noqa: F401  # fixtures
from support.docker_images import GENERATIONS, Generation

pytestmark = pytest.mark.real_part("docker")

ODD = [
    "a\\b\\\\c\\",
    "\\u0041",
    "\\n\\t",
    "\"quoted\" 'twice'",
    "$HOME ${HOME} $(id) `id`",
    "#hash first",
    "!bang=x:y",
    "a = b",
    "{single} {0} } {",
    "in  ner   blanks",
    "é€ß漢字",
    "\N{GRINNING FACE}\N{FAMILY}",
    "%s %d %%",
    "&&|;<>()*?[]~^",
    "x" * 128,
    "\u00a0nbsp\u00a0inside",
]
COUNT = 200
SEED = 20261124
_PRINTABLE = [chr(i) for i in range(33, 127)]
_OTHERS = list("éüñßøåçžłőأبж漢字かな한글€£¥\U0001f600\U0001f680")
IN_CONTAINERS_OF_THEIR_OWN = len(ODD) + 4
"""The whole way costs a container for each: all of them take it in the soak, and the same way inside one container else."""

_TELL = """
import hashlib, os
from spreadpilot_core.ibkr.simulator.image_rules import read_order
print(hashlib.sha256(read_order(os.environ).password.encode()).hexdigest())
"""
_TELL_MANY = """
import hashlib, json, os, subprocess
from spreadpilot_core.ibkr.simulator.image_rules import read_order
asked = json.load(open("/tmp/asked.json"))
for secret in map(bytes.fromhex, asked["secrets"]):
    sent = b"%d\\n" % len(secret) + secret
    subprocess.run(["/bin/sh", "-c", asked["wrapper"], "gateway-manager", "/tmp", "true"], input=sent, check=True)
    print(hashlib.sha256(read_order(os.environ).password.encode()).hexdigest())
"""


def passwords(generation: Generation) -> list[str]:
    """The odd ones and generated ones, 200 that this generation can take."""
    source = random.Random(SEED)  # the same ones each time
    made = list(ODD)
    while len(made) < COUNT * 2:
        alphabet = (
            _PRINTABLE + ([" "] * 4 if source.random() < 0.5 else []) + (_OTHERS if source.random() < 0.4 else [])
        )
        made.append("".join(source.choice(alphabet) for _ in range(source.randint(1, 128))))
    return [password for password in made if can_take(password, generation)][:COUNT]


def can_take(password: str, generation: Generation) -> bool:
    """What an image would change is refused by the courier before anything is created."""
    try:
        encode(password, generation)
    except UntypableError:
        return False
    return True


def container(bench: Bench, generation: Generation, command: list[str]) -> dict[str, Any]:
    """The manager's own container, without network and volume, which are dear and have no part in this."""
    spec = bench.spec(generation=generation)
    assert spec.options.image is not None
    image = identify(spec.options.image, bench.api.ask("GET", f"/images/{spec.options.image}/json"))
    config = container_config(
        image, spec, Labelled(4100, 1), naming=Naming(bench.prefix), api=(1, 41), health=HealthCheck(), version="0"
    )
    config["Entrypoint"] = [*config["Entrypoint"][:-1], "/tmp"]  # instead of the settings' directory
    config["Cmd"], config["Env"] = command, [*config["Env"], "PYTHONPATH=/opt/gateway-simulator"]
    config["HostConfig"] |= {"NetworkMode": "none", "PortBindings": {}, "Mounts": []}
    return config | {"Healthcheck": {"Test": ["NONE"]}, "ExposedPorts": {}}


def digest(password: str) -> str:
    """What is compared."""
    return hashlib.sha256(password.encode()).hexdigest()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_odd_passwords_arrive_in_containers_of_their_own(bench: Bench, generation: Generation) -> None:
    """Through the door, the engine, the wrapper, the file on tmpfs and the image's own rules; compared by hash inside."""
    assert await not_arrived(bench, generation, passwords(generation)[:IN_CONTAINERS_OF_THEIR_OWN]) == []


@pytest.mark.soak
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_two_hundred_passwords_arrive_in_containers_of_their_own(bench: Bench, generation: Generation) -> None:
    """The whole way as above, for every password: a container for each, minutes in all."""
    wanted = passwords(generation)
    assert len(wanted) == COUNT
    assert await not_arrived(bench, generation, wanted) == []


async def not_arrived(bench: Bench, generation: Generation, wanted: list[str]) -> list[str]:
    """Those that came out as something else, each with what its container said."""
    config = container(bench, generation, ["python3", "-c", _TELL])
    limit = asyncio.Semaphore(4)

    def through(password: str) -> str:
        made = bench.api.ask("POST", "/containers/create", body=config)["Id"]
        delivery_target = {"kind": "docker", "socket": bench.engine.socket, "container": made, "api_version": "1.41"}
        deliver(delivery_target, encode(password, generation))
        bench.api.ask("POST", f"/containers/{made}/start")
        bench.api.ask("POST", f"/containers/{made}/wait")
        said = bench.api.logs(made)
        bench.api.remove(made)
        return said

    async def check(password: str) -> str | None:
        async with limit:
            said = await asyncio.to_thread(through, password)
        return None if digest(password) in said else f"{password!r}: {said}"

    return [one for one in await asyncio.gather(*map(check, wanted)) if one]


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_two_hundred_passwords_arrive(bench: Bench, generation: Generation) -> None:
    """From standard input through the wrapper, the file on tmpfs and the image's own rules; compared by hash inside."""
    wanted = passwords(generation)
    assert len(wanted) == COUNT
    config = container(bench, generation, ["sleep", "3600"]) | {"Entrypoint": []}
    made = bench.api.run(config)
    secrets = [encode(password, generation).hex() for password in wanted]
    bench.api.put_file(made, "/tmp/asked.json", json.dumps({"wrapper": WRAPPER, "secrets": secrets}).encode())
    said = await asyncio.to_thread(bench.api.execute, made, "python3", "-c", _TELL_MANY)
    assert said.split() == [digest(password) for password in wanted]
