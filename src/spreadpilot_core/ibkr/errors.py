"""Every error this package raises, built from data; the sentence is written here, once.

    GatewayManagerError
      SettingsError                a setting is wrong; the start stops
      AlreadyRunningError          another manager owns this state directory
      ClientLibraryError           the library of API clients can't be imported; the start stops
      IdentityInUseError           the manager whose identity is to be adopted lives
      NotStartedError              a call before `start()` or after `stop()`
      UnknownFollowerError         no record has this id
      WrongTradingModeError        the gateway is paper and live was required, or the other way round
      GatewayDownError             another program asked for a client, and the gateway is STOPPED or FAILED
      ClientOutOfReachError        another program asked for a client from where no gateway can be reached
      ClientLeaseLostError         another program's client id went to somebody else
      ScreenError                  a gateway's screen was asked for, and none is shown
      FollowerEditError            a change of `followers.toml` that can't be made as asked
      LoginRefusedError            a login would break a rule (budget, rejection, wait); nothing was started
      LaunchError                  a gateway could not be started
        PortsExhaustedError
        PinnedPortError            the port that a record pins is not free
        ClientIdsExhaustedError
        SharedClientIdsExhaustedError  the same of the ids for other programs
        NameTakenError             the follower already has a container (or another's container has its name)
          NameHeldError            what has it is not this manager's, and stays until somebody acts
        UserTakenError             another manager on the engine has a gateway of the same IBKR user
        PortTakenError             the host port went to somebody else between test and start
        ImageError                 the gateway's image can't be had or can't be driven
          ImageMissingError
          RegistryDeniedError
          RegistryUnreachableError
          UnknownImageError        it is neither generation of the gateway's image
        NoSpaceError               the engine's disk is full
        PodUnschedulableError      no node of the cluster can take its pod
        PodNotStartedError         its node could not start its pod, or took too long
        QuotaExceededError         the namespace's quota has no room for its pod
        AdmissionRefusedError      a rule of the cluster does not let its pod in
      UnavailableError             may pass by itself
        StoreUnavailableError
          StoreDamagedError        its file or a document in it can't be understood
          RecordsLostError         it is empty, and the audit trail tells of logins
        RuntimeUnavailableError
          NodeLostError            a pod's node does not answer, so that nobody can confirm its end
        CredentialsUnavailableError
          CourierFailedError       the courier ended before it answered
        LeadershipLostError        another manager acts, or may
        GatewayNotReadyError       another program asked for a client, and the gateway was not ready in time
        ProbeError               an endpoint does not answer an API handshake (in `api_client.handshake`)
        ConnectError             one try to connect an API client failed (in `api_client.connector`)
        HeartbeatError           a connected gateway does not answer (in `api_client.connection`)
        AuditError               the audit trail can't be written; no secret is read meanwhile
      CredentialsRefusedError      will not pass by itself
      CredentialStoreError         the encrypted store is damaged, or its key is wrong
      DeliveryError                the password did not reach its container
        DeliveryExpiredError       it was asked for too late and never sent: read again
        DeliveryUnsureError        the courier ended before it could say or write down what became of it

An adapter translates its vendor's exceptions at its own seam (`raise … from`). No secret is ever part of an error.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping

from spreadpilot_core.ibkr.system.wording import HIDDEN, counted, nearest

_OFF = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
LONGEST_SENTENCE = 4000
"""Characters: an error may quote what came from outside, and is logged, kept and shown."""


class GatewayManagerError(Exception):
    """The root. `str(error)` is one or more whole sentences; `hint` says what to do, when there is something to do."""

    hint: str | None = None

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        if hint is not None:
            self.hint = hint
        self.what = what if len(what) <= LONGEST_SENTENCE else f"{what[: LONGEST_SENTENCE - 1]}…"
        super().__init__(self.what if self.hint is None else f"{self.what} {self.hint}")


class SettingsError(GatewayManagerError):
    """A setting has a value that can't be used."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        self.setting = setting
        said = {HIDDEN: "set", None: "not set"}.get(value) if isinstance(value, str | None) else None
        super().__init__(f"{setting} is {said or repr(value)}, but {allowed}.")


class AlreadyRunningError(GatewayManagerError):
    """Another manager owns the state directory."""

    def __init__(self, state_dir: object, holder: str) -> None:
        super().__init__(
            f"Another gateway manager ({holder}) owns {state_dir}.",
            hint="Clients come from it by `remote.connect`. To take its place, end it with `gateway-manager detach`, which logs nobody out.",
        )


