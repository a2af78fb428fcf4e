"""One last picture of a gateway's screen as an answer, below `/v1` and on the page alike."""

from __future__ import annotations

from fastapi.responses import Response

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.http_api.served import ServedApp


class UnknownPictureError(GatewayManagerError):
    """There is no such picture, or no more."""

    def __init__(self, follower_id: str) -> None:
        super().__init__(
            f"There is no such picture of {follower_id}.", hint="Newer ones take the places of older ones."
        )


async def picture_answer(served: ServedApp, follower_id: str, picture_id: str) -> Response:
    """As PNG, once the audit trail tells of it, as of an opened screen.

    Raises:
        UnknownFollowerError: no record has this id.
        UnknownPictureError: it is not there.
        AuditError: the audit trail can't be written.
    """
    content = await served.manager.details.picture(follower_id, picture_id)
    if content is None:
        raise UnknownPictureError(follower_id)
    await served.auditor.write("picture-open", {"follower": follower_id, "detail": picture_id})
    return Response(content, media_type="image/png")
