"""MongoDB's connection string may hold a password: it is never shown, whatever is wrong with it."""

from __future__ import annotations

import traceback

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import SettingsError, StoreUnavailableError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase

WRONG = [
    "http://spread:geheim@db",
    "mongodb://spread:gehe@im@db/",
    "mongodb://spread:ge/heim@db/",
    "mongodb://spread:ge?heim@db/",
    "mongodb://spread:geheim@db:port/",
    "mongodb://spread:geheim@db:99999/",
    "mongodb://spread:geheim@/",
    "mongodb://spread:geheim@db/?authMechanism=geheim",
    "mongodb://spread:geheim@db/?w=-5&geheim",
]


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("uri", WRONG)
def test_wrong_connection_string_is_a_setting_error_without_the_password(uri: str) -> None:
    """The start stops with a sentence that names the setting and hides its value."""
    with pytest.raises(
        SettingsError, match=r"mongo_uri is set, but it must be a MongoDB connection string: "
    ) as raised:
        MongoDatabase.from_settings(Settings.read(mongo_uri=uri))
    for part in ("geheim", "gehe@im", "ge/heim", "ge?heim"):
        assert part not in shown(raised.value)


def test_missing_connection_string_is_told() -> None:
    """`mongodb:` without an address says which setting is missing, with an example."""
    with pytest.raises(SettingsError, match=r"mongo_uri is not set, but store_url is mongodb: and needs it"):
        MongoDatabase.from_settings(Settings.read(store_url="mongodb:"))


@pytest.mark.parametrize(
    ("uri", "label"),
    [
        ("mongodb://localhost", "MongoDB at localhost"),
        ("mongodb://spread:ge%2Fheim@db1:27017,db2:27018/admin?replicaSet=rs0", "MongoDB at db1:27017,db2:27018"),
        ("mongodb+srv://spread:geheim@cluster0.example.net/?w=majority", "MongoDB at cluster0.example.net"),
        ("mongodb://spread:ge@heim@db/", "MongoDB at db"),
    ],
)
def test_label_has_the_hosts_alone(uri: str, label: str) -> None:
    """What errors and logs call the database shows neither user nor password nor options."""
    assert MongoDatabase(SecretStr(uri), "spreadpilot").label == label


async def test_errors_of_the_driver_are_translated_without_the_password() -> None:
    """A client that can't be made, a host that can't be found: one sentence each, and no trace of the driver's error."""
    for uri in (
        "mongodb://spread:geheim@127.0.0.1:1/?tls=true&tlsCAFile=/nowhere/geheim.pem&serverSelectionTimeoutMS=100",
        "mongodb+srv://spread:geheim@cluster0.invalid/",
    ):
        database = MongoDatabase(SecretStr(uri), "spreadpilot")
        with pytest.raises(StoreUnavailableError, match=r"MongoDB at .+ can't be used: .+") as raised:
            await database.open()
        text = shown(raised.value).replace("/nowhere/geheim.pem", "")
        assert "geheim" not in text
        assert "pymongo" not in text
        await database.close()
