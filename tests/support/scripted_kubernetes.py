"""A made-up Kubernetes API server that a test scripts, behind a real TLS connection."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from spreadpilot_core.ibkr.kubernetes.api import Api
from spreadpilot_core.ibkr.kubernetes.connecting import Access
from support.certificates import make_certificates


@asynccontextmanager
async def answered_by(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    place: Path,
    *,
    connecting: Callable[[], None] = lambda: None,
) -> AsyncIterator[Api]:
    """An open client of a server that answers so; `place` gets its files, and `connecting` is told of each connection that is being made."""
    certificates = make_certificates(place)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.sni_callback = lambda *_: connecting()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    address = f"https://127.0.0.1:{runner.addresses[0][1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "scripted",
        "clusters": [
            {"name": "scripted", "cluster": {"server": address, "certificate-authority": str(certificates.authority)}}
        ],
        "users": [{"name": "me", "user": {"token": "none"}}],
        "contexts": [{"name": "scripted", "context": {"cluster": "scripted", "user": "me", "namespace": "trading"}}],
    }
    (place / "config").write_text(json.dumps(config))
    api = Api(Access(str(place / "config")), patience=30.0)
    await api.open()
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()
