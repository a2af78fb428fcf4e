"""What an answer means that came from Vault's address: Vault's word, its being away, or somebody else's page.

Away is what could not be asked. Every other answer of Vault's is an answer, whatever its status, its text or its content
type; a page that is not in Vault's form (of a proxy, a load balancer, a wrong port) is none, and says nothing of a secret.

Knows HTTP as `requests` gives it, no session and no secret. Whatever is quoted is cut short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from requests import Response
from requests import exceptions as transport
from requests.adapters import HTTPAdapter

LONGEST_ANSWER = 4 * 2**20
"""Bytes; Vault itself takes requests of up to 32 MiB, and a secret with a login in it has some hundred."""
LONGEST_SAYING = 200
"""Characters that are repeated of what Vault says."""
OWN_TYPE = "application/json"
_PIECE = 2**16

_STANDBY = (472, 473)
_FIRST_ERROR, _FIRST_FAULT = 400, 500
_ALONE = "It passes by itself; if it stays, Vault's own log says why."
_IN_STANDBY = "`vault status` tells of its cluster: it answers once one of it is active."
_REASONS = {
    408: ("it does not answer in time", _ALONE),
    412: ("it has not caught up yet", _ALONE),
    429: ("it limits how often we may ask", "Raise the limit (`vault list sys/quotas/rate-limit`), or wait."),
    501: ("it is not initialized", "Initialize it (`vault operator init`)."),
    503: ("it is in standby or starting", _IN_STANDBY),
    **dict.fromkeys(_STANDBY, ("it is in standby", _IN_STANDBY)),
}
_SEALED = ("it is sealed", "Unseal it (`vault operator unseal`).")


class NotVaultError(Exception):
    """What answers at the address is something else, perhaps a proxy with a page of its own."""


class UnreadyError(Exception):
    """Vault can't be asked now; the text is the reason. `may_pass`: perhaps in a second, so that a retry makes sense."""

    def __init__(self, reason: str, *, hint: str, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.may_pass = may_pass


class NoError(Exception):
    """Vault was asked and said no."""

    def __init__(self, status: int, content: Mapping[str, Any], *, is_own: bool) -> None:
        super().__init__(status)
        self.status = status
        self.content = content
        self.is_own = is_own
        """Whether it came as Vault sends it. One that somebody on the way has handled is a no all the same, but nothing is
        destroyed on the strength of it."""

    @property
    def said(self) -> str:
        """Vault's words, or that there were none."""
        errors = [" ".join(each.split()) for each in self.content.get("errors") or () if isinstance(each, str)]
        words = cut(", ".join(filter(None, errors)))
        return words or f"{self.status} without a word"

    @property
    def names_the_token(self) -> bool:
        """Whether it is our token that Vault doesn't know: a policy's no is worded as a list of its own."""
        bare = self.content.get("errors") == ["permission denied"]
        return self.status == 403 and (bare or "invalid token" in self.said)  # noqa: PLR2004  # HTTP


def content_of(response: Response) -> Mapping[str, Any]:
    """The JSON object in an answer.

    Raises:
        NoError: Vault said no.
        UnreadyError: it can't be asked now.
        NotVaultError: it is not Vault's answer.
    """
    content = _parsed(response)
    if response.status_code >= _FIRST_FAULT or response.status_code in _REASONS:
        reason, hint = _reason(response.status_code, content)
        raise UnreadyError(reason, hint=hint)
    is_vaults = content is not None and isinstance(content.get("errors", []), list)
    if response.status_code >= _FIRST_ERROR:
        if content is None or not is_vaults or not content.keys() & {"errors", "data"}:
            raise NotVaultError
        raise NoError(response.status_code, content, is_own=response.headers.get("Content-Type") == OWN_TYPE)
    if content is None:
        raise NotVaultError
    return content


def data_of(response: Response, part: str = "data") -> Mapping[str, Any]:
    """That part of a good answer; something else that listens there may answer 200 with anything."""
    data = content_of(response).get(part)
    if not isinstance(data, dict):
        raise NotVaultError
    return data


def cut(text: str) -> str:
    """Short enough for a sentence."""
    return text if len(text) <= LONGEST_SAYING else f"{text[: LONGEST_SAYING - 1]}…"


def _parsed(response: Response) -> Mapping[str, Any] | None:
    try:
        content = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _reason(status: int, content: Mapping[str, Any] | None) -> tuple[str, str]:
    """Why it can't be asked, and the cure."""
    if status == 503 and content is not None and "sealed" in str(content.get("errors")).lower():  # noqa: PLR2004  # HTTP
        return _SEALED
    return _REASONS.get(status, (f"it answered with a server error ({status})", _ALONE))


class BoundedAdapter(HTTPAdapter):
    """Reads an answer up to `LONGEST_ANSWER`, so that none fills the memory."""

    def send(  # type: ignore[override]  # all but the first two are passed on
        self, request: Any, stream: bool = False, **choices: Any
    ) -> Response:
        """One request.

        Raises:
            ContentDecodingError: the answer is longer.
        """
        response = super().send(request, stream=True, **choices)
        if not stream:
            content = bytearray()
            for piece in response.iter_content(_PIECE):
                content += piece
                if len(content) > LONGEST_ANSWER:
                    response.close()
                    msg = f"more than {LONGEST_ANSWER // 2**20} MiB"
                    raise transport.ContentDecodingError(msg)
            response._content = bytes(content)  # noqa: SLF001  # as `response.content` leaves it
        return response
