"""`http_address`: whether its certificate can be used, and for how long yet."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from spreadpilot_core.ibkr.http_api.tls import Certificate
from spreadpilot_core.ibkr.service.doctor.findings import Finding, ok, problem, warning
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.system.local_time import local_time

_SOON = timedelta(days=14)
"""A renewal by machine has been tried by then."""


async def certificate(settings: Settings) -> Sequence[Finding]:
    """Nothing where there is none."""
    if settings.http_address is None or settings.http_cert_file is None or settings.http_key_file is None:
        return []
    return await asyncio.to_thread(_findings, settings.http_cert_file, settings.http_key_file)


def _findings(cert_file: Path, key_file: Path) -> list[Finding]:
    Certificate(cert_file, key_file)
    ends = x509.load_pem_x509_certificate(cert_file.read_bytes()).not_valid_after_utc
    cure = "Renew it; a running manager reads the new one by itself."
    if ends <= datetime.now(UTC):
        found = [problem(f"The certificate in http_cert_file has expired: {local_time(ends)}.", cure)]
    elif ends - datetime.now(UTC) < _SOON:
        found = [warning(f"The certificate in http_cert_file expires soon: {local_time(ends)}.", cure)]
    else:
        found = [ok(f"The certificate in http_cert_file is valid until {local_time(ends)}.")]
    if key_file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        found.append(warning(f"{key_file} can be read by others of this host.", f"`chmod 600 {key_file}`"))
    return found
