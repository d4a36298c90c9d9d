"""Who did what through the API: searched on the topic ``calls`` itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.api import searches
from sfumato.agents.api.searches import Since, Until
from sfumato.agents.queries import CallQuery
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.paging import LIMIT, Limit
from sfumato.schemas.call import Call
from sfumato.schemas.page import Page
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1", tags=["audit"], route_class=Negotiated)

OneCaller = Annotated[
    str | None, Query(max_length=1000, description="As in the record's `caller`", examples=["key:0123456789ab"])
]
OneMethod = Annotated[str | None, Query(pattern="^[A-Z]{1,20}$", description="`WS` for WebSockets", examples=["GET"])]
OneRoute = Annotated[str | None, Query(max_length=500, examples=["/v1/cameras/{camera}"])]
OneStatus = Annotated[int | None, Query(ge=100, le=599, examples=[403])]


@router.get(
    "/calls",
    summary="Search the calls of the API",
    operation_id="searchCalls",
    responses={400: {"description": "The cursor is not one of this search"}, 503: {"description": "No broker"}},
)
def search(
    request: Request,
    caller: Annotated[Caller, needs(Scope.AUDIT_READ)],
    of: OneCaller = None,
    since: Since = None,
    until: Until = None,
    method: OneMethod = None,
    route: OneRoute = None,
    status: OneStatus = None,
    limit: Limit = LIMIT,
    cursor: searches.Place = None,
) -> Page[Call]:
    """In the order of their records; `of`: one caller's. Those without all cameras see their own calls alone. The last
    record of an `id` counts. A page looks at a bounded number of records, so it may hold few, or none, and yet have a
    `next`: go on until that is null. Send the same filters with it."""
    searches.check(since, until)

    def sees(other: str | None) -> bool:
        return "*" in caller.cameras or other == caller.id

    return searches.page(request, CallQuery(sees, of, since, until, method, route, status), limit, cursor)
