"""One pod, followed until it is as it should be: placed and running, or confirmed gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from spreadpilot_core.ibkr.errors import (
    GatewayManagerError,
    ImageError,
    LaunchError,
    NodeLostError,
    PodNotStartedError,
    PodUnschedulableError,
    RuntimeUnavailableError,
)
from spreadpilot_core.ibkr.kubernetes.api import Api, Query, RefusedError
from spreadpilot_core.ibkr.kubernetes.phases import (
    Pod,
    Wait,
    Waiting,
    container_state,
    is_collected,
    is_confirmed_ended,
    is_deleted,
    is_final,
    is_out_of_service,
    is_running,
    node_of,
    node_trouble,
    waiting_for,
)
from spreadpilot_core.ibkr.kubernetes.pods import name_of, uid_of
from spreadpilot_core.ibkr.tasks import Backoff

States = AsyncGenerator[Pod | None, None]
"""A pod as it is, each time that it is told; None as the last, when it is gone."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_NODE_CHECKED_EVERY: Final = 5.0
"""Seconds between two looks at the node of a pod whose end is waited for."""
_MOST_EVENTS: Final = 50


async def asked_again(api: Api, pod: Pod) -> AsyncGenerator[Pod | None, None]:
    """This pod, asked for now and then; None as the last, when it is gone. For whom no watch is worth its while."""
    name, backoff = name_of(pod), Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while (found := await api.get(f"read the pod {name}", api.place("pods", name))) is not None:
        yield found
        await asyncio.sleep(backoff.next())
    yield None


async def until_running(
    api: Api, pod: Pod, states: States, *, within: float, tell: Callable[[Waiting | None], None]
) -> Pod:
    """The pod once its container runs.

    Args:
        api: the API server.
        pod: as it was made.
        states: as it is from then on.
        within: seconds.
        tell: what it waits for, whenever that changes.

    Raises:
        PodUnschedulableError, PodNotStartedError, ImageError: what keeps it, in the words of who does.
        LaunchError: somebody else removed it, or it ended before it was given anything.
    """
    name, last = name_of(pod), pod
    try:
        async with asyncio.timeout(within), aclosing(states):
            async for seen in states:
                if seen is None or is_deleted(seen):
                    raise LaunchError(f"The pod {name} was removed by somebody else while it started.")
                last = seen
                if is_running(seen):
                    return seen
                if is_final(seen):
                    raise PodNotStartedError(name, node_of(seen), _final_words(seen))
                waits = waiting_for(seen)
                tell(waits)
                if waits is not None and waits.is_hopeless:
                    raise _error(seen, waits, within)
    except TimeoutError:
        waits = waiting_for(last) or Waiting(Wait.START, "it took too long")
        if waits.kind is Wait.START and (said := await _warning(api, last)):
            waits = Waiting(Wait.START, said)
        raise _error(last, waits, within) from None
    finally:
        tell(None)
    raise AssertionError  # the states end with None


async def until_final(pod: Pod, states: States, *, within: float) -> None:
    """Wait until what a pod does is done. Raises as `until_running`, and where it failed."""
    last = pod
    try:
        async with asyncio.timeout(within), aclosing(states):
            async for seen in states:
                if seen is None:
                    raise LaunchError(f"The pod {name_of(pod)} was removed by somebody else.")
                last = seen
                if "terminated" in container_state(seen):
                    return
                if is_final(seen):
                    raise PodNotStartedError(name_of(seen), node_of(seen), _final_words(seen))
                waits = waiting_for(seen)
                if waits is not None and (waits.is_hopeless or _is_refused_image(waits)):
                    raise _error(seen, waits, within)
    except TimeoutError:
        raise _error(last, waiting_for(last) or Waiting(Wait.START, "it took too long"), within) from None


def _is_refused_image(waits: Waiting) -> bool:
    """For a look the first answer is enough: it is looked again later."""
    return waits.kind is Wait.IMAGE


def _error(pod: Pod, waits: Waiting, within: float) -> GatewayManagerError:
    name, image = name_of(pod), str(pod["spec"]["containers"][0]["image"])
    match waits.kind:
        case Wait.NODE:
            return PodUnschedulableError(name, waits.said, within)
        case Wait.IMAGE:
            return ImageError(
                image,
                f"The node {node_of(pod)} can't get the image {image}: {waits.said.rstrip('.')}.",
                hint="Check its name and tag in gateway_image; a registry that wants a login has it by kubernetes_pull_secrets.",
            )
        case Wait.CONTAINER | Wait.START:
            return PodNotStartedError(name, node_of(pod), waits.said)


def _final_words(pod: Pod) -> str:
    status = pod.get("status") or {}
    return str(status.get("message") or status.get("reason") or "it ended before it was given its password")


async def _warning(api: Api, pod: Pod) -> str | None:
    """The newest warning about a pod: what keeps a volume from being mounted stands nowhere else."""
    query: Query = {"fieldSelector": f"involvedObject.uid={uid_of(pod)},type=Warning", "limit": _MOST_EVENTS}
    try:
        found = await api.ask("read events", api.place("events"), query=query)
    except GatewayManagerError:  # it need not be allowed
        return None
    newest = max(found.get("items") or (), key=lambda each: str(each.get("lastTimestamp") or ""), default=None)
    return None if newest is None else f"{newest.get('reason')}: {newest.get('message')}"


async def until_ended(api: Api, pod: Pod, states: States, *, within: float) -> Pod | None:
    """The pod once its node has confirmed its end, or somebody who may say so that its node's machine is off; None when it is gone.

    Raises:
        NodeLostError: its node does not answer.
        RuntimeUnavailableError: its node did not confirm it in time.
    """
    deadline = asyncio.get_running_loop().time() + within
    seen: Pod | None = pod
    following = asyncio.ensure_future(anext(states))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=_NODE_CHECKED_EVERY)
            if done:
                seen = following.result()
                if seen is None or is_confirmed_ended(seen):
                    return seen
                following = asyncio.ensure_future(anext(states))
            assert seen is not None
            if (not done or is_collected(seen)) and await _node_is_off(api, seen):
                return seen
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeUnavailableError(
                    f"The end of the pod {name_of(pod)} is not confirmed: its node {node_of(pod)} has not said that it ended."
                )
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await states.aclose()


async def _node_is_off(api: Api, pod: Pod) -> bool:
    """Whether the pod's machine is said to be off for good. Raises `NodeLostError` for a node that merely does not answer."""
    name = node_of(pod)
    if not name:
        return False
    try:
        node = await api.get(f"read the node {name}", f"/api/v1/nodes/{name}")
    except RefusedError as refused:
        if not refused.is_denied:
            raise
        if is_collected(pod):
            raise NodeLostError(
                name_of(pod), name, "this manager may not read nodes, so that it can't tell"
            ) from refused
        return False
    if node is None or is_out_of_service(node):
        return is_collected(pod)
    if (trouble := node_trouble(node)) is not None:
        raise NodeLostError(name_of(pod), name, trouble)
    return False
