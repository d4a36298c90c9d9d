"""What callers have used, by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.access.usage import Counts, Usage
from sfumato.agents.web import paging
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.paging import LIMIT, Limit
from sfumato.schemas.page import Page
from sfumato.schemas.part import Day, Part
from sfumato.schemas.scope import Scope
from sfumato.schemas.usage import DayOfUse

router = APIRouter(prefix="/v1/usage", tags=["usage"], route_class=Negotiated)

USUAL = timedelta(days=30)


class Place(Part):
    """Where a page goes on: after this caller's day."""

    day: date
    caller: str


UsageCursor = Annotated[str | None, paging.cursor("usage-cursor")]


@router.get(
    "",
    summary="What the caller has used, or with usage:read everybody",
    operation_id="getUsage",
    responses={403: {"description": "Of others, without usage:read"}},
)
def used(
    request: Request,
    caller: Annotated[Caller, needs()],
    start: Annotated[Day | None, Query(alias="from", description="First day, UTC; else 30 days before `to`.")] = None,
    end: Annotated[Day | None, Query(alias="to", description="Last day, UTC; else today.")] = None,
    of: Annotated[str | None, Query(max_length=300, description="A caller, or `*` for all; else oneself.")] = None,
    limit: Limit = LIMIT,
    cursor: UsageCursor = None,
) -> Page[DayOfUse]:
    """By day, then caller. Answers also where a quota is spent."""
    if of not in (None, caller.id) and Scope.USAGE_READ not in caller.scopes:
        raise HTTPException(403, f"of: the usage of others wants the scope {Scope.USAGE_READ}")
    end = end or datetime.now(UTC).date()
    start = start or max(end, date.min + USUAL) - USUAL
    usage: Usage = request.app.state.usage
    whose = None if of == "*" else of or caller.id
    place = paging.read(cursor, Place)
    after = (place.day, place.caller) if place is not None else None
    found = usage.between(start, end, whose, after=after, limit=limit + 1)
    items = [
        DayOfUse(caller=row.caller, day=row.day, **{name: getattr(row, name) for name in Counts.__dataclass_fields__})
        for row in found[:limit]
    ]
    last = items[-1] if len(found) > limit else None
    following = paging.write(Place(day=last.day, caller=last.caller)) if last is not None else None
    return Page(items=tuple(items), next=following)
