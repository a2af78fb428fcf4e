"""`VaultCredentials`: logins from HashiCorp Vault (or OpenBao), by hvac, which no other module imports.

Each courier begins with `lookup-self`, renews a token that is past a third of its life, or logs in by AppRole and
revokes that token at its end. A secret is one read; its version alone is asked of the metadata.

Two facts are never mixed up. Vault is *unavailable* when it can't be reached, is sealed, overloaded, or when our own token
is no longer good: `AwayError`, retried where it may pass, and the fallback may step in. Vault says *no* when the secret is
missing, deleted, or denied to a token that `lookup-self` proves good: `SecretGoneError`, never retried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hvac  # type: ignore[import-untyped]  # it ships no types
from hvac import exceptions
from requests import exceptions as transport
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from spreadpilot_core.ibkr.credentials import vault_secrets
from spreadpilot_core.ibkr.credentials.backoff import AwayError, SharedBackoff
from spreadpilot_core.ibkr.credentials.refs import canonical_ref
from spreadpilot_core.ibkr.credentials.source import Credentials, SecretGoneError, SecretVersion

CONNECT_TIME = 2.0
ANSWER_TIME = 4.0
"""Seconds without a byte. KV reads take a millisecond; what takes longer than this is broken."""
TRY_TIME = 5.0
"""Seconds for one whole try; four of them and the waits between stay under the 30 s a courier may be silent."""
_RENEW_PAST = 1 / 3
_AUTHORITIES = ("VAULT_CACERT", "VAULT_CAPATH", "REQUESTS_CA_BUNDLE")
_CONNECTIONS = 64

T = TypeVar("T")


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

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, address: str, mount: str) -> VaultAccess:
        """Read `VAULT_TOKEN`, `VAULT_TOKEN_FILE` or `~/.vault-token`; or `VAULT_ROLE_ID` with `VAULT_SECRET_ID[_FILE]`."""
        skip = environ.get("VAULT_SKIP_VERIFY", "").lower() in {"1", "t", "true"}
        authority = next((environ[name] for name in _AUTHORITIES if environ.get(name)), True)
        certificate, key = environ.get("VAULT_CLIENT_CERT"), environ.get("VAULT_CLIENT_KEY")
        home = environ.get("HOME")
        given = environ.get("VAULT_TOKEN_FILE") or (f"{home}/.vault-token" if home else None)
        secret_id_file = environ.get("VAULT_SECRET_ID_FILE")
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
            secret_id_file=Path(secret_id_file) if secret_id_file else None,
            approle_mount=environ.get("VAULT_APPROLE_MOUNT", "approle").strip("/"),
        )


class VaultCredentials:
    """Fulfils `CredentialSource`; safe to use from threads at once."""

    def __init__(
        self,
        access: VaultAccess,
        *,
        mark: Callable[[tuple[str, str, str]], str],
        backoff: SharedBackoff | None = None,
    ) -> None:
        """`mark` names a content where the engine keeps no versions (see `EncryptedCredentials.mark`)."""
        self._access = access
        self._mark = mark
        self._backoff = backoff or SharedBackoff()
        self._session = _Session(access)
        self._tries = ThreadPoolExecutor(thread_name_prefix="find out")
        self._kv_version: int | None = None

    @property
    def renew_within(self) -> float | None:
        """When the token wants its next renewal."""
        return self._session.renew_within

    def read(self, ref: str) -> Credentials:
        """The newest version of the secret.

        Raises:
            AwayError: Vault can't be used now.
            SecretGoneError: it is missing, deleted or denied.
            CredentialsRefusedError: the reference or the secret's content can't be used.
        """
        path = canonical_ref(ref, mount=self._access.mount)
        kv_version, data = self._ask(path, self._read)
        where = f"{self._access.mount}/{path}"
        content = vault_secrets.content(where, data) if kv_version == vault_secrets.VERSIONED else data
        user, password = vault_secrets.pair(where, content)
        if kv_version == vault_secrets.VERSIONED:
            version = vault_secrets.version(data["metadata"]["version"], data["metadata"]["created_time"])
        else:
            version = SecretVersion(self._mark((path, user, password)), None, needed_reading=True)
        return Credentials(user=user, password=password, version=version, source="vault")

    def version(self, ref: str) -> SecretVersion:
        """The newest version, of the metadata; version 1 of the engine has none, so there the secret is read.

        Raises:
            AwayError: Vault can't be used now, or our policies don't allow reading metadata.
            SecretGoneError: the secret is missing or deleted.
        """
        path = canonical_ref(ref, mount=self._access.mount)
        kv_version, metadata = self._ask(path, self._read_metadata)
        if kv_version != vault_secrets.VERSIONED:
            return self.read(ref).version
        return vault_secrets.newest(f"{self._access.mount}/{path}", metadata)

    def close(self) -> None:
        """Revoke the token that was only for this courier."""
        self._tries.shutdown(wait=False)
        self._session.close()

    # ------------------------------------------------------------------ one try

    def _ask(self, path: str, call: Callable[[Any, str], T]) -> tuple[int, T]:
        return self._backoff.run(lambda: self._within_time(lambda: self._proven(path, call)))

    def _within_time(self, work: Callable[[], T]) -> T:
        """A server that sends a byte now and then must not hold us while we find out whether it answers.

        Once it does, each byte has its time limit, and the manager gives up on a courier that owes an answer for 30 s.
        """
        if self._backoff.answers:
            return work()
        try:
            return self._tries.submit(work).result(TRY_TIME)
        except TimeoutError:
            raise self._away(f"it did not answer within {TRY_TIME:.0f} s", may_pass=True) from None

    def _proven(self, path: str, call: Callable[[Any, str], T]) -> tuple[int, T]:
        """Ask; when that is forbidden find out whether it is the secret or our token, and take a new token once."""
        try:
            for _ in range(2):
                client = self._session.client()
                try:
                    return self._kv(client), call(client, path)
                except exceptions.Forbidden:
                    if self._session.is_good(client):
                        raise self._denied(path, call) from None
                    self._session.drop(client)
        except _FAILURES as error:
            reason, may_pass = _reason(error)
            raise self._away(reason, may_pass=may_pass) from None
        raise self._away("our token is no longer good, or never was", may_pass=False)

    def _kv(self, client: Any) -> int:
        """Which version of the engine is mounted, looked up once; a token that may not look gets version 2."""
        if self._kv_version is None:
            try:
                mount = _data(client.adapter.get(f"/v1/sys/internal/ui/mounts/{self._access.mount}"))
                self._kv_version = int((mount.get("options") or {}).get("version", 1))
            except (exceptions.Forbidden, exceptions.InvalidPath):
                return vault_secrets.VERSIONED
        return self._kv_version

    def _read(self, client: Any, path: str) -> Mapping[str, Any]:
        mount = self._access.mount
        try:
            if self._kv(client) == vault_secrets.VERSIONED:
                answer = client.secrets.kv.v2.read_secret_version(
                    path, mount_point=mount, raise_on_deleted_version=False
                )
            else:
                answer = client.secrets.kv.v1.read_secret(path, mount_point=mount)
        except exceptions.InvalidPath as error:
            raise self._missing(path, error) from None
        return _data(answer)

    def _read_metadata(self, client: Any, path: str) -> Mapping[str, Any]:
        if self._kv(client) != vault_secrets.VERSIONED:
            return {}
        try:
            return _data(client.secrets.kv.v2.read_secret_metadata(path, mount_point=self._access.mount))
        except exceptions.InvalidPath as error:
            raise self._missing(path, error) from None

    # ------------------------------------------------------------------ what went wrong

    def _missing(self, path: str, error: Any) -> Exception:
        where = f"{self._access.mount}/{path}"
        if not isinstance(error.json, dict):  # a proxy's page, not Vault's word
            return _NotVaultError()
        if metadata := (error.json.get("data") or {}).get("metadata"):
            return vault_secrets.deleted(where, metadata["version"])
        if error.errors:
            return vault_secrets.unmounted(where, self._access.mount)
        return SecretGoneError(f"Vault has no secret {where}.")

    def _denied(self, path: str, call: Callable[[Any, str], Any]) -> Exception:
        where = f"{self._access.mount}/{path}"
        if call == self._read_metadata:
            return AwayError(
                f"Vault's policies don't let us see the versions of {where}.",
                may_pass=False,
                hint=f'Allow "read" on {self._access.mount}/metadata/{path}.',
            )
        return SecretGoneError(
            f"Vault denies us {where}: our token is good, but its policies don't allow reading it.",
            hint="Allow it in Vault, or correct vault_secret_ref.",
        )

    def _away(self, reason: str, *, may_pass: bool) -> AwayError:
        return AwayError(f"Vault at {self._access.address} is unavailable: {reason}.", may_pass=may_pass)


class _Session:
    """The client that is logged in, or the next one."""

    def __init__(self, access: VaultAccess) -> None:
        self._access = access
        self._turn = threading.Lock()
        self._client: Any = None
        self.renew_within: float | None = None

    def client(self) -> Any:
        """The client; the first caller logs in."""
        with self._turn:
            if self._client is None:
                self._client = self._open()
            return self._client

    def is_good(self, client: Any) -> bool:
        """Whether Vault still knows the client's token."""
        try:
            client.auth.token.lookup_self()
        except exceptions.Forbidden:
            return False
        return True

    def drop(self, client: Any) -> None:
        """Log in anew for the next call, unless another thread did already."""
        with self._turn:
            if self._client is client:
                self._client = None

    def close(self) -> None:
        """Revoke a token that AppRole gave to this courier alone."""
        if not self._turn.acquire(timeout=CONNECT_TIME):
            return  # somebody is still at the door of a Vault that doesn't answer
        client, self._client = self._client, None
        self._turn.release()
        if client is not None and self._access.role_id:
            try:
                client.auth.token.revoke_self()
            except _FAILURES:
                return  # it ends by itself, with its lease

    def _open(self) -> Any:
        access = self._access
        client = hvac.Client(
            url=access.address,
            token=self._token() or "",
            cert=access.certificate,
            verify=access.verify,
            timeout=(CONNECT_TIME, ANSWER_TIME),
            namespace=access.namespace,
        )
        session = client.adapter.session
        session.trust_env = False  # the environment's proxies are looked up once, not for each read; no ~/.netrc
        session.proxies = get_environ_proxies(access.address)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=_CONNECTIONS))
        if access.role_id:
            login = {"role_id": access.role_id, "secret_id": self._secret_id(), "mount_point": access.approle_mount}
            client.token = _data(client.auth.approle.login(**login, use_token=False), "auth")["client_token"]
        self._renew(client)
        return client

    def _renew(self, client: Any) -> None:
        """Look at our token; renew it past a third of its life. One that may not look at itself is tried as it is."""
        try:
            token = _data(client.auth.token.lookup_self())
            left, whole = token["ttl"], token.get("period") or token.get("creation_ttl", 0)
            renewable = token.get("renewable") and not self._access.role_id
            if renewable and left < whole * (1 - _RENEW_PAST):
                left = _data(client.auth.token.renew_self(increment=f"{whole}s"), "auth")["lease_duration"]
        except exceptions.Forbidden:
            return
        if renewable and left:
            self.renew_within = left * _RENEW_PAST

    def _token(self) -> str | None:
        if self._access.role_id:
            return None
        return self._access.token or _content(self._access.token_file)

    def _secret_id(self) -> str | None:
        return self._access.secret_id or _content(self._access.secret_id_file)


