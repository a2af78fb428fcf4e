"""An authority of the tests' own, a server's and a client's certificate by it, and an authority that signed neither."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from real_parts.kubernetes.pki import Authority


@dataclass(frozen=True)
class Certificates:
    """PEM files."""

    authority: Path
    stranger: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Write them all below `directory`, good for a day; the server is loopback's."""
    day = timedelta(days=1)
    authority, stranger = (Authority(directory / name, name, life=day) for name in ("authority", "stranger"))
    files = {}
    for name in ("server", "client"):
        authority.sign(name, name, addresses=["127.0.0.1"])
        files[name] = authority.directory / f"{name}.crt"
        files[f"{name}_key"] = authority.directory / f"{name}.key"
    return Certificates(authority=authority.file, stranger=stranger.file, **files)
