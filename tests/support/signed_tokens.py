"""JSON web tokens as an issuer of identities signs them, such as Kubernetes does for service accounts."""

from __future__ import annotations

import base64
import json
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://issuer.example"
_HALF = 32
"""Bytes of either half of a signature."""


class Issuer:
    """A pair of keys, and tokens signed with it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> str:
        """What whoever checks the tokens is given."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def token(self, subject: str, *, audience: str = "vault", seconds: float = 600) -> str:
        """Valid for this long from now on; negative seconds: no more."""
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": [audience], "iat": now - 1000, "nbf": now - 1000}
        signed = f"{_part({'alg': 'ES256', 'typ': 'JWT'})}.{_part({**claims, 'exp': int(now + seconds)})}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_text(r.to_bytes(_HALF, 'big') + s.to_bytes(_HALF, 'big'))}"


def _part(content: dict[str, object]) -> str:
    return _text(json.dumps(content).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
