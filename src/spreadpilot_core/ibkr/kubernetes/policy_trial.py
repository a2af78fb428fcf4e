"""Whether anything in the cluster enforces network policies: one pod listens behind a policy that lets nobody in, another one knocks.

Who gets in although nobody may is not kept out. Who does not get in proves something only if it does once the policy is gone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.kubernetes.access_rules import NETWORKING
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.following import asked_again, until_running
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER, PodChoices, literal, short_pod
from spreadpilot_core.ibkr.kubernetes.naming import NAMESPACE, ROLE, Naming
from spreadpilot_core.ibkr.kubernetes.phases import Pod
from spreadpilot_core.ibkr.kubernetes.pods import name_of, uid_of
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of

TRIAL: Final = "policy-trial"
_PORT: Final = 4002
_PART: Final = f"{NAMESPACE}/trial"
_PYTHON: Final = """\
import socket, sys, time
if len(sys.argv) < 2:
    server = socket.create_server(("", PORT))
    while True:
        server.accept()[0].close()
while True:
    try:
        socket.create_connection((sys.argv[1], PORT), 1).close()
        print("in", flush=True)
    except OSError:
        print("out", flush=True)
    time.sleep(0.5)
""".replace("PORT", str(_PORT))
_LISTEN: Final = f"""\
command -v socat >/dev/null && exec socat TCP-LISTEN:{_PORT},fork,reuseaddr /dev/null
exec python3 -c "$1"
"""
_KNOCK: Final = f"""\
command -v socat >/dev/null || exec python3 -c "$1" "$2"
while :; do
    if socat -u OPEN:/dev/null "TCP:$2:{_PORT},connect-timeout=1" 2>/dev/null; then echo in; else echo out; fi
    sleep 0.5
done
"""
_IN_A_ROW: Final = 4
"""Alike answers that count: a plugin may need a second to see a new pod."""


class Enforced(Enum):
    """What was seen."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    """Nobody got in, whether or not a policy was there."""


async def policies_enforced(
    api: Api, image: str, *, naming: Naming, choices: PodChoices, start_within: float, within: float = 10.0
) -> Enforced:
    """Try it, with pods of this image, and leave nothing.

    Raises:
        GatewayManagerError: pods or policies can't be made.
    """
    trial = _Trial(api, image, naming, choices)
    try:
        async with asyncio.timeout(start_within):
            await trial.begin(start_within)
        seen = await trial.settled(within)
        if seen == "in":
            return Enforced.NO
        await trial.lift()
        return Enforced.YES if await trial.settled(within, wanted="in") == "in" else Enforced.UNKNOWN
    except TimeoutError:
        return Enforced.UNKNOWN
    finally:
        await trial.end()


class _Trial:
    """One, and what it has made."""

    def __init__(self, api: Api, image: str, naming: Naming, choices: PodChoices) -> None:
        self._api, self._image, self._naming, self._choices = api, image, naming, choices
        self._token = secrets.token_hex(4)
        self._pods: list[Pod] = []
        self._policy: Mapping[str, Any] | None = None

    async def begin(self, within: float) -> None:
        """The policy first, so that no pod is ever without it."""
        name = f"{self._naming.gateways}-trial-{self._token}"
        policy = {
            "apiVersion": NETWORKING,
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "labels": {ROLE: TRIAL}},
            "spec": {"podSelector": {"matchLabels": {_PART: f"{self._token}-listens"}}, "policyTypes": ["Ingress"]},
        }
        self._policy = await self._create("networkpolicies", policy, group=NETWORKING)
        listener = await self._start("listens", [_LISTEN, _PYTHON], within)
        await self._start("knocks", [_KNOCK, _PYTHON, str((listener.get("status") or {}).get("podIP"))], within)

    async def _start(self, part: str, words: list[str], within: float) -> Pod:
        script, *arguments = words
        command = ["/bin/sh", "-c", literal(script), "trial", *(literal(each) for each in arguments)]
        name = f"{self._naming.gateways}-{part}-{self._token}"
        labels = {ROLE: TRIAL, _PART: f"{self._token}-{part}"}
        pod = short_pod(name, self._image, command, labels=labels, naming=self._naming, choices=self._choices)
        made = await self._create("pods", pod)
        self._pods.append(made)
        states = asked_again(self._api, made)
        return await until_running(self._api, made, states, within=within, tell=lambda _: None)

    async def _create(self, kind: str, thing: Mapping[str, Any], *, group: str = "") -> dict[str, Any]:
        what = f"the trial {thing['metadata']['name']}"
        try:
            return await self._api.create(f"create {what}", self._api.place(kind, group=group), thing)
        except RefusedError as refused:
            raise refusal_of(refused, what) from refused

    async def settled(self, within: float, *, wanted: str | None = None) -> str:
        """What the knocks come to, several in a row alike: what is wanted, or in the end the last of them."""
        row: list[str] = []
        path, query = f"{self._api.place('pods', name_of(self._pods[-1]))}/log", {"container": CONTAINER}
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                async with self._api.stream(
                    "read the trial", path, {**query, "follow": "true", "sinceSeconds": 1}
                ) as lines:
                    while line := (await lines.readline()).decode().strip():
                        row = [*row, line][-_IN_A_ROW:]
                        if len(row) == _IN_A_ROW and len(set(row)) == 1 and wanted in (None, line):
                            return line
        return row[-1] if row else "out"

    async def lift(self) -> None:
        """Take the policy away."""
        if (policy := self._policy) is not None:
            path = self._api.place("networkpolicies", policy["metadata"]["name"], group=NETWORKING)
            await self._api.delete("remove the trial's policy", path, uid=policy["metadata"]["uid"])
            self._policy = None

    async def end(self) -> None:
        """Remove all that is left; what can't be removed ends by itself."""
        with suppress(GatewayManagerError):
            await self.lift()
        for pod in self._pods:
            with suppress(GatewayManagerError):
                path = self._api.place("pods", name_of(pod))
                await self._api.delete(f"remove {name_of(pod)}", path, uid=uid_of(pod), grace=0)
