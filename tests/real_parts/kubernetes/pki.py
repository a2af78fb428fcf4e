"""Certificates of the tests' own, and the kubeconfigs of a cluster that lives for one run of them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_MONTH = timedelta(days=30)


class Authority:
    """Signs what `directory` holds afterwards: NAME.crt and NAME.key."""

    def __init__(self, directory: Path, name: str = "gateway-manager-tests", *, life: timedelta = _MONTH) -> None:
        """`life`: how long what it signs is valid."""
        self.directory = directory
        self._life = life
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self._write("ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        self._write("ca.key", _private(self._key))

    def sign(self, name: str, user: str, *, group: str | None = None, addresses: Sequence[str] = ()) -> None:
        """A certificate of this user, for both sides of a connection."""
        key = ec.generate_private_key(ec.SECP256R1())
        words = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group is not None:
            words.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            self._builder(x509.Name(words), key.public_key())
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(signer, critical=False)  # Python 3.13 wants both to name each other
        )
        if addresses:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_named(it) for it in addresses]), critical=False
            )
        signed = builder.sign(self._key, hashes.SHA256())
        self._write(f"{name}.crt", signed.public_bytes(serialization.Encoding.PEM))
        self._write(f"{name}.key", _private(key))

    def key_pair(self, name: str) -> None:
        """A private key and its public half, for what signs service accounts' tokens."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(f"{name}.key", _private(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._write(f"{name}.pub", public)

    def kubeconfig(self, name: str, server: str, path: Path, namespace: str = "default") -> None:
        """How the holder of the certificate NAME reaches the API server."""
        cluster = {"server": server, "certificate-authority": str(self.file)}
        user = {
            "client-certificate": str(self.directory / f"{name}.crt"),
            "client-key": str(self.directory / f"{name}.key"),
        }
        context = {"cluster": "tests", "user": name, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tests", "context": context}],
        }
        path.write_text(json.dumps(config))
        path.chmod(0o600)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + self._life)
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path


def _named(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
