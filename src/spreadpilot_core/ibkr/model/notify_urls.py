"""Addresses of channels for notifications, as settings and records hold them: one secret text with blanks between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
ALLOWED = 'must be addresses of channels such as "tgram://TOKEN/CHAT", a text with blanks between them or a list'


def joined_urls(value: Any) -> Any:
    """A list as one text; anything else as it is."""
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return value


def split_urls(urls: SecretStr | None) -> Sequence[SecretStr]:
    """Each of them."""
    return [SecretStr(each) for each in urls.get_secret_value().split()] if urls is not None else []


def _usable(urls: SecretStr) -> SecretStr:
    found = split_urls(urls)
    if not found or not all(_ADDRESS.fullmatch(each.get_secret_value()) for each in found):
        raise ValueError(ALLOWED)
    return urls


def parse_urls(value: object) -> SecretStr | None:
    """The addresses; None: these are none."""
    text = joined_urls(value)
    try:
        return _usable(SecretStr(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def urls_in_file(text: str) -> SecretStr | None:
    """Those of a file, one a line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return parse_urls(lines)


NotifyUrls = Annotated[SecretStr, BeforeValidator(joined_urls), AfterValidator(_usable)]