class ClientLibraryError(GatewayManagerError):
    """The library that API clients come from can't be imported."""

    def __init__(self, library: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}".rstrip(".")
        super().__init__(
            f"{library} can't be imported with Python {platform.python_version()}: {why}.",
            hint="Python 3.11 to 3.13 are tested. Beside ib_insync its eventkit may have replaced aeventkit, which ib_async "
            "needs: `pip install --force-reinstall --no-deps aeventkit`.",
        )


class IdentityInUseError(GatewayManagerError):
    """The manager whose identity is to be adopted shows life."""

    def __init__(self, identity: str, living: object) -> None:
        super().__init__(
            f"The identity {identity} can't be adopted: {living} lives on this host.",
            hint="End it first (`gateway-manager detach` leaves its gateways running), then start again.",
        )


class NotStartedError(GatewayManagerError):
    """The manager is not running."""

    def __init__(self, call: str | None, *, stopped: bool = False) -> None:
        super().__init__(
            f"{call}() needs a started manager, and this one {'was stopped' if stopped else 'was not started'}."
            if call is not None
            else "The manager ended while this call was waiting.",
            hint="Await start() first, or use `async with GatewayManager()`.",
        )


class UnknownFollowerError(GatewayManagerError, KeyError):
    """No record has this id."""

    def __init__(self, follower_id: str, known: Collection[str]) -> None:
        self.follower_id = follower_id
        meant = nearest(follower_id, known)
        perhaps = f": was {meant!r} meant?" if meant is not None else "."
        super().__init__(
            f"There is no follower {follower_id!r} among {counted(len(known), 'record')}{perhaps}",
            hint="`gateway-manager followers list` shows the local ones; new records are seen within seconds.",
        )

    def __str__(self) -> str:
        return str(self.args[0])


class WrongTradingModeError(GatewayManagerError):
    """The follower's gateway is in the other trading mode than its caller requires; no client was handed out."""

    def __init__(self, follower_id: str, *, required: str, is_in: str) -> None:
        self.follower_id = follower_id
        super().__init__(
            f"{follower_id} is {is_in}, and {required} is required here: no client is handed out.",
            hint="Ask for another follower, or correct trading_mode in its record.",
        )


class GatewayDownError(GatewayManagerError):
    """Another program asked for a client, and waiting for the gateway is no use."""

    def __init__(self, follower_id: str, state: str, reason: str | None, next_action: str | None) -> None:
        self.follower_id = follower_id
        super().__init__(_stands(follower_id, state, reason), hint=next_action)


class ClientOutOfReachError(GatewayManagerError):
    """Another program asked for a client from where it can reach no gateway."""

    def __init__(self, follower_id: str, address: str | None) -> None:
        self.follower_id = follower_id
        where = f"from {address}" if address is not None else "from there"
        super().__init__(
            f"The gateway of {follower_id} answers on its own host alone and can't be reached {where}.",
            hint="Run the program on that host, or in a container of a Docker network that gateway_network names.",
        )


class ScreenError(GatewayManagerError):
    """A gateway's screen can't be shown."""

    def __init__(self, follower_id: str, why: str = "its gateway shows none") -> None:
        self.follower_id = follower_id
        super().__init__(
            f"The screen of {follower_id} can't be shown: {why}.",
            hint="A gateway shows its screen when it was started with gateway.vnc = true.",
        )


class ClientLeaseLostError(GatewayManagerError):
    """The client id is somebody else's, or its lease never was one."""

    def __init__(self, follower_id: str, client_id: int | None) -> None:
        self.follower_id = follower_id
        which = f"the client id {client_id}" if client_id is not None else "a client id"
        super().__init__(
            f"This lease of {which} at the gateway of {follower_id} has ended, or never was one.",
            hint="Ask for a new one.",
        )


class FollowerEditError(GatewayManagerError):
    """A command's change of `followers.toml` can't be made as asked; the file is as it was."""


class LoginRefusedError(GatewayManagerError):
    """A login would break a rule that protects the account; nothing was started."""


class LaunchError(GatewayManagerError):
    """A gateway could not be started."""


class PortsExhaustedError(LaunchError):
    """Every host port of the range is held or taken."""

    def __init__(self, first: int, last: int, held: Mapping[int, str], foreign: int) -> None:
        self.held = dict(held)
        by = ", ".join(f"{port} by {owner}" for port, owner in list(held.items())[:3])
        more = f" ({by}{', …' if len(held) > 3 else ''})" if held else ""  # noqa: PLR2004  # three examples are enough
        super().__init__(
            f"No host port is free in {first}-{last}: {len(held)} held by gateways{more}, {foreign} in use by other programs.",
            hint="Widen the range with port_range_start and port_range_end, or stop a gateway.",
        )


