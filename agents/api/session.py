"""Sessions of people: sign in with a key, see who one is, sign out."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents.access import callers, sessions
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.access.sessions import Sessions
from sfumato.agents.web.formats import Negotiated
from sfumato.schemas.scope import Scope
from sfumato.schemas.session import Session, SignIn

router = APIRouter(prefix="/v1/session", tags=["session"], route_class=Negotiated)


@router.post(
    "",
    status_code=201,
    summary="Sign in: an API key for a cookie",
    operation_id="signIn",
    max_body_size=4096,
    responses={401: {"description": "Not a valid key"}, 403: {"description": "A page of another site"}},
)
async def sign_in(body: SignIn, request: Request, response: Response) -> Session:
    """The cookie is `HttpOnly`, `SameSite=Strict` and, over HTTPS, `Secure`. It ends after 12 hours, with the key, or
    by `DELETE /v1/session`. Requests by cookie that may change something want a page of this host."""
    from_browser = "origin" in request.headers or "sec-fetch-site" in request.headers
    if from_browser and not sessions.from_own_page(request):
        raise HTTPException(403, "pages of another site may not sign in here")
    key = await callers.key_of(request, body.key)
    caller = callers.of_key(key)
    left = await request.app.state.limits.take(caller.id, caller.rate)  # the gate knows no caller here
    if left.limited:
        raise HTTPException(429, f"more than {left.rate} requests a minute; wait as Retry-After says", left.headers())
    store: Sessions = request.app.state.sessions
    token, ends = await asyncio.to_thread(store.begin, key)
    sessions.set_cookie(request, response, token, ends)
    return _shown(caller, ends)


@router.get("", summary="Who the caller is", operation_id="getSession")
async def session(caller: Annotated[Caller, needs()]) -> Session:
    return _shown(caller)


@router.delete("", status_code=204, summary="Sign out", operation_id="signOut", response_class=Response)
async def sign_out(caller: Annotated[Caller, needs()], request: Request) -> Response:
    """Ends the session of the request's cookie, if it has one; a key stays as it is."""
    token = sessions.token_of(request)
    if token is not None:
        store: Sessions = request.app.state.sessions
        await asyncio.to_thread(store.end, token)
    response = Response(status_code=204)
    sessions.delete_cookie(request, response)
    return response


def _shown(caller: Caller, ends: datetime | None = None) -> Session:
    return Session(
        caller=caller.id,
        scopes=[scope for scope in Scope if scope in caller.scopes],
        cameras=[*caller.cameras],
        purpose=caller.purpose,
        expires_at=ends,
    )
