"""Where Vault is and how a courier proves who it is: a token, AppRole, a JWT, or the pod's own service account.

What is in a file is read at each login, since whoever wrote it may have renewed it: an agent its token, the kubelet the service
account's, which it replaces well before its end. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spreadpilot_core.ibkr.credentials.sources.vault.answers import UnreadyError
from spreadpilot_core.ibkr.system.regular_files import read_regular

TOKEN, APPROLE, JWT, KUBERNETES = "token", "approle", "jwt", "kubernetes"
SHOWN: Final[Mapping[str, str]] = {
    TOKEN: "a token",
    APPROLE: "AppRole",
    JWT: "a JWT",
    KUBERNETES: "the service account",
}
"""How a login by each method is called in a sentence."""
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where Kubernetes gives a pod the token of its service account."""
LONGEST_KEY = 2**16
"""Bytes of a token's or secret id's file."""
_AUTHORITIES = ("VAULT_CACERT", "VAULT_CAPATH", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, kw_only=True)
class VaultAccess:
    """Where Vault is and how we prove who we are; from the environment's usual names."""

    address: str
    mount: str = "secret"
    namespace: str | None = None
    verify: bool | str = True
    certificate: tuple[str, str] | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    role_id: str | None = None
    secret_id: str | None = field(default=None, repr=False)
    secret_id_file: Path | None = None
    approle_mount: str = "approle"
    auth_method: str | None = None
    """One of `SHOWN`; None: AppRole where there is a role id, else a token."""
    auth_role: str | None = None
    """The role that a JWT or service account logs in as; None: the default role of the mount, which JWT alone may have."""
    auth_mount: str | None = None
    """Where the method of JWT or Kubernetes is mounted; None: under its own name."""
    jwt_file: Path | None = None
    """None: the token of the pod's service account."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, address: str, mount: str) -> VaultAccess:
        """Read `VAULT_TOKEN`, `VAULT_TOKEN_FILE` or `~/.vault-token`; `VAULT_ROLE_ID` with `VAULT_SECRET_ID[_FILE]`; or
        `VAULT_AUTH_METHOD` with `VAULT_AUTH_ROLE`, `VAULT_AUTH_MOUNT` and `VAULT_JWT_FILE`.
        """
        skip = environ.get("VAULT_SKIP_VERIFY", "").lower() in {"1", "t", "true"}
        authority = next((environ[name] for name in _AUTHORITIES if environ.get(name)), True)
        certificate, key = environ.get("VAULT_CLIENT_CERT"), environ.get("VAULT_CLIENT_KEY")
        home = environ.get("HOME")
        given = environ.get("VAULT_TOKEN_FILE") or (f"{home}/.vault-token" if home else None)
        return cls(
            address=address,
            mount=mount.strip("/"),
            namespace=environ.get("VAULT_NAMESPACE") or None,
            verify=authority if not skip else False,
            certificate=(certificate, key) if certificate and key else None,
            token=environ.get("VAULT_TOKEN") or None,
            token_file=Path(given) if given else None,
            role_id=environ.get("VAULT_ROLE_ID") or None,
            secret_id=environ.get("VAULT_SECRET_ID") or None,
            secret_id_file=_path(environ.get("VAULT_SECRET_ID_FILE")),
            approle_mount=environ.get("VAULT_APPROLE_MOUNT", APPROLE).strip("/"),
            auth_method=environ.get("VAULT_AUTH_METHOD", "").strip().lower() or None,
            auth_role=environ.get("VAULT_AUTH_ROLE") or None,
            auth_mount=environ.get("VAULT_AUTH_MOUNT", "").strip("/") or None,
            jwt_file=_path(environ.get("VAULT_JWT_FILE")),
        )

    @property
    def method(self) -> str:
        """How it logs in. Raises `UnreadyError` for one that there isn't."""
        method = self.auth_method or (APPROLE if self.role_id else TOKEN)
        if method not in SHOWN:
            reason = f"VAULT_AUTH_METHOD is {method[:40]!r}, and must be {', '.join(list(SHOWN)[:-1])} or {KUBERNETES}"
            raise UnreadyError(reason, may_pass=False, hint="Correct it, or leave it out for a token or AppRole.")
        return method

    @property
    def gets_own_token(self) -> bool:
        """Whether a login gives a token that is this courier's alone, to be revoked at its end."""
        return self.method != TOKEN

    def given_token(self) -> str | None:
        """The token that somebody else made for us, as it is now."""
        return None if self.gets_own_token else self.token or _content(self.token_file)

    def given_secret_id(self) -> str | None:
        """The secret id of AppRole, as it is now; a role may do without."""
        return self.secret_id or _content(self.secret_id_file)

    def login(self) -> tuple[str, Mapping[str, Any]]:
        """Where the method of login is mounted, and what is said there. Raises `UnreadyError` where something is missing."""
        method = self.method
        if method == APPROLE:
            return self.approle_mount, {"role_id": self.role_id, "secret_id": self.given_secret_id()}
        if method == KUBERNETES and self.auth_role is None:
            reason = "VAULT_AUTH_ROLE does not name the role that the service account logs in as"
            hint = f"Set it; `vault list auth/{self.auth_mount or method}/role` names the roles."
            raise UnreadyError(reason, may_pass=False, hint=hint)
        role = {} if self.auth_role is None else {"role": self.auth_role}
        return self.auth_mount or method, {**role, "jwt": self._jwt()}

    def _jwt(self) -> str:
        path = self.jwt_file or SERVICE_ACCOUNT_TOKEN
        if content := _content(path):
            return content
        where = "" if self.jwt_file else ", where Kubernetes gives a pod its service account's"
        hint = "Set VAULT_JWT_FILE to the file that has one, and have whoever writes it do so."
        raise UnreadyError(f"there is no JWT in {path}{where}", may_pass=False, hint=hint)


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _content(path: Path | None) -> str | None:
    """The file's text. A missing file is no login, which Vault tells."""
    try:
        return read_regular(path, longest=LONGEST_KEY).decode().strip() if path else None
    except FileNotFoundError:
        return None
