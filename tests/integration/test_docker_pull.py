"""Pulling a gateway's image: by policy, once for all, with a login, and each failure with its cure."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import (
    ImageMissingError,
    RegistryDeniedError,
    RegistryUnreachableError,
    RuntimeUnavailableError,
    UnknownImageError,
)
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    bench_fixture,
    engine_fixture,
    free_port,
    own_engine_fixture,
    until,
)
from support.docker_http import DockerApiError
from support.registry import Registry

pytestmark = pytest.mark.real_part("docker")


@asynccontextmanager
async def registry(bench: Bench, **options: Any) -> AsyncIterator[Registry]:
    """A registry whose images look like the older generation's; what was pulled from it is removed after."""
    config = {"Env": [f"IBC_INI=/{secrets.token_hex(8)}"], "Cmd": ["/run.sh"], "User": "1000:1000"}
    made = Registry(config | options.pop("config", {}), **options)
    async with made.running():
        try:
            yield made
        finally:
            for image in bench.api.ask("GET", "/images/json"):
                for name in image["RepoTags"] or ():
                    if name.startswith(made.image("")):
                        bench.api.ask("DELETE", f"/images/{name}", force=1)


async def test_an_image_is_pulled_once_for_all_who_wait(bench: Bench) -> None:
    """Twenty gateways of one image make one pull; when it is here nothing is asked any more."""
    runtime = await bench.runtime()
    async with registry(bench, delay=0.2) as source:
        spec = bench.spec(image=source.image("gateway:1"))
        waiting = [asyncio.create_task(runtime.prepare(spec)) for _ in range(20)]
        await until(lambda: source.asked["blob"] > 0, "the pull")
        waiting[3].cancel()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert told.count("ibc") == 19
        assert source.asked["blob"] == 2
        before = source.asked.total()
        assert await runtime.prepare(spec) == "ibc"
        assert source.asked.total() == before


async def test_the_policies(bench: Bench) -> None:
    """`never` does not ask, `always` asks although the image is here, once for a fleet that starts together."""
    async with registry(bench) as source:
        spec = bench.spec(image=source.image("gateway:2"))
        never = await bench.runtime(pull_policy="never")
        with pytest.raises(ImageMissingError, match="the pull policy is never"):
            await never.prepare(spec)
        assert source.asked.total() == 0
        always = await bench.runtime(pull_policy="always")
        await always.prepare(spec)
        asked = source.asked["manifest"]
        await asyncio.gather(*(always.prepare(spec) for _ in range(5)))
        assert source.asked["manifest"] == asked
        await (await bench.runtime(pull_policy="always")).prepare(spec)
        assert source.asked["manifest"] > asked
        assert await never.prepare(spec) == "ibc"


async def test_a_private_registry_wants_the_login_that_docker_has(bench: Bench, tmp_path: Path) -> None:
    """Without it the refusal says how to log in; with what `docker login` leaves, the image comes."""
    async with registry(bench, login=("joe", "s3cret")) as source:
        spec = bench.spec(image=source.image("private:1"))
        runtime = await bench.runtime(docker_config=tmp_path)
        with pytest.raises(RegistryDeniedError, match=f"docker login 127.0.0.1:{source.port}"):
            await runtime.prepare(spec)
        entry = base64.b64encode(b"joe:s3cret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{source.port}": {"auth": entry}}}))
        assert await runtime.prepare(spec) == "ibc"


async def test_what_does_not_exist(bench: Bench) -> None:
    """No such tag in the registry: check the name; all waiters are told, and the next try asks again."""
    runtime = await bench.runtime()
    async with registry(bench) as source:
        spec = bench.spec(image=source.image("missing:1"))
        told = await asyncio.gather(*(runtime.prepare(spec) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(one, ImageMissingError) for one in told)
        assert "Check the name and the tag" in str(told[0])
        with pytest.raises(ImageMissingError):
            await runtime.prepare(spec)


async def test_a_registry_that_is_away(bench: Bench) -> None:
    """Nobody listens there: the network is to be looked at."""
    runtime = await bench.runtime()
    with pytest.raises(RegistryUnreachableError, match="can't be pulled"):
        await runtime.prepare(bench.spec(image=f"127.0.0.1:{free_port()}/gateway:1"))


async def test_a_pulled_image_that_is_no_gateway(bench: Bench) -> None:
    """Pulled, looked at, refused; nothing is created."""
    runtime = await bench.runtime()
    async with registry(bench, config={"Env": ["A=b"]}) as source:
        with pytest.raises(UnknownImageError, match="its environment has A"):
            await runtime.prepare(bench.spec(image=source.image("other:1")))
    assert list(await runtime.list()) == []


async def test_a_runtime_closed_while_it_pulls(bench: Bench) -> None:
    """Closing waits for no registry, and no container was made."""
    runtime = await bench.runtime()
    async with registry(bench, delay=30) as source:
        waiting = asyncio.create_task(runtime.prepare(bench.spec(image=source.image("slow:1"))))
        await until(lambda: source.asked["blob"] > 0, "the pull")
        await asyncio.wait_for(runtime.close(), 20)
        with pytest.raises(RuntimeUnavailableError, match="closed while it pulled"):
            await waiting
        with pytest.raises(DockerApiError):
            bench.api.ask("GET", f"/images/{source.image('slow:1')}/json")
