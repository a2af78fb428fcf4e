"""One launch with a Vault that must be asked twice, a phone approval and a reconnect, by the service, for whoever collects telemetry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import Command
from support.home import PASSWORD as STORED
from support.home import Home
from support.scripted_vault import SECRET, Said, ScriptedVault
from support.waiting import wait_until

ANNA = FollowerId("anna")
TOKEN = "pl4nted-vault-t0ken"
PASSWORD: str = SECRET["data"]["data"]["IB_PASS"]  # type: ignore[index]  # a document
SECRETS = (PASSWORD, STORED, TOKEN)
"""What nobody may find in what leaves."""

LAUNCH = """
launch
  gateway prepare
    credentials read
      courier read
        vault try !
          vault request
        vault try
          vault request
  gateway launch
    store reserve_login
    runtime launch
      runtime create
      credentials deliver
        courier deliver
      runtime start
  login authenticating
  login awaiting_2fa
  gateway connect
    api handshake
    api session
  gateway heartbeat
""".strip().splitlines()
RECOVERY = """
recovery
  gateway connect
    api handshake
    api session
  gateway heartbeat
""".strip().splitlines()


def holds(found: list[str], wanted: list[str]) -> bool:
    """Whether these lines stand there in this order, whatever stands between them."""
    lines = iter(found)
    return all(line in lines for line in wanted)


@contextmanager
def phone_home() -> Iterator[Home]:
    """A home whose one follower's login waits for a phone."""
    home = Home()
    asyncio.run(home.add(ANNA, live=True))
    script = {"followers": {ANNA: {"laps": [{"second_factor": "pending"}]}}}
    (home.directory / "scripts.json").write_text(json.dumps(script))
    try:
        yield home
    finally:
        asyncio.run(home.end())


def launch_traced(
    home: Home, vault: ScriptedVault, endpoint: str, port: int, *, when_ready_again: Callable[[], None]
) -> str:
    """Run it through a sealed Vault, a phone and a lost connection until it is ready again, and to its end; gives its log.

    Args:
        home: of `phone_home`.
        vault: sealed when it is asked first.
        endpoint: where OTLP goes.
        port: of the metrics.
        when_ready_again: called before its end.
    """
    command = Command(home, vault_enabled=True, metrics_address=port, log_format="json", secret_poll_interval=300)
    command.environment |= {
        "VAULT_ADDR": vault.address,
        "VAULT_TOKEN": TOKEN,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    vault.read = Said(status=503, body={"errors": ["sealed"]})
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: [path for path in vault.asked if "/data/" in path])
        vault.read = Said()
        wait_until(lambda: _is(home, "awaiting_2fa"))
        _plant(home, "approve_second_factor")
        wait_until(lambda: _is(home, "ready"))
        _plant(home, "drop_clients")
        wait_until(lambda: serving.stderr.count('"GatewayReady"') == 2)
        when_ready_again()
        serving.process.terminate()
        assert serving.ends() == 0
        return serving.stderr


def _is(home: Home, state: str) -> bool:
    with ControlClient(home.directory) as client:
        return [each["state"] for each in client.gateways()] == [state]


def _plant(home: Home, fault: str) -> None:
    """Have something happen in her gateway."""

    async def plant() -> None:
        runtime = home.runtime()
        await runtime.open()
        await runtime.inject(ANNA, fault)
        await runtime.close()

    asyncio.run(plant())
