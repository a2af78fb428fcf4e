"""Where an audit trail stands; alone in its module, so that the courier loads no record for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest line of an audit trail: what the record store keeps for `audit verify`."""

    serial: int
    hash: str
