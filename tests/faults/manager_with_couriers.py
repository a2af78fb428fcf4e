"""A manager's process for the memory search: reads a fleet's logins by couriers, has them delivered, then stands still.

Arguments: state directory, address of Vault, doors (JSON), and "copy" to keep one password on purpose, in several forms.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from spreadpilot_core.ibkr.credentials.broker import CourierBroker
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.settings import Settings


async def launch(couriers: CourierBroker, number: int, delivery_target: DeliveryTarget) -> None:
    """One follower's way: read, and deliver."""
    controller = "ibc" if number % 2 else "ibcontroller"
    login = await couriers.read(f"ibkr/f{number}", controller, follower_id=FollowerId(f"f{number}"))  # type: ignore[arg-type]
    await couriers.deliver(login.ticket, delivery_target)


def target_of(told: Mapping[str, str]) -> DeliveryTarget:
    """As its runtime gave it out."""
    address = {name: value for name, value in told.items() if name not in ("kind", "container")}
    return DeliveryTarget(told["kind"], ContainerId(told["container"]), address)


async def main() -> None:
    """Launch in two bursts, wait until the couriers have gone, then until standard input ends."""
    state_dir, address, delivery_targets, copy = sys.argv[1:]
    couriers = CourierBroker.from_settings(Settings.read(state_dir=Path(state_dir), vault_addr=address))
    every = [(number, target_of(told)) for number, told in enumerate(json.loads(delivery_targets))]
    for burst in (every[:10], every[10:]):
        await asyncio.gather(*(launch(couriers, number, delivery_target) for number, delivery_target in burst))
        while couriers._live:
            await asyncio.sleep(0.05)
    kept = copies(address) if copy else None
    sys.stdout.write("launched\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    del kept


def copies(address: str) -> list[object]:
    """One password, read behind the couriers' back, as it may be lying about."""
    client = http.client.HTTPConnection(address.removeprefix("http://"))
    client.request("GET", "/v1/secret/data/ibkr/f3", headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]})
    password = json.load(client.getresponse())["data"]["data"]["IB_PASS"]
    return [password, password.encode(), json.dumps(password), base64.b64encode(b"x" + password.encode())]


if __name__ == "__main__":
    asyncio.run(main())
