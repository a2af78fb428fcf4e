"""`VaultCredentials`: logins from HashiCorp Vault (or OpenBao), by hvac, which no other module imports.

Each courier begins with `lookup-self`, renews a token that is past a third of its life, or logs in (see `access`) and
revokes that token at its end. A secret is one read; its version alone is asked of the metadata.

Two facts are never mixed up. Vault is *unavailable* when it could not be asked: it can't be reached, is sealed, overloaded,
or does not know our token: `AwayError`, retried where it may pass, and the fallback may step in. Every other answer is an
answer, never retried: `SecretGoneError` when the secret is proven missing, deleted, or denied to a token that is proven
good; `CredentialsRefusedError` for every other no, on which nothing stored is used or removed (see `answers`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Literal, TypeVar

import hvac  # type: ignore[import-untyped]  # it ships no types
from hvac.adapters import RawAdapter  # type: ignore[import-untyped]
from hvac.utils import format_url  # type: ignore[import-untyped]
from requests import Response
from requests import exceptions as transport
from requests.utils import get_environ_proxies

from spreadpilot_core.ibkr.credentials.sources.backoff import AwayError, SharedBackoff
from spreadpilot_core.ibkr.credentials.sources.source import Credentials, SecretGoneError, SecretVersion
from spreadpilot_core.ibkr.credentials.sources.vault import cures, secrets
from spreadpilot_core.ibkr.credentials.sources.vault.access import VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.answers import (
    BoundedAdapter,
    NoError,
    NotVaultError,
    UnreadyError,
    data_of,
)
from spreadpilot_core.ibkr.credentials.spans import timed
from spreadpilot_core.ibkr.errors import CredentialsRefusedError
from spreadpilot_core.ibkr.model.secret_refs import canonical_ref

CONNECT_TIME = 2.0
ANSWER_TIME = 4.0
"""Seconds without a byte. KV reads take a millisecond; what takes longer than this is broken."""
TRY_TIME = 5.0
"""Seconds for one whole try; four of them and the waits between stay under the 30 s a courier may be silent."""
_RENEW_PAST = 1 / 3
_CONNECTIONS = 64
_DENIED = 403
_MISSING = 404

T = TypeVar("T")

Leadership = Literal["good", "known", "unknown"]
"""What Vault says of our token: it looked itself up; it is Vault's, as its other answers show; Vault does not know it."""


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
        if kv_version != secrets.VERSIONED:
            user, password = secrets.pair(where, data)
            version = SecretVersion(self._mark((path, user, password)), None, needed_reading=True)
        else:
            values, version = secrets.content(where, data)
            user, password = secrets.pair(where, values)
        return Credentials(user=user, password=password, version=version, source="vault")

    def version(self, ref: str) -> SecretVersion:
        """The newest version, of the metadata; version 1 of the engine has none, so there the secret is read.

        Raises:
            AwayError: Vault can't be used now, or our policies don't allow reading metadata.
            SecretGoneError: the secret is missing or deleted.
        """
        path = canonical_ref(ref, mount=self._access.mount)
        kv_version, metadata = self._ask(path, self._read_metadata)
        if kv_version != secrets.VERSIONED:
            return self.read(ref).version
        return secrets.newest(f"{self._access.mount}/{path}", metadata)

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
        with timed("vault try"):
            return self._bounded(work)

    def _bounded(self, work: Callable[[], T]) -> T:
        if self._backoff.answers:
            return work()
        try:
            return self._tries.submit(copy_context().run, work).result(TRY_TIME)
        except TimeoutError:
            raise self._away(UnreadyError(f"it did not answer within {TRY_TIME:.0f} s", hint=cures.REACH)) from None

    def _proven(self, path: str, call: Callable[[Any, str], T]) -> tuple[int, T]:
        """Ask; when that is forbidden find out whether it is the secret or our token, and take a new token once."""
        try:
            for _ in range(2):
                client = self._session.client()
                try:
                    return self._kv(client), call(client, path)
                except NoError as no:
                    leadership = self._session.leadership(client, self._mount_path) if no.status == _DENIED else "good"
                    if leadership != "unknown":
                        raise self._no(path, no, call, is_proven=leadership == "good" and no.is_own) from None
                    self._session.drop(client)
        except _FAILURES as error:
            raise self._away(cures.unready(error)) from None
        raise self._away(cures.unknown_token(self._access))

    @property
    def _mount_path(self) -> str:
        return str(format_url("/v1/sys/internal/ui/mounts/{mount}", mount=self._access.mount))

    def _kv(self, client: Any) -> int:
        """Which version of the engine is mounted, looked up once; a token that may not look gets version 2."""
        if self._kv_version is None:
            try:
                mount = data_of(_asked(client, "get", self._mount_path))
            except NoError:
                return secrets.VERSIONED
            self._kv_version = secrets.engine_version(mount)
        return self._kv_version

    def _read(self, client: Any, path: str) -> Mapping[str, Any]:
        part = "data/" if self._kv(client) == secrets.VERSIONED else ""
        return data_of(self._get(client, f"{part}{path}"))

    def _read_metadata(self, client: Any, path: str) -> Mapping[str, Any]:
        if self._kv(client) != secrets.VERSIONED:
            return {}
        return data_of(self._get(client, f"metadata/{path}"))

    def _get(self, client: Any, path: str) -> Response:
        return _asked(client, "get", format_url("/v1/{mount}/{path}", mount=self._access.mount, path=path))

    # ------------------------------------------------------------------ what went wrong

    def _no(self, path: str, no: NoError, call: Callable[[Any, str], Any], *, is_proven: bool) -> Exception:
        """What a no means. Only where it is proven that the secret is gone for us, what was remembered of it must go."""
        where = f"{self._access.mount}/{path}"
        if no.status == _DENIED and call == self._read_metadata:
            return AwayError(
                f"Vault's policies don't let us see the versions of {where}.",
                may_pass=False,
                hint=f'Allow "read" on {self._access.mount}/metadata/{path}.',
            )
        if no.status == _DENIED:
            refusal: CredentialsRefusedError = SecretGoneError(
                f"Vault denies us {where}: our token is good, but its policies don't allow reading it.",
                hint="Allow it in Vault, or correct vault_secret_ref.",
            )
            return refusal if is_proven else secrets.softened(refusal)
        if no.status == _MISSING:
            refusal = secrets.missing(where, no.content, mount=self._access.mount)
            return refusal if is_proven else secrets.softened(refusal)
        return CredentialsRefusedError(
            f"Vault answered {where} with {no.said}.", hint="See to it in Vault; it is asked again from time to time."
        )

    def _away(self, why: UnreadyError) -> AwayError:
        what = f"Vault at {self._access.address} is unavailable: {why.reason}."
        return AwayError(what, may_pass=why.may_pass, hint=why.hint)


