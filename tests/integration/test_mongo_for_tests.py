"""Where the tests' own MongoDB-protocol server comes from when there is none on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docker_engine import EngineUnderTest, given_engine, own_engine_fixture
from support.mongo import MongoServer, answers, may_build
from support.mongo_docker import mongo_container

__all__ = ["own_engine_fixture"]

pytestmark = [may_build]


def test_without_an_engine_it_is_ferretdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine answers at DOCKER_HOST: the next in the order is taken."""
    monkeypatch.setenv("GATEWAY_MANAGER_TEST_DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert mongo_container(1, tmp_path / "unused") is None
    with MongoServer(tmp_path / "data") as server:
        assert answers(server.uri)


def test_an_engine_that_cannot_pull_leaves_it_to_ferretdb(
    own_engine: EngineUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine without a way to any registry refuses the pull: the next in the order is taken, and no container is made."""
    monkeypatch.setenv("GATEWAY_MANAGER_TEST_DOCKER_HOST", f"unix://{own_engine.socket}")
    assert given_engine() is not None
    assert mongo_container(1, tmp_path / "unused") is None
    with MongoServer(tmp_path / "data") as server:
        assert answers(server.uri)
    assert own_engine.api.containers("org.spreadpilot.gateway-manager.test-mongo") == []