class PinnedPortError(LaunchError):
    """The host port that a follower's record pins is not free."""

    def __init__(self, follower_id: str, port: int, holder: str | None) -> None:
        self.port = port
        by = f"the gateway of {holder} holds it" if holder is not None else "another program on this host uses it"
        super().__init__(
            f"gateway.port of {follower_id} is {port}, and {by}.",
            hint="Free that port, or pin another one in its record.",
        )


class ClientIdsExhaustedError(LaunchError):
    """Every API client id of the range is held."""

    def __init__(self, first: int, last: int, held: Mapping[int, str]) -> None:
        self.held = dict(held)
        by = ", ".join(f"{client_id} by {owner}" for client_id, owner in list(held.items())[:3])
        super().__init__(
            f"No client id is free in {first}-{last}: all {len(held)} are held ({by}, …).",
            hint="Widen the range with client_id_range_start and client_id_range_end, or remove followers.",
        )


class SharedClientIdsExhaustedError(LaunchError):
    """Every API client id for other programs is held."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(
            f"No client id for other programs is free in {first}-{last}.",
            hint="Widen the range with shared_client_id_range_start and shared_client_id_range_end, or end some of them.",
        )


class TooManyClientsError(LaunchError):
    """Programs hold more client ids of one gateway than it could ever serve."""

    def __init__(self, follower_id: str, most: int) -> None:
        self.follower_id = follower_id
        super().__init__(
            f"Programs hold {most} client ids of the gateway of {follower_id} already, and it serves 32 clients at once.",
            hint="`GET /v1/clients` shows their names; an id that nobody renews is free after a minute.",
        )


class NameTakenError(LaunchError):
    """A container with the follower's name exists."""


class NameHeldError(NameTakenError):
    """What bears the name that a launch needs is not this manager's, and stays until somebody acts."""


class UserTakenError(LaunchError):
    """Another manager on this engine has a gateway of the same IBKR user."""

    def __init__(self, user: str, holder: object) -> None:
        super().__init__(
            f"{holder} and is logged in as the IBKR user {user}, or about to be; IBKR allows one session of a user.",
            hint="Stop that gateway by its own manager, or give this follower another IBKR user.",
        )


class PortTakenError(LaunchError):
    """The host port is in use."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"Host port {port} is in use by another program.")


class ImageError(LaunchError):
    """The gateway's image can't be had, or is none that can be driven."""

    def __init__(self, image: str, what: str, *, hint: str | None = None) -> None:
        self.image = image
        super().__init__(what, hint=hint)


class ImageMissingError(ImageError):
    """Neither the engine nor the registry has the image."""

    def __init__(self, image: str, *, pulled: bool, said: str | None = None) -> None:
        where = (
            f"in its registry{f' ({said})' if said else ''}"
            if pulled
            else "on this engine, and the pull policy is never"
        )
        super().__init__(
            image,
            f"There is no image {image} {where}.",
            hint="Check the name and the tag in gateway_image."
            if pulled
            else f"Run `docker pull {image}`, or let image_pull_policy be missing.",
        )


class RegistryDeniedError(ImageError):
    """The registry wants a login, or refuses the one it was given."""

    def __init__(self, image: str, registry: str, said: str) -> None:
        super().__init__(
            image,
            f"The registry {registry} refuses to give {image}: {said}.",
            hint=f"Check the name, then run `docker login {registry}` as the user that runs the manager.",
        )


class RegistryUnreachableError(ImageError):
    """The registry did not answer; may pass by itself."""

    def __init__(self, image: str, registry: str, said: str) -> None:
        super().__init__(
            image,
            f"The image {image} can't be pulled from {registry} now: {said}.",
            hint=f"Check this host's network, or load the image by `docker load`; then `docker pull {image}` must work.",
        )


class UnknownImageError(ImageError):
    """The image is neither generation of the gateway's image."""

    def __init__(self, image: str, why: str) -> None:
        super().__init__(
            image,
            f"The image {image} is none that can be driven: {why}.",
            hint="Name a gnzsnz/ib-gateway image in gateway_image, or say with gateway_image_contract which generation it is.",
        )


class NoSpaceError(LaunchError):
    """The engine's disk is full."""

    def __init__(self, doing: str) -> None:
        super().__init__(
            f"The Docker Engine has no space left to {doing}.",
            hint="`docker system df` shows what fills its disk, `docker image prune` removes unused images.",
        )