class _Session:
    """The client that is logged in, or the next one."""

    def __init__(self, access: VaultAccess) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._client: Any = None
        self.renew_within: float | None = None

    def client(self) -> Any:
        """The client; the first caller logs in."""
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def leadership(self, client: Any, mount_path: str) -> Leadership:
        """Whether Vault still knows the client's token, which may not be allowed to look at itself."""
        try:
            _lookup_self(client)
        except NoError as no:
            return "known" if not no.names_the_token or _may_see(client, mount_path) else "unknown"
        return "good"

    def drop(self, client: Any) -> None:
        """Log in anew for the next call, unless another thread did already."""
        with self._lock:
            if self._client is client:
                self._client = None

    def close(self) -> None:
        """Revoke a token that a login gave to this courier alone."""
        if not self._lock.acquire(timeout=CONNECT_TIME):
            return  # somebody is still at the door of a Vault that doesn't answer
        client, self._client = self._client, None
        self._lock.release()
        if client is not None and self._access.gets_own_token:
            with suppress(*_FAILURES):  # it ends by itself, with its lease
                _asked(client, "post", "/v1/auth/token/revoke-self")

    def _open(self) -> Any:
        access = self._access
        if missing := cures.missing_certificates(access):
            raise missing
        client = hvac.Client(
            adapter=RawAdapter,
            url=access.address,
            token=access.given_token() or "",
            cert=access.certificate,
            verify=access.verify,
            timeout=(CONNECT_TIME, ANSWER_TIME),
            namespace=access.namespace,
        )
        session = client.adapter.session
        session.trust_env = False  # the environment's proxies are looked up once, not for each read; no ~/.netrc
        session.proxies = get_environ_proxies(access.address)
        for scheme in ("http://", "https://"):
            session.mount(scheme, BoundedAdapter(pool_connections=1, pool_maxsize=_CONNECTIONS))
        if access.gets_own_token:
            client.token = self._log_in(client)
        self._renew(client)
        return client

    def _log_in(self, client: Any) -> str:
        """A token by the method of `access`. Whoever isn't let in has asked for no secret yet."""
        mount, said = self._access.login()
        try:
            answer = _asked(client, "post", format_url("/v1/auth/{mount}/login", mount=mount), json=said)
            token = data_of(answer, "auth").get("client_token")
        except NoError as no:
            raise cures.no_login(self._access, mount, no.said) from None
        if not isinstance(token, str):
            raise NotVaultError
        return token

    def _renew(self, client: Any) -> None:
        """Look at our token; renew it past a third of its life. One that may not look at itself is tried as it is."""
        try:
            token = _lookup_self(client)
            left, whole = _seconds(token.get("ttl")), _seconds(token.get("period") or token.get("creation_ttl"))
            renewable = token.get("renewable") is True and not self._access.gets_own_token
            if renewable and left < whole * (1 - _RENEW_PAST):
                renewed = data_of(
                    _asked(client, "post", "/v1/auth/token/renew-self", json={"increment": f"{whole}s"}), "auth"
                )
                left = _seconds(renewed.get("lease_duration"))
        except NoError:
            return
        if renewable and left:
            self.renew_within = left * _RENEW_PAST


_FAILURES = (NotVaultError, UnreadyError, transport.RequestException, OSError, UnicodeError)


def _asked(client: Any, method: str, path: str, **more: Any) -> Response:
    """The answer to one request, whatever its status."""
    with timed("vault request", http_request_method=method.upper(), url_path=path) as facts:
        answer = client.adapter.request(method, path, raise_exception=False, **more)
        assert isinstance(answer, Response)  # as the raw adapter gives it
        facts["http.response.status_code"] = answer.status_code
        return answer


def _lookup_self(client: Any) -> Mapping[str, Any]:
    return data_of(_asked(client, "get", "/v1/auth/token/lookup-self"))


def _may_see(client: Any, mount_path: str) -> bool:
    """Whether Vault tells the client about the mount: to a token that it knows, with any right there."""
    try:
        data_of(_asked(client, "get", mount_path))
    except (NoError, NotVaultError):
        return False
    return True


def _seconds(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
