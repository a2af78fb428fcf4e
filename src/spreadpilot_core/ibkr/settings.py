"""Every setting: its name, unit, default and reason. A value is an argument, else from the environment, else from a TOML file.

Every setting is read from the environment as `GATEWAY_MANAGER_<NAME>`; the nine names of the product's documentation also
as they stand, in any case, and those of MongoDB, Vault and Docker as everywhere (`MONGO_URI`, `VAULT_ADDR`, `DOCKER_HOST`).
`GATEWAY_MANAGER_CONFIG` names the file; where a value comes from, and what was not obeyed, is told by `settings_sources`.
A secret is never a setting here: `VAULT_TOKEN` and its like are read by the courier alone.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_state_path
from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions, ImageName, RestartTime, TimeZone
from spreadpilot_core.ibkr.model.notify_urls import NotifyUrls
from spreadpilot_core.ibkr.settings_sources import PREFIX, TomlFile, is_secret_field, masked, masked_unknown, origin_of
from spreadpilot_core.ibkr.system.home_paths import in_home

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
"""At most a year, which stands for "never": times are added to dates."""
TUNES = "tunes"
"""Marks a setting whose default is right for nearly everybody; the documentation has these in a table of their own."""
TunedSeconds = Annotated[Seconds, TUNES]


def _listen_address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= LAST_PORT or (colon and not host):
        msg = 'must be "host:port", such as "127.0.0.1:9464", or a port alone, which is loopback\'s'
        raise ValueError(msg)
    return f"{host or '127.0.0.1'}:{port}"


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?$")]
LAST_PORT = 65535
ListenAddress = Annotated[str, AfterValidator(_listen_address)]

FULL_LOGINS = 12
"""A gateway that is well needs one login a week."""


def _bare(name: str) -> AliasChoices:
    """Read with the prefix, which wins, and without it."""
    return AliasChoices(f"{PREFIX}{name}".upper(), name, name.upper())


_PROGRAM = "gateway-manager"


class Settings(BaseSettings):
    """All settings of one manager; immutable."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True
    )

    # ------------------------------------------------------------------ the nine documented names

    gateway_image: ImageName = Field(
        default="ghcr.io/gnzsnz/ib-gateway:latest", validation_alias=_bare("gateway_image")
    )
    """Container image of a gateway."""
    port_range_start: Port = Field(default=4100, validation_alias=_bare("port_range_start"))
    """First host port that a gateway's API may be published on (loopback)."""
    port_range_end: Port = Field(default=4200, validation_alias=_bare("port_range_end"))
    """Last host port, included: 101 ports by default, so 101 gateways."""
    client_id_range_start: int = Field(
        default=1000, ge=1, le=2**31 - 1, validation_alias=_bare("client_id_range_start")
    )
    """First API client id. Ids below are left to users' own programs; 0 would bind manual orders."""
    client_id_range_end: int = Field(default=9999, ge=1, le=2**31 - 1, validation_alias=_bare("client_id_range_end"))
    """Last API client id, included."""
    container_prefix: str = Field(
        default="ibgateway-follower",
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$",
        validation_alias=_bare("container_prefix"),
    )
    """Containers are named `{container_prefix}-{follower_id}`; also the owner label's default."""
    healthcheck_interval: Seconds = Field(default=30, validation_alias=_bare("healthcheck_interval"))
    """Seconds between two heartbeats of one gateway."""
    max_startup_time: Seconds = Field(default=120, validation_alias=_bare("max_startup_time"))
    """Seconds from the login window until a gateway must be ready (a phone approval has `phone_approval_time`)."""
    vault_enabled: bool = Field(default=True, validation_alias=_bare("vault_enabled"))
    """Read credentials from Vault; without `VAULT_ADDR` the stored ones alone are used, said once."""

    # ------------------------------------------------------------------ names that mean what they mean everywhere

    mongo_uri: SecretStr | None = Field(default=None, validation_alias=_bare("mongo_uri"))
    """MongoDB's address; may hold a password, so it is never shown."""
    mongo_db_name: str = Field(default="spreadpilot", min_length=1, validation_alias=_bare("mongo_db_name"))
    """MongoDB database."""
    vault_addr: str | None = Field(default=None, validation_alias=_bare("vault_addr"))
    """Vault's address; its token is read by the courier alone."""
    docker_host: str = Field(default="unix:///var/run/docker.sock", validation_alias=_bare("docker_host"))
    """Docker Engine's address; a unix socket on this host."""

    kubeconfig: str | None = Field(default=None, validation_alias=_bare("kubeconfig"))
    """The file with the way to a Kubernetes cluster; None means the service account of the manager's own pod, else `~/.kube/config`."""

    # ------------------------------------------------------------------ where things are

    store_url: str | None = Field(default=None, validate_default=True)
    """`mongodb:` or `local:[DIRECTORY]`; None means `mongodb:` when `mongo_uri` is set, else `local:`."""
    followers_url: str | None = None
    """Where the followers are, if not in the store: `kubernetes:[NAMESPACE]` are `IBGateway` objects of that namespace (by itself the
    gateways' own, else the context's).
    """
    runtime_url: str = "docker:"
    """`docker:`, `kubernetes:[NAMESPACE]` (by itself the context's, or the manager's own) or `simulated:[DIRECTORY]`."""
    state_dir: Path = Field(default_factory=lambda: user_state_path("gateway-manager"))
    """Local store, credentials, audit log, control socket, lock. Made with mode 0700."""
    credentials_key_file: Path | None = None
    """Key of the encrypted store; None means `credentials.key` in `state_dir`."""
    credentials_passphrase_file: Path | None = None
    """A file with a passphrase instead of a key file."""

    # ------------------------------------------------------------------ clients in other programs

    shared_client_id_range_start: Annotated[int, Field(ge=1, le=2**31 - 1)] = 10_000
    """First API client id that is leased to other programs, one at a time; the range lies outside the manager's own."""
    shared_client_id_range_end: Annotated[int, Field(ge=1, le=2**31 - 1)] = 19_999
    """Last API client id for other programs, included."""
    gateway_network: str = Field(default="", pattern=r"^([a-zA-Z0-9][a-zA-Z0-9_.-]*(,[a-zA-Z0-9][a-zA-Z0-9_.-]*)*)?$")
    """Docker networks, apart by commas, whose containers may lease clients at `http_address`: each is let into a network of its
    own with the one gateway it asks for. Empty: no container reaches a gateway.
    """

    # ------------------------------------------------------------------ several managers on one MongoDB

    leader_lease: Annotated[float, Field(ge=1), TUNES] = 10
    """Seconds without a sign of life after which another manager on the same database, or in the same cluster, takes over."""
    take_over: bool = False
    """An operator's word that a silent manager on another engine is gone with its gateways (`run --take-over`)."""

    pod_name: str | None = Field(default=None, validation_alias=_bare("pod_name"))
    """The manager's own pod, where it is one: it bears a label while it is the leader. The chart sets these three."""
    pod_namespace: str | None = Field(default=None, validation_alias=_bare("pod_namespace"))
    """Where that pod is; None means where the gateways are."""
    pod_uid: str | None = Field(default=None, validation_alias=_bare("pod_uid"))
    """That pod's own id, by which the leader lease tells it from an earlier pod of its name."""

    adopt_from: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    """An operator's word that the manager with this identity has ended, so that its gateways on this engine are this
    one's from now on (`run --adopt-from IDENTITY`).
    """
    accept_lost_records: bool = False
    """An operator's word that the record store was lost, and that no login of the last 24 hours is missed in it; gateways
    that no record names are adopted then (`run --accept-lost-records`).
    """

    # ------------------------------------------------------------------ how it acts

    on_exit: Literal["stop", "detach"] = "stop"
    """What the end of `run` (SIGTERM, Ctrl-C) and of `async with` does to the gateways: `stop` logs them out, `detach` leaves
    them running for the next manager, which costs no login.
    """
    control_socket: bool = True
    """Serve the control socket in `state_dir`, through which the commands speak to this manager, also inside a program."""
    metrics_address: ListenAddress | None = None
    """`host:port`, or a port of loopback alone, at which Prometheus finds `/metrics`, and probes `/livez` and `/readyz`; None: nowhere."""
    http_address: ListenAddress | None = None
    """`host:port`, or a port of loopback alone, at which the control socket's routes are served to whoever has a token
    (`tokens add`); None: nowhere. An address that others reach needs a certificate, or a proxy that has one.
    """
    http_cert_file: Path | None = None
    """Certificate chain (PEM) of `http_address`; read again when it changes."""
    http_key_file: Path | None = None
    """Its private key (PEM)."""
    http_behind_proxy: bool = False
    """A proxy before `http_address` does TLS, and says in the last `X-Forwarded-For` who asks; nobody else reaches it."""
    http_allowed_hosts: tuple[HostName, ...] = ()
    """Names by which `http_address` and `metrics_address` are called, beside localhost and IP addresses; a JSON list in the environment."""
    http_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+$")
    """How others call `http_address`, where that is not clear from it: what a manager that stands by names as the leader's."""
    login_budget: int = Field(default=3, ge=1, le=8)
    """Failed or unfinished logins per IBKR user in 24 h before a human must look; IBKR locks a user at 10."""
    detach_wait: Annotated[float, Field(ge=0), TUNES] = 90
    """Seconds a detach waits for logins under way, where no other manager takes over: afterwards nobody watches them but the
    guard in their own containers.
    """
    full_login_limit: int | None = Field(default=None, ge=1, le=100)
    """Full logins per IBKR user in 24 h, whatever their outcome, before a human must look; of users who approve by phone at
    most 4 happen by themselves. None means 12, and on `simulated:` no limit.
    """
    parallel_starts: Annotated[int, Field(ge=1), TUNES] = 4
    """Launches at once, from create until the controller shows its login window, the container ends, or `window_time` is over:
    beyond 4 each only gets slower on two cores.
    """
    window_time: TunedSeconds = 300
    """Seconds a gateway's program may take until it shows its login window: nothing is typed before, whatever the host's load."""
    phone_approval_time: TunedSeconds = 300
    """Seconds a login may wait for its phone approval: IBKR's 180, the controller's 60 after it, and some air."""
    connect_time: TunedSeconds = 60
    """Seconds for one connect and its up to five retries, once the gateway should answer."""
    heartbeat_timeout: TunedSeconds = 10
    """Seconds a heartbeat may stay unanswered before the connection counts as dead."""
    stop_grace: TunedSeconds = 90
    """Seconds a gateway may take to close by itself before it is killed; ibcontroller takes up to 25."""
    removal_delay: Annotated[float, Field(ge=0, le=31_536_000)] = 30
    """Seconds that a follower's record must be gone before its gateway is stopped; where more than half of them are gone,
    nobody is stopped before an operator says so (`followers confirm-removals`).
    """
    poll_interval: TunedSeconds = 5
    """Seconds between two reads of the followers where the store can't tell of changes."""
    full_comparison_interval: TunedSeconds = 60
    """Seconds between two comparisons of everything wanted with everything running."""
    secret_poll_interval: TunedSeconds = 300
    """Seconds between two looks at the secrets' versions (metadata only), with jitter."""
    vault_mount: str = Field(default="secret", min_length=1)
    """Where Vault's key-value engine is mounted (version 1 or 2, told apart by looking)."""
    remember_credentials: bool = True
    """Keep what Vault gave in the encrypted store, for the day Vault is away."""
    notify_urls: NotifyUrls | None = None
    """Where messages go when a human is needed: addresses of [channels](notifications.md), with a space between them, or a list
    in the file. They hold secrets, and are never shown.
    """
    notify_urls_file: Path | None = None
    """A file with more of them, one a line; lines that begin with `#` are skipped."""
    notify_min_severity: Literal["info", "warning", "error"] = "info"
    """The least [severity](notifications.md) that is told; a follower's record may have another."""
    notify_reminder: Annotated[float, Field(ge=0, le=31_536_000)] = 3600
    """Seconds after which what is still so is told again, and again; 0: never."""
    notify_outage_delay: Annotated[float, Field(ge=0, le=86_400), TUNES] = 30
    """Seconds that an outage must last before it is told, and its end before that is: what passes by itself is no news."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Of `run`; `auto`: console on a terminal, else JSON. A program of your own configures `logging`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Of `run`: the lowest level that is logged."""

    # ------------------------------------------------------------------ pods (`kubernetes:`)

    kubernetes_context: str | None = None
    """Which context of the kubeconfig; None means its current one."""
    kubernetes_storage_class: str | None = None
    """The storage class of the gateways' settings; None means the cluster's default, `none` that they are lost with each pod."""
    kubernetes_access_mode: Literal["ReadWriteOncePod", "ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOncePod"
    """How a volume of settings may be mounted, for storage that knows no volume of one pod alone."""
    kubernetes_priority_class: str | None = None
    """The priority class of the gateways' pods; one above the default keeps others from preempting a gateway."""
    kubernetes_cpu_request: str = Field(default="250m", pattern=r"^[0-9]+(\.[0-9]+)?m?$")
    """The share of a processor that the scheduler keeps free for each gateway; a login wants more for a minute, and gets what is there."""
    kubernetes_pull_secrets: tuple[str, ...] = ()
    """Secrets of the namespace with which nodes log in to the image's registry."""
    kubernetes_network_policy: bool = True
    """Make a NetworkPolicy that lets nobody but the manager and `kubernetes_bots` reach gateways; off: you make your own (the chart does)."""
    kubernetes_bots: str | None = Field(default=None, pattern=r"^[^=,\s]+=[^=,\s]*(,[^=,\s]+=[^=,\s]*)*$")
    """Labels of the pods that may reach gateways' APIs beside the manager: `app=my-bot`, several with commas; None means no pod."""
    kubernetes_bots_namespace: str | None = None
    """Where those pods are; None means where the gateways are."""
    kubernetes_refuse_eviction: bool = False
    """Make a PodDisruptionBudget that refuses evictions of gateways: a drain then waits until you have stopped the node's gateways."""
    pod_start_time: TunedSeconds = 300
    """Seconds in which the cluster must have found a node for a pod and started it, its image pulled; nothing is typed before."""

    # ------------------------------------------------------------------ defaults of every gateway (see `GatewayOptions`)

    image_pull_policy: Literal["missing", "always", "never"] = "missing"
    """When a gateway's image is pulled: when the engine lacks it, before each launch, or never."""
    gateway_image_contract: Literal["auto", "ibc", "ibcontroller"] = "auto"
    """Which generation the image is; `auto` looks into the image."""
    read_only_api: bool = False
    """Refuse orders over the API."""
    existing_session_action: Literal["primary", "primaryoverride", "secondary"] = "primary"
    """Who yields when the user logs in elsewhere; `primary` keeps this session."""
    reset_window_wait: bool = True
    """Begin no login inside IBKR's short reset hours, which drop it, and few around them. Without the wait, a login that fails there
    counts in the budget as at any other hour.
    """
    auto_restart_time: RestartTime = "10:00 PM"
    """Daily restart in the gateway's time zone, spread over the half hour after it so that not all gateways are away at
    once; before IBKR's nightly and weekend resets in North America, when a restart may fail.
    """
    time_zone: TimeZone = "America/New_York"
    """The gateways' time zone (IANA name)."""
    java_heap_mib: int = Field(default=768, ge=256, le=16384)
    """Java heap of a gateway, MiB; its memory limit follows."""
    vnc: bool = False
    """Offer each gateway's screen on a loopback port, and keep a picture of it when the gateway is given up."""

    @field_validator("runtime_url")
    @classmethod
    def _known_runtime(cls, value: str) -> str:
        return _known(value, RUNTIME_URLS)

    @field_validator("store_url")
    @classmethod
    def _known_store(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, STORE_URLS)

    @field_validator("followers_url")
    @classmethod
    def _known_followers(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, FOLLOWERS_URLS)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for first, last in (
            ("port_range_start", "port_range_end"),
            ("client_id_range_start", "client_id_range_end"),
            ("shared_client_id_range_start", "shared_client_id_range_end"),
        ):
            if getattr(self, first) > getattr(self, last):
                raise SettingsError(last, getattr(self, last), f"must not be below {first} ({getattr(self, first)})")
        own = range(self.client_id_range_start, self.client_id_range_end + 1)
        shared = range(self.shared_client_id_range_start, self.shared_client_id_range_end + 1)
        if max(own.start, shared.start) < min(own.stop, shared.stop):
            allowed = f"must leave client_id_range_start to client_id_range_end ({own.start} to {own.stop - 1}) to the manager"
            raise SettingsError("shared_client_id_range_start", shared.start, allowed)
        return self

    @model_validator(mode="after")
    def _guarded_address(self) -> Self:
        if (self.http_cert_file is None) is not (self.http_key_file is None):
            missing = "http_key_file" if self.http_key_file is None else "http_cert_file"
            raise SettingsError(missing, None, "a certificate and its key are named together")
        if self.http_address is None or self.http_cert_file is not None or self.http_behind_proxy:
            return self
        if not _is_loopback(self.http_address.rpartition(":")[0]):
            allowed = "what others can reach needs http_cert_file and http_key_file, or http_behind_proxy for a proxy that does TLS"
            raise SettingsError("http_address", self.http_address, allowed)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's own signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, the file; the first that names a setting wins."""
        return init_settings, env_settings, TomlFile(settings_cls)

    @classmethod
    def read(cls, **arguments: Any) -> Settings:
        """The settings from keyword arguments, else the environment, else the file that `GATEWAY_MANAGER_CONFIG` names.

        Raises:
            SettingsError: one names its setting, the value, where it comes from and what is allowed.
        """
        unknown = set(arguments) - set(cls.model_fields)
        if unknown:
            name = min(unknown)
            raise SettingsError(name, masked_unknown(cls, name, arguments[name]), "there is no such setting")
        try:
            return cls(**arguments)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).lower().removeprefix(PREFIX) if first["loc"] else "settings"
            origin = origin_of(cls, name, arguments)
            value = "**********" if is_secret_field(cls, name) else masked(name, first["input"])
            where = f" (from {origin.where})" if origin is not None and origin.is_elsewhere else ""
            raise SettingsError(name, value, f"{_allowed(first['msg'])}{where}") from None

    @property
    def command(self) -> str:
        """How a shell calls `gateway-manager` so that it reaches the manager of these settings."""
        try:
            known = type(self).read().state_dir
        except SettingsError:
            known = None
        if known == self.state_dir:
            return _PROGRAM
        directory = shlex.quote(str(self.state_dir.absolute()))
        return f"GATEWAY_MANAGER_STATE_DIR={directory} {_this_program()}"

    @property
    def store(self) -> str:
        """The store's URL, the default filled in."""
        return self.store_url or ("mongodb:" if self.mongo_uri else "local:")

    @property
    def store_scheme(self) -> str:
        """Which store it is (see `store.registry`)."""
        return self.store.partition(":")[0]

    @property
    def store_is_local(self) -> bool:
        """Whether it is files of this host, which one manager owns and people edit."""
        return _has_directory(self.store)

    @property
    def followers(self) -> str:
        """The URL of what the followers are in: the store's, unless another one is named."""
        return self.followers_url or self.store

    @property
    def followers_are_local(self) -> bool:
        """Whether they are in `followers.toml`, which the commands edit."""
        return self.followers_url is None and self.store_is_local

    @property
    def runtime_scheme(self) -> str:
        """Which runtime it is (see `runtimes.registry`)."""
        return self.runtime_url.partition(":")[0]

    @property
    def local_store_dir(self) -> Path:
        """Where `followers.toml` and the records of the embedded store are."""
        return _directory(self.store, self.state_dir)

    @property
    def gateway_networks(self) -> tuple[str, ...]:
        """`gateway_network`, one by one."""
        return tuple(each for each in self.gateway_network.split(",") if each)

    @property
    def host_ports(self) -> range:
        """Every host port that a gateway's API may be published on."""
        return range(self.port_range_start, self.port_range_end + 1)

    @property
    def simulated_dir(self) -> Path:
        """Where the simulated runtime's host process and operations log are."""
        return _directory(self.runtime_url, self.state_dir)

    @property
    def gateway_options(self) -> GatewayOptions:
        """The fleet's defaults for every gateway."""
        return GatewayOptions(
            image=self.gateway_image,
            image_contract=None if self.gateway_image_contract == "auto" else self.gateway_image_contract,
            read_only_api=self.read_only_api,
            existing_session_action=self.existing_session_action,
            reset_window_wait=self.reset_window_wait,
            auto_restart_time=self.auto_restart_time,
            time_zone=self.time_zone,
            java_heap_mib=self.java_heap_mib,
            vnc=self.vnc,
        )


