"""Compose files: whatever somebody names, the import ends with followers or with a sentence, and no password is in either."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.service.import_commands import import_compose
from support.fuzzing import for_a_while, fuzzed, odd_bytes, scratch, some, spoiled

PASSWORD = "planted-hunter2"
GOOD = f"""\
x-base: &base
  image: ghcr.io/gnzsnz/ib-gateway:stable
  restart: always
services:
  alice:
    <<: *base
    environment:
      TWS_USERID: alice123
      TWS_PASSWORD: "{PASSWORD}"
      TWS_USERID_PAPER: ${{PAPER_USER:-alicepaper}}
      TWS_PASSWORD_PAPER: {PASSWORD}
      TRADING_MODE: both
      TZ: America/New_York
      VNC_SERVER_PASSWORD: {PASSWORD}
    ports: ["127.0.0.1:4101:4003", {{target: 4004, published: 4102}}]
    secrets: [a, {{source: b, target: /b}}]
    volumes: ["./a:/b:ro"]
    env_file: [{{path: more.env, required: false}}]
  bot:
    image: bot
    depends_on: [alice]
    environment:
      - PASSWORD={PASSWORD}
secrets: {{a: {{file: a.txt}}, b: {{external: true}}}}
""".encode()
ENV = f"A='{PASSWORD}'\nB=\"x${{A}}\"\nC=$A\n".encode()

AS_A_NAME = re.compile(rb"(USERID|image)[^\n]*planted")
"""Where the spoiling made a user of the password, that is a name, and names are shown."""

words = st.sampled_from(
    [b"$", b"${", b"}", b"*a", b"&a ", b"!x ", b"<<: *base", b"- ", b": ", b"\n", b"\n\t", b"'", b'"', b"|", b"[", b"{"]
)
changes = st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30), words), max_size=4)


def _spoiled(places: list[tuple[int, int, bytes]]) -> bytes:
    content = GOOD
    for place, length, instead in places:
        content = content[:place] + instead + content[place + length :]
    return content


@fuzzed
def test_any_file_ends_in_followers_or_in_a_sentence(seconds: float) -> None:
    """No traceback, at most one sentence for each reason, and none of the passwords, however the file is spoiled."""

    @some
    @given(changes.map(_spoiled) | spoiled(GOOD) | odd_bytes, st.just(ENV) | spoiled(ENV) | odd_bytes, st.booleans())
    def check(compose: bytes, env: bytes, dry_run: bool) -> None:
        with scratch() as place:
            (place / "docker-compose.yml").write_bytes(compose)
            (place / ".env").write_bytes(env)
            printed = _imported(place, dry_run=dry_run)
            assert PASSWORD not in printed or AS_A_NAME.search(compose), printed

    for_a_while(seconds, check)


def _imported(place: Path, *, dry_run: bool) -> str:
    """All that it prints, its refusal included."""
    out = io.StringIO()
    variables = {"GATEWAY_MANAGER_STATE_DIR": str(place / "state"), "GATEWAY_MANAGER_STORE_URL": "local:"}
    refusal = ""
    with patch.dict("os.environ", variables), redirect_stdout(out), redirect_stderr(out):
        try:
            import_compose(place / "docker-compose.yml", dry_run=dry_run, env_file=None, services=(), prefix="")
        except GatewayManagerError as error:
            refusal = str(error)
    assert "\n" not in refusal
    assert not dry_run or not (place / "state").exists()
    return out.getvalue() + refusal