class _NotVaultError(Exception):
    """What answers at the address is something else, perhaps a proxy with a page of its own."""


_FAILURES = (exceptions.VaultError, transport.RequestException, OSError, _NotVaultError)


def _data(answer: Any, part: str = "data") -> Mapping[str, Any]:
    """That part of what Vault answered; something else that listens there may answer 200 with anything."""
    data = answer.get(part) if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise _NotVaultError
    return data


def _content(path: Path | None) -> str | None:
    """The file's text: read at each login, since an agent may renew it. A missing file is no login, which Vault tells."""
    try:
        return path.read_text().strip() if path else None
    except FileNotFoundError:
        return None


_REASONS: tuple[tuple[type[Exception], str, bool], ...] = (
    (_NotVaultError, "what answers there is not Vault", False),
    (exceptions.RateLimitExceeded, "it limits how often we may ask", True),
    (transport.SSLError, "its certificate is not one that VAULT_CACERT vouches for", False),
    (transport.Timeout, "it does not answer", True),
    (transport.ConnectionError, "the connection was refused or lost", True),
    (transport.ChunkedEncodingError, "the connection was lost", True),
)


def _reason(error: Exception) -> tuple[str, bool]:
    """Why Vault can't be used, and whether that may pass; text that could quote a header is not repeated."""
    for kind, reason, may_pass in _REASONS:
        if isinstance(error, kind):
            return reason, may_pass
    match error:
        case exceptions.VaultDown():
            return "it is sealed" if "sealed" in str(error.text).lower() else "it is in standby or starting", True
        case (
            exceptions.InvalidRequest() | exceptions.Unauthorized() | exceptions.InvalidPath() | exceptions.Forbidden()
        ):
            return f"it answered {', '.join(error.errors) if error.errors else 'with an error'}", False
        case exceptions.VaultError():
            return f"it answered with a server error ({type(error).__name__})", True
        case transport.RequestException():
            return f"the request could not be made ({type(error).__name__})", False
        case _:
            return f"{error}", False