class PodUnschedulableError(LaunchError):
    """No node of the cluster can take the follower's pod."""

    def __init__(self, pod: str, said: str, seconds: float) -> None:
        super().__init__(
            f"No node took the pod {pod} within {seconds:g} s. The scheduler says: {said.rstrip('.')}.",
            hint="Give the cluster a node with room for it, or lower java_heap_mib; it is tried again by itself.",
        )


class PodNotStartedError(LaunchError):
    """The follower's pod has a node and did not start there."""

    def __init__(self, pod: str, node: str, said: str) -> None:
        super().__init__(
            f"The pod {pod} did not start on the node {node}. The node says: {said.rstrip('.')}.",
            hint=f"`kubectl describe pod {pod}` shows more while it is there; it is tried again by itself.",
        )


class QuotaExceededError(LaunchError):
    """The namespace's quota has no room for the follower's pod."""

    def __init__(self, pod: str, said: str) -> None:
        super().__init__(
            f"The namespace has no room for the pod {pod}: {said.rstrip('.')}.",
            hint="Raise its ResourceQuota, or stop a gateway.",
        )


class AdmissionRefusedError(LaunchError):
    """A rule of the cluster does not let the follower's pod in."""

    def __init__(self, what: str, said: str) -> None:
        super().__init__(
            f"The cluster does not let {what} in: {said.rstrip('.')}.",
            hint="Its administrator knows the rule (Pod Security, a webhook, a policy); `gateway-manager doctor` asks without a login.",
        )


class UnavailableError(GatewayManagerError):
    """Something we depend on is away; may pass by itself."""


class LeadershipLostError(UnavailableError):
    """This manager may not create, start or remove now."""

    def __init__(self) -> None:
        super().__init__("This manager is not the leader, so it creates, starts and removes nothing.")


class GatewayNotReadyError(UnavailableError):
    """Another program asked for a client, and the gateway was not ready in time."""

    def __init__(self, follower_id: str, state: str, reason: str | None, next_action: str | None) -> None:
        self.follower_id = follower_id
        super().__init__(_stands(follower_id, state, reason), hint=next_action)


class StoreUnavailableError(UnavailableError):
    """The follower or record store can't be reached."""


class StoreDamagedError(StoreUnavailableError):
    """The store is there, but what it holds can't be understood; passes once a human has seen to it."""


class RecordsLostError(StoreUnavailableError):
    """The record store is empty although gateways were launched with it; passes with an operator's word."""

    def __init__(self) -> None:
        super().__init__(
            "The record store is empty, and the audit trail tells of logins: its records are lost, and with them which"
            " logins failed in the last 24 hours, which passwords were rejected, which gateways an operator stopped and"
            " which stay in paper until live is confirmed. Nobody logs in.",
            hint="Put `records.sqlite3` (or the MongoDB database) back; or, once IBKR saw no failed login for 24 hours (it locks a"
            " user at 10), and who is enabled, or live, should be, start with `gateway-manager run --accept-lost-records`.",
        )


class RuntimeUnavailableError(UnavailableError):
    """The runtime (Docker, the simulator's host) can't be reached."""


class NodeLostError(RuntimeUnavailableError):
    """A pod's node does not answer, so that nobody can confirm its end."""

    def __init__(self, pod: str, node: str, trouble: str) -> None:
        super().__init__(
            f"The pod {pod} may still be logged in: its node {node} does not answer, so that nobody can confirm its end."
            f" The cluster says of the node: {trouble.rstrip('.')}.",
            hint="No other one is started meanwhile. It goes on by itself once the node is back; if its machine is off for good,"
            f" say so: `kubectl taint nodes {node} {_OFF}`.",
        )


class CredentialsUnavailableError(UnavailableError):
    """The secret could not be read now; nothing says that it is wrong."""


class CourierFailedError(CredentialsUnavailableError):
    """The courier ended before it answered, and so before it could write down what it did."""


class AuditError(UnavailableError):
    """The audit trail can't be written or read; what would go unaudited is not done."""


class CredentialsRefusedError(GatewayManagerError):
    """The secret does not exist, is denied, incomplete, or can't be typed by this controller."""


class CredentialStoreError(CredentialsRefusedError):
    """The encrypted store can't be opened: wrong key, damaged file."""


class DeliveryError(GatewayManagerError):
    """The password did not reach its container."""


class DeliveryExpiredError(DeliveryError):
    """The password was not kept so long; nothing was sent, so that it may be read again for the same container."""


class DeliveryUnsureError(DeliveryError):
    """The courier ended, or could not write it down: nobody else has told the audit trail."""


def _stands(follower_id: str, state: str, reason: str | None) -> str:
    return f"The gateway of {follower_id} is {state}{f': {reason}' if reason else '.'}"
