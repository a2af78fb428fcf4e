"""Every error this package raises, built from data; the sentence is written here, once.

    GatewayManagerError
      SettingsError                a setting is wrong; the start stops
      AlreadyRunningError          another manager owns this state directory
      NotStartedError              a call before `start()` or after `stop()`
      UnknownFollowerError         no record has this id
      FollowerEditError            a change of `followers.toml` that can't be made as asked
      LoginRefusedError            a login would break a rule (budget, rejection, wait); nothing was started
      LaunchError                  a gateway could not be started
        PortsExhaustedError
        ClientIdsExhaustedError
        NameTakenError             the follower already has a container (or another's container has its name)
        PortTakenError             the host port went to somebody else between test and start
        ImageError                 the gateway's image can't be had or can't be driven
          ImageMissingError
          RegistryDeniedError
          RegistryUnreachableError
          UnknownImageError        it is neither generation of the gateway's image
        NoSpaceError               the engine's disk is full
      UnavailableError             may pass by itself
        StoreUnavailableError
          StoreDamagedError        its file or a document in it can't be understood
        RuntimeUnavailableError
        CredentialsUnavailableError
          CourierFailedError       the courier ended before it answered
        TermLostError              another manager acts, or may
        ProbeError               an endpoint does not answer an API handshake (in `handshake`)
        ConnectError             one try to connect an API client failed (in `connections`)
        HeartbeatError           a connected gateway does not answer (in `live_connection`)
        AuditError               the audit trail can't be written; no secret is read meanwhile
      CredentialsRefusedError      will not pass by itself
      CredentialStoreError         the encrypted store is damaged, or its key is wrong
      DeliveryError                the password did not reach its container
        DeliveryExpiredError       it was asked for too late and never sent: read again
        DeliveryUnsureError        the courier ended before it could say or write down what became of it

An adapter translates its vendor's exceptions at its own seam (`raise … from`). No secret is ever part of an error.
"""

from __future__ import annotations

from collections.abc import Mapping


class GatewayManagerError(Exception):
    """The root. `str(error)` is one or more whole sentences; `hint` says what to do, when there is something to do."""

    hint: str | None = None

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        if hint is not None:
            self.hint = hint
        self.what = what
        super().__init__(what if self.hint is None else f"{what} {self.hint}")


class SettingsError(GatewayManagerError):
    """A setting has a value that can't be used."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        self.setting = setting
        super().__init__(f"{setting} is {value!r}, but {allowed}.")


class AlreadyRunningError(GatewayManagerError):
    """Another manager owns the state directory."""

    def __init__(self, state_dir: object, holder: str) -> None:
        super().__init__(
            f"Another gateway manager ({holder}) owns {state_dir}.",
            hint="Stop it first, or give this one a state_dir of its own.",
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

    def __init__(self, follower_id: str, known: int) -> None:
        self.follower_id = follower_id
        super().__init__(
            f"There is no follower {follower_id!r} among the {known} records.",
            hint="`gateway-manager followers list` shows the local ones; new records are seen within seconds.",
        )

    def __str__(self) -> str:
        return str(self.args[0])


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


class ClientIdsExhaustedError(LaunchError):
    """Every API client id of the range is held."""

    def __init__(self, first: int, last: int, held: Mapping[int, str]) -> None:
        self.held = dict(held)
        by = ", ".join(f"{client_id} by {owner}" for client_id, owner in list(held.items())[:3])
        super().__init__(
            f"No client id is free in {first}-{last}: all {len(held)} are held ({by}, …).",
            hint="Widen the range with client_id_range_start and client_id_range_end, or remove followers.",
        )


class NameTakenError(LaunchError):
    """A container with the follower's name exists."""


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


class UnavailableError(GatewayManagerError):
    """Something we depend on is away; may pass by itself."""


class TermLostError(UnavailableError):
    """This manager may not create, start or remove now."""

    def __init__(self) -> None:
        super().__init__("This manager does not hold the term, so it creates, starts and removes nothing.")


class StoreUnavailableError(UnavailableError):
    """The follower or record store can't be reached."""


class StoreDamagedError(StoreUnavailableError):
    """The store is there, but what it holds can't be understood; passes once a human has seen to it."""


class RuntimeUnavailableError(UnavailableError):
    """The runtime (Docker, the simulator's host) can't be reached."""


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
