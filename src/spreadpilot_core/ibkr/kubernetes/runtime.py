"""Gateways in a Kubernetes cluster: each a bare pod of one namespace, with an address of its own.

    prepare   the image at hand, and what it says of itself                      images
    launch    the user is free, policy and settings' claim, pod                  shared_queries, access_keeping, manifests
              its place and start; beside it the user again, the image, its Service    pod_watch, following
              commit, its mark, its password
    list …    every pod with our identity, whatever its phase                    pods
    changes, log                                                                 streams
    remove    asked to end, confirmed by its node, its finalizer taken           pod_watch, following
    reach     its address in the cluster, or a way through the API server        forwarding

A pod runs while it waits for its password. What says that it may have it is written into the pod right before it is delivered, so
that the next manager knows it too. It touches only what bears an identity of this manager, and knows no policy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from spreadpilot_core.ibkr.errors import (
    DeliveryExpiredError,
    GatewayManagerError,
    LaunchError,
    NameTakenError,
    RuntimeUnavailableError,
    UserTakenError,
)
from spreadpilot_core.ibkr.kubernetes.access_keeping import AccessKeeper
from spreadpilot_core.ibkr.kubernetes.access_rules import AccessRules
from spreadpilot_core.ibkr.kubernetes.api import Api, RefusedError
from spreadpilot_core.ibkr.kubernetes.connecting import access_from
from spreadpilot_core.ibkr.kubernetes.executing import execute
from spreadpilot_core.ibkr.kubernetes.following import until_ended, until_running
from spreadpilot_core.ibkr.kubernetes.forwarding import Forwards
from spreadpilot_core.ibkr.kubernetes.image_notes import NOTES, ImageNotes
from spreadpilot_core.ibkr.kubernetes.images import ImageProbes
from spreadpilot_core.ibkr.kubernetes.manifests import CONTAINER, SETTINGS, PodChoices, gateway_pod
from spreadpilot_core.ibkr.kubernetes.naming import (
    COMMITTED,
    FINALIZER,
    FOLLOWED,
    SELECTOR,
    USER,
    Naming,
    labels_of,
)
from spreadpilot_core.ibkr.kubernetes.phases import (
    Pod,
    Waiting,
    container_state,
    is_deleted,
    is_final,
    is_running,
)
from spreadpilot_core.ibkr.kubernetes.pod_watch import FollowedPod, PodWatch
from spreadpilot_core.ibkr.kubernetes.pods import foreign_from, gateway_from, name_of, uid_of
from spreadpilot_core.ibkr.kubernetes.refusals import refusal_of
from spreadpilot_core.ibkr.kubernetes.settings import access_rules_from, choices_from
from spreadpilot_core.ibkr.kubernetes.settings_claims import ensure_claim
from spreadpilot_core.ibkr.kubernetes.shared_queries import SharedQueries
from spreadpilot_core.ibkr.kubernetes.streams import LineReader, PodChanges, log_lines, printed
from spreadpilot_core.ibkr.kubernetes.things_of_followers import ThingsOfFollowers
from spreadpilot_core.ibkr.model.figures import ContainerFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import (
    Controller,
    DeliveryTarget,
    Endpoint,
    ForeignGateway,
    Gateway,
    GatewaySpec,
    LastWords,
)
from spreadpilot_core.ibkr.model.records import NOBODY, ContainerId, Identities
from spreadpilot_core.ibkr.model.users import user_digest
from spreadpilot_core.ibkr.runtimes.held_names import held_name
from spreadpilot_core.ibkr.runtimes.host_ports import NoHostPorts, endpoint_of
from spreadpilot_core.ibkr.runtimes.images import PASSWORD_FILE, Image
from spreadpilot_core.ibkr.seams import CommitLogin, DeliverSecret, HostPorts
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.clock import utc_now
from spreadpilot_core.ibkr.tasks import Tasks, side_by_side
from spreadpilot_core.ibkr.telemetry import get_logger, traced

log = get_logger(__name__)

SENDER: Final = "kubernetes"
CONFIRMED_WITHIN: Final = 60.0
"""Seconds beyond its grace that a removal waits for a node to confirm the end."""
_LAST_LINES: Final = 1000
_LINES_WITHIN: Final = 5.0
"""Seconds for the last lines of a pod that has ended."""
_GONE_WITHIN: Final = 60.0
_KILL_ALL: Final = ("/bin/sh", "-c", "kill -s KILL -1")
"""Of the pod, but for what holds its name spaces."""


def _package_version() -> str:
    try:
        return version("spreadpilot-gateway-manager")
    except PackageNotFoundError:  # run from a copy of the sources
        return "0"


_VERSION: Final = _package_version()


class KubernetesRuntime:
    """`seams.GatewayRuntime` in one namespace of one cluster."""

    def __init__(
        self,
        api: Api,
        *,
        prefix: str,
        identities: Identities = NOBODY,
        choices: PodChoices | None = None,
        access: AccessRules | None = None,
        start_time: float = 300.0,
        notes: ImageNotes | None = None,
    ) -> None:
        self.ports: HostPorts = NoHostPorts()
        self.foreign: Sequence[ForeignGateway] = ()
        self.identities = identities
        self._prefix = prefix
        self._api = api
        self._choices = choices or PodChoices()
        self._start_time = start_time
        self._watch = PodWatch(api, FOLLOWED)
        self._probes = ImageProbes(self._watch, choices=self._choices, within=start_time, notes=notes)
        self._forwards = Forwards(api)
        self._access = AccessKeeper(api, access or AccessRules())
        self._claims = ThingsOfFollowers(api, "persistentvolumeclaims", SETTINGS, called="claim")
        self._users = SharedQueries[str, Sequence[Pod]]("pods of IBKR users", self._pods_of_users)
        self._names: dict[ContainerId, str] = {}
        """What the API server calls each pod: it finds none by its id."""
        self._reset_hours: dict[FollowerId, str | None] = {}
        self._waits: dict[FollowerId, Waiting] = {}
        self._launching: set[str] = set()
        """Names of pods whose launch is not committed yet: it follows them itself, and nobody else knows them."""

    @classmethod
    def from_settings(cls, settings: Settings, *, manager_id: str) -> KubernetesRuntime:
        """The runtime that the settings ask for; its identities are told later, once the record store was read."""
        del manager_id
        return cls(
            Api(access_from(settings)),
            prefix=settings.container_prefix,
            choices=choices_from(settings),
            access=access_rules_from(settings),
            start_time=settings.pod_start_time,
            notes=ImageNotes(settings.state_dir / NOTES),
        )

    @property
    def guard(self) -> Callable[[], None]:
        """The API's, which sends the requests."""
        return self._api.guard

    @guard.setter
    def guard(self, guard: Callable[[], None]) -> None:
        self._api.guard = guard

    @property
    def _naming(self) -> Naming:
        return Naming(self._prefix, self.identities)

    async def open(self) -> None:
        """Reach the API server."""
        await self._api.open()
        await self._probes.open()
        log.info("kubernetes reached", server=self._api.server, namespace=self._api.namespace)

    async def close(self) -> None:
        """Let go; no pod is touched."""
        await self._probes.close()
        await self._forwards.close()
        for queries in (self._users, self._claims, self._access):
            await queries.close()
        await self._watch.close()
        await self._api.close()

    async def identity(self) -> str:
        """The namespace's own id, which is another one in each cluster and each time that it is made."""
        path = f"/api/v1/namespaces/{self._api.namespace}"
        found = await self._api.ask(f"read the namespace {self._api.namespace}", path)
        return f"kubernetes:{found['metadata']['uid']}"

    # ------------------------------------------------------------------ launching

    async def prepare(self, spec: GatewaySpec) -> Controller:
        """Have a pod of the image tell its controller, once."""
        self._watch.begin()
        image = await self._probes.at_hand(spec, self._naming)
        self._reset_hours[spec.follower_id] = image.reset_hours
        return image.contract.controller

    def reset_hours(self, follower_id: FollowerId) -> str | None:
        """Those of the image that `prepare` found: a simulator's states some, or none at all."""
        return self._reset_hours.get(follower_id)

    def waits_for(self, follower_id: FollowerId) -> str | None:
        """What the launch of this follower's pod waits for, in the scheduler's or its node's words."""
        waits = self._waits.get(follower_id)
        return None if waits is None else waits.said

    async def launch(self, spec: GatewaySpec, client_id: int, *, secret: DeliverSecret, commit: CommitLogin) -> Gateway:
        """Create it, wait until it runs and waits for its password, commit, have that delivered."""
        name = self._naming.pod(spec.follower_id)

        async def commit_it(container_id: ContainerId) -> None:
            await commit(container_id)
            self._launching.discard(name)

        self._launching.add(name)
        try:
            with self._watch.follow(name) as followed:
                return await self._launch(spec, client_id, followed, secret=secret, commit=commit_it)
        finally:
            self._launching.discard(name)

    async def _launch(
        self, spec: GatewaySpec, client_id: int, followed: FollowedPod, *, secret: DeliverSecret, commit: CommitLogin
    ) -> Gateway:
        image = await self._probes.at_hand(spec, self._naming)
        with traced("runtime create"):
            pod = await self._create(image, spec, client_id)
        container_id = uid_of(pod)
        try:
            with traced("runtime start"):
                pod = await self._start(image, spec, pod, followed)
            target = await self._target(pod)
            await commit(container_id)
            pod = await self._mark_committed(pod, is_committed=True)
        except Exception:
            await self._discard(pod)
            raise
        try:
            await secret(target)
        except DeliveryExpiredError:  # nothing was sent
            await self._mark_committed(pod, is_committed=False)
            raise
        except Exception:
            await self._discard(pod)
            raise
        now = await followed.now(pod)
        if now is None or (gateway := gateway_from(now, naming=self._naming)) is None:
            raise LaunchError(f"The pod {name_of(pod)} was removed by somebody else while it started.")
        return gateway

    async def _start(self, image: Image, spec: GatewaySpec, pod: Pod, followed: FollowedPod) -> Pod:
        """Once it runs, and everything else is there that must be before it logs in."""
        naming = self._naming
        states, tell = followed.states(pod), partial(self._note_wait, spec)
        running, *_ = await side_by_side(
            f"start {spec.follower_id}",
            running=until_running(self._api, pod, states, within=self._start_time, tell=tell),
            # Again: of two managers that create at once, each has looked before the other's was there.
            user=self._refuse_user(spec.user),
            image=self._probes.confirm(image, spec, naming),
            name=self._access.ensure_name(spec.follower_id, naming),
        )
        found: Pod = running
        return found

    def _note_wait(self, spec: GatewaySpec, waits: Waiting | None) -> None:
        if waits is None:
            self._waits.pop(spec.follower_id, None)
        else:
            self._waits[spec.follower_id] = waits

    async def _create(self, image: Image, spec: GatewaySpec, client_id: int) -> Pod:
        naming = self._naming
        await side_by_side(
            f"launch {spec.follower_id}",
            user=self._refuse_user(spec.user),
            access=self._access.ensure(naming),
            settings=ensure_claim(self._claims, spec, naming=naming, choices=self._choices),
        )
        manifest = gateway_pod(image, spec, client_id, naming=naming, choices=self._choices, version=_VERSION)
        name = str(manifest["metadata"]["name"])
        try:
            pod = await self._api.create(f"create the pod {name}", self._api.place("pods"), manifest)
        except RefusedError as refused:
            if refused.is_conflict:
                raise await self._name_taken(name, refused) from refused
            raise refusal_of(refused, f"the pod {name}") from refused
        self._names[uid_of(pod)] = name
        return pod

    async def _refuse_user(self, user: str) -> None:
        """One session of an IBKR user: another manager's pod holds its user from its creation to its end."""
        for pod in await self._users.at(user_digest(user)):
            foreign = foreign_from(pod, naming=self._naming)
            if foreign is not None and foreign.user_digest is not None and not foreign.is_ended:
                raise UserTakenError(user, foreign)

    async def _pods_of_users(self, users: Sequence[str]) -> Mapping[str, Sequence[Pod]]:
        """Whoever manages them, by the digests of their users."""
        pods: dict[str, list[Pod]] = {each: [] for each in users}
        for pod in await self._pods(f"{SELECTOR},{USER} in ({','.join(users)})"):
            pods[labels_of(pod)[USER]].append(pod)
        return pods

    async def _name_taken(self, name: str, refused: RefusedError) -> NameTakenError:
        holder = await self._api.get(f"read the pod {name}", self._api.place("pods", name))
        if holder is None:  # it is being removed this moment
            return NameTakenError(f"{refused}")
        if not self._is_strange(holder):
            return NameTakenError(f"The follower has a pod already: {name} ({uid_of(holder)}).")
        identity, runs = self._naming.others_identity(holder), not is_final(holder)
        remove = f"`kubectl delete pod {name}`"
        return held_name("pod", name, identity, remove=remove, details=uid_of(holder), runs=runs)

    async def _target(self, pod: Pod) -> DeliveryTarget:
        access = await self._api.credentials()
        address = {**access, "namespace": self._api.namespace, "pod": name_of(pod), "name": CONTAINER}
        return DeliveryTarget(SENDER, uid_of(pod), address)

    async def _mark_committed(self, pod: Pod, *, is_committed: bool) -> Pod:
        """From now on, or no more, a login may be typed in it; a pod that another one has replaced is refused."""
        at = utc_now().isoformat() if is_committed else None
        changes = {"metadata": {"uid": uid_of(pod), "annotations": {COMMITTED: at}}}
        return await self._api.patch(f"mark the pod {name_of(pod)}", self._api.place("pods", name_of(pod)), changes)

    async def _discard(self, pod: Pod) -> None:
        """After a launch that failed: it can't log in, and is listed again where it could not be removed."""
        try:
            await self.remove(uid_of(pod), grace=0)
        except GatewayManagerError as trouble:
            log.warning("pod of a launch that failed was left", pod=name_of(pod), why=str(trouble))

    # ------------------------------------------------------------------ looking

    async def list(self) -> Sequence[Gateway]:
        """Every pod with an identity of ours, whatever its phase; `foreign` has the others afterwards."""
        pods, naming = await self._pods(SELECTOR), self._naming
        foreign = (foreign_from(pod, naming=naming) for pod in pods)
        self.foreign = [each for each in foreign if each is not None]
        self._names = {uid_of(pod): name_of(pod) for pod in pods if naming.owns(pod)}
        self._forwards.keep(set(self._names))
        found = (gateway_from(pod, naming=naming) for pod in pods)
        return [gateway for gateway in found if gateway is not None]

    async def inspect(self, container_id: ContainerId) -> Gateway | None:
        """One pod with an identity of ours, or None when there is none."""
        pod = await self._find(container_id)
        return None if pod is None else gateway_from(pod, naming=self._naming)

    def changes(self) -> AsyncIterator[ContainerId | None]:
        """Which of our pods changed; None first, at every break and after it."""
        return PodChanges(self._watch, self._naming, self._launching).follow()

    def log(self, gateway: Gateway) -> AsyncIterator[str]:
        """What this pod has printed, from its start, then live."""
        return log_lines(self._api, gateway.name, gateway)

    async def reach(self, gateway: Gateway) -> Endpoint:
        """Its address where this process is in the cluster too, else a port of this host that leads there."""
        endpoint = endpoint_of(gateway)
        if self._api.access.is_inside:
            return endpoint
        return await self._forwards.to(gateway.container_id, gateway.name, endpoint.port)

    async def usage(self, container_id: ContainerId) -> ContainerFigures | None:
        """None: the cluster's own monitoring has these figures, and grants them to those who may see nodes."""
        await self._find(container_id)
        return None

    async def _pods(self, selector: str) -> Sequence[Pod]:
        found = await self._api.ask("list pods", self._api.place("pods"), query={"labelSelector": selector})
        items: Sequence[Pod] = found.get("items") or ()
        return items

    async def _find(self, container_id: ContainerId) -> Pod | None:
        """The pod with this id, whoever's it is; None when it is gone."""
        name = self._names.get(container_id)
        if name is not None:
            pod: Pod | None = await self._api.get(f"read the pod {name}", self._api.place("pods", name))
        else:
            pod = next((each for each in await self._pods(SELECTOR) if uid_of(each) == container_id), None)
        if pod is None or uid_of(pod) != container_id:
            self._names.pop(container_id, None)
            self._forwards.end(container_id)
            return None
        self._names[container_id] = name_of(pod)
        return pod

    def _is_strange(self, pod: Pod) -> bool:
        """Whether it is not ours to touch, whatever its marks say."""
        gateway = gateway_from(pod, naming=self._naming)
        return gateway is None or bool(gateway.faults)

    # ------------------------------------------------------------------ ending

    async def remove(self, container_id: ContainerId, *, grace: float) -> LastWords:
        """Ask for its end, keep its last words, and let its object go once its node has confirmed the end. Its settings stay."""
        pod = await self._find(container_id)
        if pod is None:
            return LastWords(None, ())
        self._refuse_foreign(pod)
        lines: deque[str] = deque(maxlen=_LAST_LINES)
        with self._watch.follow(name_of(pod)) as followed:
            followed.doubt()  # what happened since it was found
            ended = await self._end(pod, followed, lines, grace=grace)
            if ended is not None:
                await self._let_go(ended, followed)
        self._names.pop(container_id, None)
        self._forwards.end(container_id)
        terminated: Mapping[str, Any] = container_state(ended or pod).get("terminated") or {}
        gateway = gateway_from(ended, naming=self._naming) if ended is not None else None
        said = [f"gateway-manager: {notice}" for notice in (gateway.notices if gateway is not None else ())]
        return LastWords(terminated.get("exitCode"), [*lines, *said])

    async def _end(self, pod: Pod, followed: FollowedPod, lines: deque[str], *, grace: float) -> Pod | None:
        """Ask for its end, and wait until that is confirmed; `lines` gets its last ones."""
        name, tasks = name_of(pod), Tasks(f"removal of {name_of(pod)}")
        reading = tasks.begin("last lines", self._read_last(pod, lines))
        try:
            if is_final(pod):
                await tasks.wait(_LINES_WITHIN)
            # Of a pod that is kept, a kubelet takes 0 for "as long as its spec says".
            seconds, path = max(1, round(grace)), self._api.place("pods", name)
            await self._api.delete(f"end the pod {name}", path, uid=uid_of(pod), grace=seconds)
            if not grace and is_deleted(pod) and is_running(pod):  # a kubelet that stops it already hears of no hurry
                await execute(self._api, name, _KILL_ALL)
            ended = await until_ended(self._api, pod, followed.states(pod), within=grace + CONFIRMED_WITHIN)
            await asyncio.wait({reading}, timeout=_LINES_WITHIN)
        finally:
            await tasks.cancel()
        return ended

    async def _read_last(self, pod: Pod, lines: deque[str]) -> None:
        """To the end: a deleted pod has no log any more."""
        with contextlib.suppress(RuntimeUnavailableError, RefusedError):
            async with aclosing(
                printed(self._api, name_of(pod), LineReader(), follow=not is_final(pod), last=_LAST_LINES)
            ) as found:
                async for line in found:
                    lines.append(line)

    async def _let_go(self, pod: Pod, followed: FollowedPod) -> None:
        """Take our finalizer, and wait until its name is free."""
        name, uid = name_of(pod), uid_of(pod)
        path = self._api.place("pods", name)
        await self._api.delete(f"remove the pod {name}", path, uid=uid, grace=0)
        left = [each for each in pod["metadata"].get("finalizers") or () if each != FINALIZER]
        changes = {"metadata": {"uid": uid, "finalizers": left or None}}
        try:
            await self._api.patch(f"let the pod {name} go", path, changes)
        except RefusedError as refused:
            if not refused.is_gone and not refused.is_conflict:
                raise
        try:
            async with asyncio.timeout(_GONE_WITHIN), aclosing(followed.states(pod)) as states:
                async for seen in states:
                    if seen is None:
                        return
        except TimeoutError:
            raise RuntimeUnavailableError(
                f"The pod {name} has ended, and something keeps its object: {left}."
            ) from None

    async def forget_secret(self, container_id: ContainerId) -> None:
        """Remove the password file inside, where there is one. Raises `LaunchError` when it could not be removed."""
        pod = await self._find(container_id)
        if pod is None or not is_running(pod):
            return
        self._refuse_foreign(pod)
        code, output = await execute(self._api, name_of(pod), ["rm", "-f", PASSWORD_FILE])
        if code == 0:
            return
        pod = await self._find(container_id)
        if pod is not None and is_running(pod):
            raise LaunchError(
                f"The password file {PASSWORD_FILE} in the pod {name_of(pod)} could not be removed: {output}."
            )

    def _refuse_foreign(self, pod: Pod) -> None:
        if self._is_strange(pod):
            raise LaunchError(f"The pod {name_of(pod)} is not this manager's.")
