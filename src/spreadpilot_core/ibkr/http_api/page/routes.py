"""The routes of the page: the same gateways, roles and followers as those below `/v1`, as HTML and forms.

A follower is named in the query string: its id may be any text, and a browser changes what looks like a path.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from spreadpilot_core.ibkr.access.callers import RefusedCallerError, Role
from spreadpilot_core.ibkr.http_api.needs import CallerOf, needs
from spreadpilot_core.ibkr.http_api.page import showing
from spreadpilot_core.ibkr.http_api.page.assets import FOREVER
from spreadpilot_core.ibkr.http_api.page.fleet import View, element_id
from spreadpilot_core.ibkr.http_api.page.rendering import Pages, clock, moment
from spreadpilot_core.ibkr.http_api.pictures import picture_answer
from spreadpilot_core.ibkr.http_api.routes.events import ALIVE, SSE, stream
from spreadpilot_core.ibkr.http_api.routes.session import token_gate
from spreadpilot_core.ibkr.http_api.served import Served, ServedApp
from spreadpilot_core.ibkr.model.records import HistoryPlace

router = APIRouter(include_in_schema=False, default_response_class=Response)

Follower = Annotated[str, Query(max_length=200)]
MOST_CHANGED = 100
"""Followers in one question for what has changed."""
OTHER_ROWS = "other-rows"
"""What a page is told whose table has other gateways by now."""
_WAIT = 2.0
"""Seconds that a form waits for the end of what it began."""
_DONE = {
    "launch": "The start of {} was begun.",
    "stop": "{} stops.",
    "restart": "The restart of {} was begun.",
    "reconnect": "{} has a new client connection.",
    "not-reconnected": "{} could not be connected to.",
}


def pages_of(request: Request) -> Pages:
    """Of the application that answers."""
    pages = request.app.state.pages
    assert isinstance(pages, Pages)
    return pages


@router.get("/", dependencies=[needs(Role.VIEWER)])
async def show_fleet(
    request: Request, served: Served, caller: CallerOf, done: str = "", follower: Follower = ""
) -> Response:
    """What needs somebody, then every gateway."""
    pages, view = pages_of(request), View.read(dict(request.query_params))
    fleet = await showing.the_fleet(served, caller, view)
    return pages.answer("fleet", **showing.fleet_page(pages, served, fleet, _said(done, follower)))


@router.get("/changes", dependencies=[needs(Role.VIEWER)])
async def show_changes(
    request: Request,
    served: Served,
    caller: CallerOf,
    follower: Annotated[list[str] | None, Query(max_length=MOST_CHANGED)] = None,
    digest: str = "",
) -> Response:
    """Rows that changed, by follower, and what is said of the fleet: for a page that is shown already.

    Where other gateways belong on it now than it says (`rows`), it is told to come anew.
    """
    pages, view = pages_of(request), View.read(dict(request.query_params))
    fleet = await showing.the_fleet(served, caller, view)
    named, rows = set(follower or ()), request.query_params.get("rows")
    there = [each for each in fleet.shown.gateways if each.follower_id in named]
    values = fleet.common | {"needs_changed": digest != fleet.common["needs_digest"]}
    headers = {"HX-Trigger": OTHER_ROWS} if rows is not None and rows != fleet.shown.digest else None
    return pages.answer("changes", headers=headers, **values, rows=showing.rows(pages, fleet, there, swapped=True))


@router.get("/heartbeats", dependencies=[needs(Role.VIEWER)])
async def show_heartbeats(request: Request, served: Served) -> Response:
    """When each gateway was last heard of, by its row: no event tells of a heartbeat."""
    view = View.read(dict(request.query_params))
    heard = {
        element_id(each.follower_id): (
            each.last_heartbeat.isoformat(),
            moment(each.last_heartbeat),
            clock(each.last_heartbeat),
        )
        for each in served.manager.list_gateways()
        if each.last_heartbeat is not None and view.matches(each)
    }
    return JSONResponse(heard)


@router.get("/gateway", dependencies=[needs(Role.VIEWER)])
async def show_gateway(request: Request, served: Served, caller: CallerOf, follower: Follower) -> Response:
    """All about one; `before` begins its timeline further back."""
    before, done = (request.query_params.get(name, "") for name in ("before", "done"))
    values = await showing.gateway_now(served, caller, follower)
    values |= await showing.timeline(served, follower, _place(before))
    values |= await showing.gateway_page(served, values["gateway"], operates=values["operates"])
    return pages_of(request).answer("gateway", **values, done=_said(done, follower))


@router.get("/gateway/changes", dependencies=[needs(Role.VIEWER)])
async def show_gateway_changes(request: Request, served: Served, caller: CallerOf, follower: Follower) -> Response:
    """What changes of it, for a page that is shown already."""
    values = await showing.gateway_now(served, caller, follower)
    values |= await showing.timeline(served, follower, None)
    return pages_of(request).answer("gateway_changes", **(values | {"swapped": True}))


@router.get("/gateway/log", dependencies=[needs(Role.VIEWER)])
async def follow_log(served: Served, caller: CallerOf, follower: Follower) -> StreamingResponse:
    """What it prints, as server-sent events: the newest lines first, then each that comes."""
    served.manager.get_gateway(follower)  # whoever may not see it is refused before anything is sent

    async def may_read() -> bool:
        return await served.gate.still_lets_in(caller)

    lines = served.manager.details.log_lines(follower, last=showing.LOG_LINES, follow=True)
    return StreamingResponse(_log(lines, may_read), media_type=SSE)


@router.get("/gateway/picture", dependencies=[needs(Role.OPERATOR)])
async def show_picture(
    served: Served, follower: Follower, picture: Annotated[str, Query(max_length=40)] = ""
) -> Response:
    """What its screen showed last before it was given up."""
    return await picture_answer(served, follower, picture)


async def _log(lines: AsyncIterator[str], may_read: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """As a browser reads it, which would come again and again after an end of which it heard nothing."""
    async for each in stream(lines, may_read, _line, ALIVE):
        yield each
    yield b"event: ended\ndata: \n\n"


def _line(line: str) -> bytes:
    return f"event: line\ndata: {json.dumps(line)}\n\n".encode()


# ---------------------------------------------------------------------------------------------- what is done


@router.post("/gateway/launch", dependencies=[needs(Role.OPERATOR, leader=True)])
async def launch(request: Request, served: Served, caller: CallerOf, follower: Follower) -> Response:
    """Start it; a form may say that one login more is taken, or that it trades live from now on."""
    form = await request.form()
    begun = served.manager.launch_gateway(
        follower, retry_login=form.get("retry_login") == "yes", live=form.get("live") == "yes"
    )
    operation = served.operations.begin(caller, follower, begun)
    if await operation.has_ended(within=_WAIT):
        operation.task.result()
    return _back(follower, "launch")


@router.post("/gateway/stop", dependencies=[needs(Role.OPERATOR, leader=True)])
async def stop(request: Request, served: Served, caller: CallerOf, follower: Follower) -> Response:
    """Stop it, once that is confirmed."""
    return await _confirmed(request, served, caller, follower, "stop")


@router.post("/gateway/restart", dependencies=[needs(Role.OPERATOR, leader=True)])
async def restart(request: Request, served: Served, caller: CallerOf, follower: Follower) -> Response:
    """Start it anew, once that is confirmed."""
    return await _confirmed(request, served, caller, follower, "restart")


async def _confirmed(request: Request, served: ServedApp, caller: CallerOf, follower: str, act: str) -> Response:
    served.manager.get_gateway(follower)
    if (await request.form()).get("confirmed") != "yes":
        label, cost = f"{act.capitalize()} {follower}", showing.cost_of(served, follower, act)
        return pages_of(request).answer("confirm", who=caller, act=act, follower_id=follower, label=label, cost=cost)
    work = served.manager.stop_gateway if act == "stop" else served.manager.restart_gateway
    operation = served.operations.begin(caller, follower, _of(work, follower))
    if await operation.has_ended(within=_WAIT):
        operation.task.result()
    return _back(follower, act)


async def _of(work: Callable[[str], Awaitable[None]], follower_id: str) -> None:
    await work(follower_id)


@router.post("/gateway/reconnect", dependencies=[needs(Role.TRADER, leader=True)])
async def reconnect(served: Served, caller: CallerOf, follower: Follower) -> Response:
    """Replace the client connection."""
    operation = served.operations.begin(caller, follower, served.manager.reconnect(follower))
    ended = await operation.has_ended(within=_WAIT)
    return _back(follower, "not-reconnected" if ended and not operation.task.result() else "reconnect")


def _back(follower_id: str, done: str) -> Response:
    return RedirectResponse(f"/gateway?{urlencode({'follower': follower_id, 'done': done})}", 303)


def _said(done: str, follower_id: str) -> str | None:
    return _DONE[done].format(follower_id) if done in _DONE and follower_id else None


def _place(text: str) -> HistoryPlace | None:
    try:
        return HistoryPlace.parse(text) if text else None
    except ValueError:  # a link that was cut off shows the newest
        return None


# ---------------------------------------------------------------------------------------------- signing in


@router.get("/sign-in", dependencies=[needs(None)])
async def show_sign_in(request: Request, next: str = "/") -> Response:  # noqa: A002  # as it is called everywhere
    """The form."""
    return pages_of(request).answer("sign_in", fault=None, next=local(next))


@router.post("/sign-in", dependencies=[needs(None)])
async def sign_in(request: Request) -> Response:
    """Begin a session by a token."""
    form = await request.form()
    token, following = str(form.get("token", "")).strip(), local(str(form.get("next", "/")))
    gate = token_gate(request)
    try:
        signed_in = await gate.sign_in(request, token)
    except RefusedCallerError as error:
        return pages_of(request).answer(
            "sign_in", code=error.code, headers=error.headers, fault=error.what, next=following
        )
    answer = RedirectResponse(following, 303)
    gate.give_cookie(answer, signed_in)
    return answer


@router.post("/sign-out", dependencies=[needs(Role.VIEWER)])
async def sign_out(request: Request) -> Response:
    """End the session."""
    answer = RedirectResponse("/sign-in", 303)
    await token_gate(request).sign_out(request, answer)
    return answer


def local(address: str) -> str:
    """A place on this page, or its beginning: nobody is sent elsewhere by a link."""
    is_local = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_local and len(address) < 2000 and "\\" not in address else "/"  # noqa: PLR2004  # no address is longer


def sign_in_url(request: Request) -> str:
    """Where somebody signs in who then goes on to where they were."""
    url = request.url
    following = f"{url.path}?{url.query}" if url.query else url.path
    return "/sign-in" if following == "/" else f"/sign-in?next={quote(following, safe='')}"


@router.get("/static/{version}/{name:path}", dependencies=[needs(None)])
async def show_asset(request: Request, version: str, name: str) -> Response:  # noqa: ARG001  # the version is for caches
    """Style and scripts: the same for everybody."""
    asset = pages_of(request).assets.find(name)
    if asset is None:
        return Response(status_code=404)
    return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": FOREVER})
