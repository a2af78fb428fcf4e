"""Why Vault could not be asked, in a few words, and what to do about it: each cause has its own cure.

Knows the exceptions of `requests` and what they are made of; text that could quote a header is not repeated.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Final

from requests import exceptions as transport
from urllib3.exceptions import NameResolutionError

from spreadpilot_core.ibkr.credentials.sources.vault.access import APPROLE, SHOWN, TOKEN, VaultAccess
from spreadpilot_core.ibkr.credentials.sources.vault.answers import NotVaultError, UnreadyError, cut

REACH: Final = "See that Vault runs, that VAULT_ADDR is where it listens, and that no firewall stands between."
_FILES: Final = "Correct the variable, or put the file there, readable for this user."
_EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 10, 62, 64
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, …_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


def unready(error: Exception) -> UnreadyError:
    """What kept us from asking."""
    if isinstance(error, UnreadyError):
        return error
    if isinstance(error, NotVaultError):
        cure = "Set VAULT_ADDR to Vault's own address, with https:// where it has a certificate."
        return _final("what answers there is not Vault", cure)
    if isinstance(error, transport.MissingSchema | transport.InvalidSchema | transport.InvalidURL):
        cure = "Set VAULT_ADDR to one that begins with https:// or http://, such as https://vault.example:8200."
        return _final("that is no address of a server", cure)
    if isinstance(error, transport.SSLError):
        return _untrusted(error)
    if isinstance(error, transport.Timeout):
        return UnreadyError("it does not answer", hint=REACH)
    if isinstance(error, transport.ConnectionError | transport.ChunkedEncodingError):
        return _lost(error)
    if isinstance(error, transport.RequestException | UnicodeError):
        cure = "See that VAULT_ADDR, VAULT_NAMESPACE and the token hold no line breaks or other odd characters."
        return _final(f"the request could not be made ({type(error).__name__})", cure)
    return _final(cut(f"{error}"), _FILES)


def missing_certificates(access: VaultAccess) -> UnreadyError | None:
    """A file of certificates that is named and can't be read, of which TLS itself would not say which it is."""
    if isinstance(access.verify, str) and not os.access(access.verify, os.R_OK):
        what = f"the certificates that it is to be trusted by, {access.verify}, can't be read"
        return _final(what, f"VAULT_CACERT, VAULT_CAPATH or REQUESTS_CA_BUNDLE names it. {_FILES}")
    for name, path in zip(("VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"), access.certificate or (), strict=False):
        if not os.access(path, os.R_OK):
            return _final(f"{path}, which {name} names, can't be read", _FILES)
    return None


def no_login(access: VaultAccess, mount: str, said: str) -> UnreadyError:
    """Vault does not let us in."""
    method = access.method
    reason = f"it answered our login by {SHOWN[method]} with {said}"
    if method != APPROLE:
        who = f"`vault read auth/{mount}/role/{access.auth_role or 'NAME'}` tells whom the role lets in."
        return _final(reason, f"Correct VAULT_AUTH_ROLE, VAULT_AUTH_MOUNT or VAULT_JWT_FILE; {who}")
    new = f"`vault write -f auth/{mount}/role/NAME/secret-id` makes one."
    if access.given_secret_id() is None:
        where = f"in {access.secret_id_file}, which VAULT_SECRET_ID_FILE names" if access.secret_id_file else "given"
        return _final(reason, f"No secret id is {where}: set VAULT_SECRET_ID or VAULT_SECRET_ID_FILE; {new}")
    return _final(reason, f"Correct VAULT_ROLE_ID, VAULT_APPROLE_MOUNT or the secret id; {new}")


def unknown_token(access: VaultAccess) -> UnreadyError:
    """There is no token, or none that Vault knows."""
    if access.method == TOKEN and access.given_token() is None:
        if access.secret_id or access.secret_id_file:
            cure = "Set VAULT_ROLE_ID; `vault read auth/approle/role/NAME/role-id` tells it."
            return _final("a secret id is given without a role id", cure)
        cure = "Set VAULT_TOKEN or VAULT_TOKEN_FILE, or VAULT_ROLE_ID with VAULT_SECRET_ID for AppRole."
        return _final("no token is given" + (f", and {access.token_file} has none" if access.token_file else ""), cure)
    where = "VAULT_TOKEN" if access.token else access.token_file
    cure = f"Put a good one into {where}; `vault token lookup` tells whether one is."
    if access.gets_own_token:
        cure = "Vault forgot it right after our login: see in its audit log why, and how long the role's tokens live."
    return _final("our token is no longer good, or never was", cure)


def _untrusted(error: transport.SSLError) -> UnreadyError:
    refused = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if isinstance(refused, ssl.SSLCertVerificationError):
        if refused.verify_code == _EXPIRED:
            return _final("its certificate has expired", "Give Vault a new one; is this machine's clock right?")
        if refused.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
            cure = "Set VAULT_ADDR to a name that its certificate bears, or give Vault one for this name."
            return _final("its certificate is for another name", cure)
        cure = "Set VAULT_CACERT to the file with the certificate of the authority that signed Vault's."
        return _final("its certificate is not one that VAULT_CACERT vouches for", cure)
    if refused is not None and refused.reason in _NO_TLS:
        return _final("what answers there does not speak TLS", "Set VAULT_ADDR to http://, or have Vault speak TLS.")
    cure = "See to VAULT_CACERT, and to VAULT_CLIENT_CERT and VAULT_CLIENT_KEY where Vault asks who we are."
    return _final("no TLS connection came about", cure)


def _lost(error: transport.RequestException) -> UnreadyError:
    if isinstance(error, transport.ProxyError):
        cure = "See to HTTP_PROXY and HTTPS_PROXY, or name Vault's host in NO_PROXY."
        return UnreadyError("the proxy on the way does not let us through", hint=cure)
    if any(isinstance(each, NameResolutionError) for each in _causes(error)):
        cure = "Correct the name in VAULT_ADDR, or see to this machine's DNS."
        return UnreadyError("its host name does not resolve", hint=cure)
    return UnreadyError("the connection was refused or lost", hint=REACH)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was made of: `requests` and urllib3 keep that in `args` and `reason`."""
    yield error
    inner = [each for each in (*error.args, getattr(error, "reason", None)) if isinstance(each, BaseException)]
    for each in inner[:1]:
        yield from _causes(each)


def _final(reason: str, hint: str) -> UnreadyError:
    return UnreadyError(reason, may_pass=False, hint=hint)
