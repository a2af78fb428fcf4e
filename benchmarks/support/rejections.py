"""How long a gateway lives on once its controller has written that the password was rejected, by the engine's clock alone."""

from __future__ import annotations

import asyncio
import json
import re
import time
from http import HTTPStatus

from spreadpilot_core.ibkr.model.events import GatewayLaunched
from spreadpilot_core.ibkr.runtimes.docker.containers import parse_time
from spreadpilot_core.ibkr.runtimes.docker.naming import OWNER
from support.docker_bench import Bench, DockerHome
from support.docker_http import DockerApiError
from support.docker_images import GENERATIONS, Generation, derived_image, simulator_image

REJECTING = {"SIMULATOR_PASSWORD_SHA256": "0" * 64, "SIMULATOR_TIMINGS": "real"}
"""As slow to start and to stop as real ones."""
_REJECTION = re.compile(r"(\d{4}-\S+Z) [^\n]*unrecognized username or password", re.IGNORECASE)
_LINES: dict[Generation, str] = {
    "ibc": "2026-11-24 20:00:00:123 IBC: detected dialog entitled: Unrecognized Username or Password; event=Opened",
    "ibcontroller": "2026-11-24 20:00:00,123 INFO ibcontroller.recognisers: IBController > unrecognized username or password"
    " -- login rejected",
}
PATIENCE = 600.0


async def rejected(bench: Bench, count: int, *, deaf: bool) -> list[float]:
    """Seconds from the line to the end of the container, for up to `count` followers, half of them of each generation.

    A `deaf` controller is a shell that writes the line, goes on, and does not heed SIGTERM.
    """
    if not count:
        return []
    home = DockerHome(bench, log_level="error", stop_grace=90.0, max_startup_time=PATIENCE)
    for half, generation in enumerate(GENERATIONS):
        names = [f"f{number}" for number in range(half, count, len(GENERATIONS))]
        image = await asyncio.to_thread(_deaf_image if deaf else _rejecting_image, bench, generation)
        await home.add_with(image, *names)
    manager = home.manager()
    begun, happened = time.time(), manager.events()
    await manager.start()
    reading: dict[str, asyncio.Task[str | None]] = {}
    async with asyncio.timeout(PATIENCE):
        async for event in happened:
            if isinstance(event, GatewayLaunched):
                whole = asyncio.to_thread(_log_to_its_end, bench, event.container)
                reading[event.container] = asyncio.create_task(whole)
            if len(reading) == count:
                break
        logs = dict(zip(reading, await asyncio.gather(*reading.values()), strict=True))
    ends = await asyncio.to_thread(_ends, bench, begun)
    await manager.stop()
    await home.end()
    return [_lived_on(log, ends, container) for container, log in logs.items() if log is not None]


def _rejecting_image(bench: Bench, generation: Generation) -> str:
    return simulator_image(bench.api, generation, REJECTING)


def _deaf_image(bench: Bench, generation: Generation) -> str:
    """Of an image its command is looked at, so the old one stays behind the new one, unused."""
    base = simulator_image(bench.api, generation)
    command = bench.api.ask("GET", f"/images/{base}/json")["Config"]["Cmd"]
    deaf = f"trap '' TERM; sleep 1; echo '{_LINES[generation]}'; while :; do sleep 1; done"
    return derived_image(bench.api, base, {}, command=["sh", "-c", deaf, "deaf", *command])


def _log_to_its_end(bench: Bench, container: str) -> str | None:
    """None for a container that was gone before its log could be asked for."""
    try:
        said: str = bench.api.ask("GET", f"/containers/{container}/logs", stdout=1, stderr=1, timestamps=1, follow=1)
    except DockerApiError as refused:
        if refused.status != HTTPStatus.NOT_FOUND:
            raise
        return None
    return said


def _ends(bench: Bench, since: float) -> dict[str, float]:
    """When each container ended, by name and by id: the engine keeps its events, not its removed containers' FinishedAt."""
    time.sleep(0.5)
    asked = json.dumps({"event": ["die"], "label": [f"{OWNER}={bench.prefix}"]})
    said = bench.api.ask("GET", "/events", since=f"{since:.3f}", until=f"{time.time():.3f}", filters=asked)
    events = [said] if isinstance(said, dict) else [json.loads(line) for line in said.splitlines()]
    times = [(event["Actor"], event["timeNano"] / 1e9) for event in events]
    return {key: at for actor, at in times for key in (actor["ID"], actor["Attributes"]["name"])}


def _lived_on(log: str, ends: dict[str, float], container: str) -> float:
    line = _REJECTION.search(log)
    if line is None:
        raise RuntimeError(f"the log of {container} tells of no rejection: {log[-2000:]}")
    written = parse_time(line[1])
    assert written is not None
    return ends[container] - written.timestamp()
