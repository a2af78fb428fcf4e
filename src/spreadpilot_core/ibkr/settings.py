"""Every setting: its name, unit, default and reason. Values come from keyword arguments, else from the environment.

The nine names of the product's documentation are read from the environment as they stand, in any case; those of
MongoDB, Vault and Docker as everywhere (`MONGO_URI`, `VAULT_ADDR`, `DOCKER_HOST`); every other one as `GATEWAY_MANAGER_<NAME>`.
A secret is never a setting here: `VAULT_TOKEN` and its like are read by the courier alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_state_path
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.gateway_options import GatewayOptions, ImageName, RestartTime, TimeZone

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
"""At most a year, which stands for "never": times are added to dates."""


def _bare(name: str) -> AliasChoices:
    return AliasChoices(name, name.upper())


class Settings(BaseSettings):
    """All settings of one manager; immutable."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_MANAGER_", frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True
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
    """Seconds from a gateway's start until it must be ready (a phone approval has `phone_approval_time`)."""
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

    # ------------------------------------------------------------------ where things are

    store_url: str | None = Field(default=None, validate_default=True)
    """`mongodb:` or `local:[DIRECTORY]`; None means `mongodb:` when `mongo_uri` is set, else `local:`."""
    runtime_url: str = "docker:"
    """`docker:` or `simulated:[DIRECTORY]`."""
    state_dir: Path = Field(default_factory=lambda: user_state_path("gateway-manager"))
    """Local store, credentials, audit log, control socket, lock. Made with mode 0700."""
    credentials_key_file: Path | None = None
    """Key of the encrypted store; None means `credentials.key` in `state_dir`."""
    credentials_passphrase_file: Path | None = None
    """A file with a passphrase instead of a key file."""

    # ------------------------------------------------------------------ several managers on one MongoDB

    term: Annotated[float, Field(ge=1)] = 10
    """Seconds without a sign of life after which another manager on the same database takes over."""
    take_over: bool = False
    """An operator's word that a silent manager on another engine is gone with its gateways (`run --take-over`)."""

    # ------------------------------------------------------------------ how it acts

    on_sigterm: Literal["stop", "detach"] = "stop"
    """What SIGTERM does to the gateways: stop them, or leave them running for the next manager."""
    login_budget: int = Field(default=3, ge=1, le=8)
    """Failed or unfinished logins per IBKR user in 24 h before a human must look; IBKR locks a user at 10."""
    parallel_starts: int = Field(default=4, ge=1)
    """Launches at once, from create until the start call returns: beyond 4 each only gets slower on two cores."""
    phone_approval_time: Seconds = 300
    """Seconds a login may wait for its phone approval: IBKR's 180, the controller's 60 after it, and some air."""
    connect_time: Seconds = 60
    """Seconds for one connect and its up to five retries, once the gateway should answer."""
    heartbeat_timeout: Seconds = 10
    """Seconds a heartbeat may stay unanswered before the connection counts as dead."""
    stop_grace: Seconds = 90
    """Seconds a gateway may take to close by itself before it is killed; ibcontroller takes up to 25."""
    poll_interval: Seconds = 5
    """Seconds between two reads of the followers where the store can't tell of changes."""
    full_comparison_interval: Seconds = 60
    """Seconds between two comparisons of everything wanted with everything running."""
    secret_poll_interval: Seconds = 300
    """Seconds between two looks at the secrets' versions (metadata only), with jitter."""
    vault_mount: str = Field(default="secret", min_length=1)
    """Where Vault's key-value engine is mounted (version 1 or 2, told apart by looking)."""
    remember_credentials: bool = True
    """Keep what Vault gave in the encrypted store, for the day Vault is away."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto`: console on a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""

    # ------------------------------------------------------------------ defaults of every gateway (see `GatewayOptions`)

    image_pull_policy: Literal["missing", "always", "never"] = "missing"
    """When a gateway's image is pulled: when the engine lacks it, before each launch, or never."""
    gateway_image_contract: Literal["auto", "ibc", "ibcontroller"] = "auto"
    """Which generation the image is; `auto` looks into the image."""
    read_only_api: bool = False
    """Refuse orders over the API."""
    existing_session_action: Literal["primary", "primaryoverride", "secondary"] = "primary"
    """Who yields when the user logs in elsewhere; `primary` keeps this session."""
    auto_restart_time: RestartTime = "10:00 PM"
    """Daily restart in the gateway's time zone, spread over the half hour after it so that not all gateways are away at
    once; before IBKR's nightly and weekend resets in North America, when a restart may fail.
    """
    time_zone: TimeZone = "America/New_York"
    """The gateways' time zone (IANA name)."""
    java_heap_mib: int = Field(default=768, ge=256, le=16384)
    """Java heap of a gateway, MiB; its memory limit follows."""
    vnc: bool = False
    """Offer each gateway's screen on a loopback port."""

    @field_validator("runtime_url")
    @classmethod
    def _known_runtime(cls, value: str) -> str:
        if value.partition(":")[0] not in {"docker", "simulated"} or ":" not in value:
            msg = "must be docker: or simulated:[DIRECTORY]"
            raise ValueError(msg)
        return value

    @field_validator("store_url")
    @classmethod
    def _known_store(cls, value: str | None) -> str | None:
        if value is not None and (value.partition(":")[0] not in {"mongodb", "local"} or ":" not in value):
            msg = "must be mongodb: or local:[DIRECTORY]"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for first, last in (
            ("port_range_start", "port_range_end"),
            ("client_id_range_start", "client_id_range_end"),
        ):
            if getattr(self, first) > getattr(self, last):
                raise SettingsError(last, getattr(self, last), f"must not be below {first} ({getattr(self, first)})")
        return self

    @classmethod
    def read(cls, **arguments: Any) -> Settings:
        """The settings from keyword arguments, else the environment.

        Raises:
            SettingsError: one names its setting, the value and what is allowed.
        """
        unknown = set(arguments) - set(cls.model_fields)
        if unknown:
            raise SettingsError(min(unknown), arguments[min(unknown)], "there is no such setting")
        try:
            return cls(**arguments)
        except ValidationError as error:
            first = error.errors()[0]
            setting = str(first["loc"][0]).lower().removeprefix("gateway_manager_") if first["loc"] else "settings"
            value = "**********" if setting == "mongo_uri" else first["input"]
            raise SettingsError(setting, value, _allowed(first["msg"])) from None

    @property
    def store(self) -> str:
        """The store's URL, the default filled in."""
        return self.store_url or ("mongodb:" if self.mongo_uri else "local:")

    @property
    def local_store_dir(self) -> Path:
        """Where `followers.toml` and the records of the embedded store are."""
        return _directory(self.store, self.state_dir)

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
            auto_restart_time=self.auto_restart_time,
            time_zone=self.time_zone,
            java_heap_mib=self.java_heap_mib,
            vnc=self.vnc,
        )


def _directory(url: str, default: Path) -> Path:
    scheme, _, path = url.partition(":")
    return Path(path).expanduser() if path and scheme in {"local", "simulated"} else default


def _allowed(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text if text.startswith("must") else f"must hold: {text[0].lower()}{text[1:]}"
