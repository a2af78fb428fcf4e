from __future__ import annotations

import json

from support.command import Command
from support.home import Home


def test_each_setting_and_where_it_comes_from(home: Home) -> None:
    """As a table and as JSON: environment, file, default; no secret; what is not obeyed on standard error."""
    file = home.directory / "settings.toml"
    file.write_text('login_budget = 5\nvault_addr = "https://u:pl4nted@vault"\n')
    command = Command(home)
    given = {
        "GATEWAY_MANAGER_CONFIG": str(file),
        "GATEWAY_MANAGER_LOGN_BUDGET": "4",
        "MONGO_URI": "mongodb://u:pl4nted@db",
    }
    done = command("settings", "show", "--json", **given)
    assert done.returncode == 0, done.stderr
    rows = {row["setting"]: (row["value"], row["from"]) for row in json.loads(done.stdout)}
    assert rows["login_budget"] == (5, f"file {file}")
    assert rows["mongo_uri"] == ("set (hidden)", "environment MONGO_URI")
    assert rows["vault_addr"] == ("set (hidden)", f"file {file}")
    assert rows["stop_grace"] == (5.0, "environment GATEWAY_MANAGER_STOP_GRACE")
    assert rows["parallel_starts"] == (4, "default")
    assert "GATEWAY_MANAGER_LOGN_BUDGET is not obeyed" in done.stderr
    table = command("settings", "show", **given)
    assert "set (hidden)" in table.stdout
    assert "pl4nted" not in done.stdout + done.stderr + table.stdout + table.stderr


def test_a_variable_that_is_not_obeyed_is_named_at_the_start(home: Home) -> None:
    """Whoever meant orders to be refused must not find out from a filled one."""
    command = Command(home, log_format="json")
    command.environment["READ_ONLY_API"] = "yes"
    with command.begun("run") as serving:
        serving.says("READ_ONLY_API is not obeyed: GATEWAY_MANAGER_READ_ONLY_API was meant?")
        serving.says("manager started")
