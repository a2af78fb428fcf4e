"""What to do about a MongoDB that can't be used, by the words and the code of what it or the driver says. Pure."""

from __future__ import annotations

from typing import Final

_UNAUTHORIZED, _AUTHENTICATION_FAILED, _ATLAS = 13, 18, 8000
"""MongoDB's codes; Atlas has its own for a login that it refuses."""
_BY_CODE: Final = {
    _UNAUTHORIZED: "Give its user `readWrite` on the database.",
    _AUTHENTICATION_FAILED: "Correct user, password or authSource in MONGO_URI.",
    _ATLAS: "Correct user and password in MONGO_URI.",
}
_BY_WORDS: Final = (
    (
        ("name or service", "nodename", "name resolution", "no address", "not exist", "no answer", "nameservers"),
        "Correct the host name in MONGO_URI, or see to this machine's DNS.",
    ),
    (
        ("ssl", "tls", "certificate", ".pem", "no such file"),
        "See to the TLS options of MONGO_URI: tls=true where it speaks TLS, and tlsCAFile for its authority's certificate.",
    ),
    (
        ("primary", "replica set", "writable"),
        "See to its replica set (`rs.status()` in mongosh): one of it must be the primary.",
    ),
)
_REACH = "See that MongoDB runs, that MONGO_URI names where it listens, and that no firewall stands between."


def cure(said: str, code: int | None) -> str:
    """For a server that refused with this code, or that the driver could not reach for what it said."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    words = said.lower()
    return next((what for signs, what in _BY_WORDS if any(sign in words for sign in signs)), _REACH)
