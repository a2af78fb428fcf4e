"""How the courier proves to be the manager: by files, which launches that begin at once share."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from support.ports import free_ports

TOKEN = "token-of-the-test"


async def test_launches_at_once_each_find_the_token_in_its_file(tmp_path: Path) -> None:
    """A kubeconfig's token is written for the courier again at each launch, since it may be another one by then."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20))
    api = Api(Access(str(kubeconfig(tmp_path))))
    with suppress(RuntimeUnavailableError):  # nobody is there
        await api.open()
    try:
        for _ in range(20):
            for told in await asyncio.gather(*(api.credentials() for _ in range(20))):
                file = Path(told["token"])
                assert file.read_text() == TOKEN
                assert file.stat().st_mode & 0o777 == 0o600
                assert list(file.parent.iterdir()) == [file]
    finally:
        await api.close()


def kubeconfig(directory: Path) -> Path:
    """Of an API server that nobody is."""
    server = {"server": f"https://127.0.0.1:{free_ports(1)}"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": "manager", "user": {"token": TOKEN}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "manager"}}],
    }
    file = directory / "config"
    file.write_text(json.dumps(config))
    return file