RUNTIME_URLS = ("docker:", "kubernetes:[NAMESPACE]", "simulated:[DIRECTORY]")
STORE_URLS = ("mongodb:", "local:[DIRECTORY]")
FOLLOWERS_URLS = ("kubernetes:[NAMESPACE]",)
"""The forms that there are; what each scheme stands for, the registries say."""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may stand for anything


def _known(url: str, forms: Sequence[str]) -> str:
    if not any(url.startswith(form.partition("[")[0]) for form in forms):
        msg = f"must be {' or '.join(forms)}"
        raise ValueError(msg)
    return url


_DIRECTORY = "[DIRECTORY]"


def _has_directory(url: str) -> bool:
    return any(url.partition(":")[0] + ":" + _DIRECTORY == form for form in (*RUNTIME_URLS, *STORE_URLS))


def _directory(url: str, default: Path) -> Path:
    _, _, path = url.partition(":")
    return in_home(path) if path and _has_directory(url) else default


def _allowed(message: str) -> str:
    text = message.removeprefix("Value error, ")
    text = text.partition(", unable to")[0].replace("Input should be", "must be", 1)
    return text if text.startswith("must") else f"must hold: {text[0].lower()}{text[1:]}"


def _this_program() -> str:
    """The command as another terminal finds it: by its path where this is the command and the PATH does not have it."""
    path = Path(sys.argv[0])
    is_hidden = path.name == _PROGRAM and shutil.which(_PROGRAM) is None
    return shlex.quote(str(path.absolute())) if is_hidden else _PROGRAM
