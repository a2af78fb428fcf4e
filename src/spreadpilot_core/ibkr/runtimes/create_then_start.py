"""A launch on an engine whose containers run nothing before they are started, and are published on ports of this host.

    lease a port -> create -> deliver the password -> commit -> start

A created container keeps its password and types nothing, so `commit` stands right before the start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from spreadpilot_core.ibkr.errors import GatewayManagerError, PortTakenError, UnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases
from spreadpilot_core.ibkr.seams import CommitLogin, DeliverSecret
from spreadpilot_core.ibkr.telemetry import get_logger, traced

log = get_logger(__name__)


async def create_then_start(
    ports: PortLeases,
    follower_id: FollowerId,
    *,
    create: Callable[[int], Awaitable[DeliveryTarget]],
    start: Callable[[ContainerId], Awaitable[Gateway]],
    discard: Callable[[ContainerId], Awaitable[object]],
    secret: DeliverSecret,
    commit: CommitLogin,
) -> Gateway:
    """As `GatewayRuntime.launch` promises.

    Args:
        ports: this host's, of which one is leased.
        follower_id: whose gateway it is.
        create: makes the container that is to be published on this port.
        start: starts it, once. Raises `PortTakenError`.
        discard: removes a container that was not started.
        secret: has the password delivered.
        commit: writes the login down as started.

    """
    port = ports.lease(follower_id)
    try:
        with traced("runtime create"):
            target = await create(port)
    except BaseException:  # cut off it may be there all the same: the next list says so
        ports.release(follower_id)
        raise
    container_id = target.container_id
    ports.made(container_id, follower_id)
    try:
        await secret(target)
        await commit(container_id)
    except Exception as failure:
        try:
            await discard(container_id)
        except UnavailableError as trouble:  # which is then why the launch had failed
            raise trouble from failure
        except GatewayManagerError as trouble:  # it can't log in, and is listed again
            log.warning("container of a launch that failed was left", follower=follower_id, why=str(trouble))
        raise
    try:
        with traced("runtime start"):
            return await start(container_id)
    except PortTakenError:
        ports.refuse(follower_id)
        raise
