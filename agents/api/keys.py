"""API keys: make, list, see, revoke."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents.access import callers
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.access.keys import PREFIX, Key, Keys
from sfumato.agents.web import paging
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.paging import LIMIT, After, Cursor, Limit
from sfumato.schemas.key import KeyDraft, KeyMade, KeyShown
from sfumato.schemas.page import Page
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=Negotiated)

MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such key"}}


def _keys(request: Request) -> Keys:
    keys: Keys = request.app.state.keys
    return keys


@router.post(
    "",
    status_code=201,
    summary="Make a key",
    operation_id="createKey",
    responses={403: {"description": "It would grant what the caller's own key or token does not have"}},
)
def make(
    draft: KeyDraft, request: Request, response: Response, caller: Annotated[Caller, needs(Scope.KEYS_WRITE)]
) -> KeyMade:
    """The answer holds the key; nothing shows it again."""
    if beyond := draft.granted - caller.scopes:
        raise HTTPException(403, f"scopes: you cannot grant {', '.join(sorted(beyond))}, which you do not have")
    if foreign := [pattern for pattern in draft.cameras if not caller.may_grant(pattern)]:
        raise HTTPException(403, f"cameras: you cannot grant {', '.join(foreign)}, which you do not have")
    if beyond_limits := _beyond_limits(draft, caller):
        raise HTTPException(403, f"{beyond_limits}: your own key has less; a key that you make may have no more")
    made = create(_keys(request), draft, caller.id)
    response.headers["Location"] = f"/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", summary="Every key, also those that opened once", operation_id="listKeys")
def list_keys(
    request: Request,
    caller: Annotated[Caller, needs(Scope.KEYS_READ)],
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[KeyShown]:
    place = paging.read(cursor, After)
    found = _keys(request).list(place.after if place is not None else "", limit + 1)
    following = paging.write(After(after=found[limit - 1].id)) if len(found) > limit else None
    return Page(items=tuple(shown(key) for key in found[:limit]), next=following)


@router.get("/{id}", summary="One key", operation_id="getKey", responses=MISSING)
def get(id: str, request: Request, caller: Annotated[Caller, needs(Scope.KEYS_READ)]) -> KeyShown:
    key = _keys(request).get(id)
    if key is None:
        raise HTTPException(404, "there is no such key; GET /v1/keys lists them")
    return shown(key)


@router.delete(
    "/{id}",
    status_code=204,
    summary="Revoke a key",
    operation_id="revokeKey",
    responses={**MISSING, 403: {"description": "It opens more than the caller's own key or token"}},
    response_class=Response,
)
def revoke(id: str, request: Request, caller: Annotated[Caller, needs(Scope.KEYS_WRITE)]) -> Response:
    """It opens nothing from now on, nor do the sessions begun with it; other bridges of the same database notice
    within two seconds, and WebSockets that are open are closed. A key that was revoked can still be seen."""
    key = _keys(request).get(id)
    if key is None:
        raise HTTPException(404, "there is no such key; GET /v1/keys lists them")
    theirs = callers.of_key(key)
    if theirs.scopes - caller.scopes or not all(map(caller.may_grant, theirs.cameras)):
        raise HTTPException(403, "this key opens more than yours does; ask an administrator to revoke it")
    _keys(request).revoke(id)
    return Response(status_code=204)


def _beyond_limits(draft: KeyDraft, caller: Caller) -> str:
    """The field in which a key would have more than its maker; "": none. Of quotas null is more than any number,
    of the rate it is what the settings say."""
    for name in ("bytes_a_day", "frames_a_day"):
        own, wanted = getattr(caller, name), getattr(draft, name)
        if own is not None and (wanted is None or wanted > own):
            return name
    if caller.rate is not None and draft.rate is not None and draft.rate > caller.rate:
        return "rate"
    if caller.expires_at is not None and (draft.expires_at is None or draft.expires_at > caller.expires_at):
        return "expires_at"
    return ""


def create(keys: Keys, draft: KeyDraft, made_by: str) -> KeyMade:
    """The key of a draft; whoever calls has checked that it may be made."""
    new = keys.create(
        draft.name,
        draft.granted,
        cameras=draft.cameras,
        purpose=draft.purpose,
        expires_at=draft.expires_at,
        rate=draft.rate,
        bytes_a_day=draft.bytes_a_day,
        frames_a_day=draft.frames_a_day,
        made_by=made_by,
    )
    return KeyMade(**shown(new.key).model_dump(), key=new.secret)


def shown(key: Key) -> KeyShown:
    fields = {name: getattr(key, name) for name in KeyShown.model_fields if name not in ("prefix", "scopes")}
    # One that a newer version knew is left out: it opens nothing here.
    return KeyShown(**fields, prefix=f"{PREFIX}{key.id}_", scopes=[scope for scope in Scope if scope in key.scopes])
