from __future__ import annotations

import re
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import kinds
from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.kubernetes.runtime import KubernetesRuntime
from spreadpilot_core.ibkr.runtimes.docker.runtime import DockerRuntime
from spreadpilot_core.ibkr.runtimes.registry import RUNTIMES, full_login_limit, reader, runtime
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.doctor.runtime_checks import runtime_checks
from spreadpilot_core.ibkr.settings import RUNTIME_URLS, STORE_URLS, Settings
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from spreadpilot_core.ibkr.store.mongodb.records import MongoRecords
from spreadpilot_core.ibkr.store.registry import STORES, store

RUNTIME_CLASSES = {
    "docker:": DockerRuntime,
    "kubernetes:[NAMESPACE]": KubernetesRuntime,
    "simulated:[DIRECTORY]": SimulatedRuntime,
}
STORE_CLASSES = {"mongodb:": MongoRecords, "local:[DIRECTORY]": LocalRecords}


def settings(tmp_path: Path, **more: str) -> Settings:
    return Settings.read(state_dir=tmp_path, mongo_uri="mongodb://localhost/", **more)


def url(form: str, tmp_path: Path) -> str:
    """One of this form."""
    return form.replace("[DIRECTORY]", str(tmp_path / "elsewhere")).replace("[NAMESPACE]", "trading")


@pytest.mark.parametrize("form", RUNTIME_URLS)
def test_a_runtimes_url_chooses_all_that_is_its_own(form: str, tmp_path: Path) -> None:
    """The runtime, the reader, the courier's sender, the doctor's checks, by one entry."""
    chosen = settings(tmp_path, runtime_url=url(form, tmp_path))

    assert type(runtime(chosen, manager_id="m")) is RUNTIME_CLASSES[form]
    assert hasattr(reader(chosen), "__aenter__")
    assert RUNTIMES[chosen.runtime_scheme].sender in kinds()
    assert runtime_checks(chosen).CHECKS


@pytest.mark.parametrize("form", STORE_URLS)
def test_a_stores_url_chooses_its_adapters(form: str, tmp_path: Path) -> None:
    """With a leader lease where several managers may share the records."""
    chosen = settings(tmp_path, store_url=url(form, tmp_path))
    made = store(chosen).make(chosen, clock=lambda: None, tell=lambda *_: None, may_act=lambda: True)  # type: ignore[arg-type, return-value]

    assert type(made.records) is STORE_CLASSES[form]
    assert (made.make_lease is None) == chosen.store_is_local


def test_every_url_that_may_be_set_is_registered_and_no_other(tmp_path: Path) -> None:
    """What the settings allow, the registries know; anything else is refused with what there is."""
    assert {form.partition(":")[0] for form in RUNTIME_URLS} == set(RUNTIMES)
    assert {form.partition(":")[0] for form in STORE_URLS} == set(STORES)
    with pytest.raises(SettingsError, match=r"docker: or kubernetes:\[NAMESPACE\] or simulated:\[DIRECTORY\]"):
        settings(tmp_path, runtime_url="docker")


def test_simulated_logins_have_no_limit_unless_one_is_set(tmp_path: Path) -> None:
    """They reach nobody who could lock an account."""
    assert full_login_limit(settings(tmp_path, runtime_url="docker:")) == 12
    assert full_login_limit(settings(tmp_path, runtime_url="simulated:")) is None
    assert full_login_limit(Settings.read(state_dir=tmp_path, runtime_url="simulated:", full_login_limit=5)) == 5


def test_nothing_else_asks_for_a_scheme() -> None:
    """A new runtime or store is an entry, not a hunt."""
    source = Path(__file__).parents[2] / "src"
    asks = re.compile(rf'(startswith\(|[=!]= ?|in [({{])"({"|".join((*RUNTIMES, *STORES))}):?"')
    asking = [str(file) for file in source.rglob("*.py") if asks.search(file.read_text())]
    assert asks.search('url.startswith("docker:")')
    assert asking == []
