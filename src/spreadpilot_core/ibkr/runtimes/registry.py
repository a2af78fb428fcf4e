"""Which runtimes there are, by the scheme of `runtime_url`. Nothing else asks for that scheme.

A runtime loads when its URL is chosen, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.reader import RuntimeReader
from spreadpilot_core.ibkr.seams import GatewayRuntime, LeaderLease, MakeLease
from spreadpilot_core.ibkr.settings import FULL_LOGINS, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEntry:
    """One runtime. Places are "package.module:name"."""

    runtime: str
    """A class; its `from_settings(settings, manager_id=…)` gives the `GatewayRuntime`."""
    reader: str
    """Of the settings and the manager's identities, the context that gives a `RuntimeReader`."""
    sender: str
    """The courier's sender that brings passwords to its gateways (see `credentials.courier.senders`)."""
    lease: str | None = None
    """Of the settings and the records' lease, what makes the lease by which its managers agree; None: they agree by the records'."""
    full_logins: int | None = FULL_LOGINS
    """The limit of full logins where `full_login_limit` names none; None: its logins reach nobody."""


RUNTIMES: Final[Mapping[str, RuntimeEntry]] = MappingProxyType(
    {
        "docker": RuntimeEntry(
            runtime="runtimes.docker.runtime:DockerRuntime",
            reader="runtimes.docker.reader:docker_reader",
            sender="docker",
        ),
        "kubernetes": RuntimeEntry(
            runtime="kubernetes.runtime:KubernetesRuntime",
            reader="kubernetes.reader:kubernetes_reader",
            sender="kubernetes",
            lease="kubernetes.leader_lease:managers_lease",
        ),
        "simulated": RuntimeEntry(
            runtime="runtimes.simulated.runtime:SimulatedRuntime",
            reader="runtimes.simulated.reader:simulated_reader",
            sender="simulated",
            full_logins=None,
        ),
    }
)


def runtime(settings: Settings, *, manager_id: str) -> GatewayRuntime:
    """The runtime that the settings name, not opened."""
    made: GatewayRuntime = _loaded(_entry(settings).runtime).from_settings(settings, manager_id=manager_id)
    return made


def reader(settings: Settings, identities: Identities | None = None) -> AbstractAsyncContextManager[RuntimeReader]:
    """A reader of the runtime that the settings name; entering raises `RuntimeUnavailableError` with the cure.

    `identities`: of the manager whose gateways are looked at; None: those that its state directory notes.
    """
    context: AbstractAsyncContextManager[RuntimeReader] = _loaded(_entry(settings).reader)(settings, identities)
    return context


def managers_lease(settings: Settings, of_records: MakeLease | None) -> Callable[[str], LeaderLease] | None:
    """Makes the lease, for an engine id, that decides which of several managers acts; None: there is only this one."""
    place = _entry(settings).lease
    if place is None:
        return of_records
    made: Callable[[str], LeaderLease] | None = _loaded(place)(settings, of_records)
    return made


def full_login_limit(settings: Settings) -> int | None:
    """The limit of full logins, its default filled in; None: there is none."""
    return settings.full_login_limit or _entry(settings).full_logins


def _entry(settings: Settings) -> RuntimeEntry:
    return RUNTIMES[settings.runtime_scheme]


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"spreadpilot_core.ibkr.{module}"), name)
