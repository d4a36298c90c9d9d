"""What callers have used, by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.access.usage import Counts, Usage
from sfumato.agents.web.formats import Negotiated
from sfumato.schemas.part import Day
from sfumato.schemas.scope import Scope
from sfumato.schemas.usage import DayOfUse, UsagePage

router = APIRouter(prefix="/v1/usage", tags=["usage"], route_class=Negotiated)

USUAL = timedelta(days=30)


@router.get(
    "",
    summary="What the caller has used, or with usage:read everybody",
    responses={403: {"description": "Of others, without usage:read"}},
)
def used(
    request: Request,
    caller: Annotated[Caller, needs()],
    start: Annotated[Day | None, Query(alias="from", description="First day, UTC; else 30 days before `to`.")] = None,
    end: Annotated[Day | None, Query(alias="to", description="Last day, UTC; else today.")] = None,
    of: Annotated[str | None, Query(max_length=300, description="A caller, or `*` for all; else oneself.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^\d{4}-\d\d-\d\d/.{1,300}$")] = None,
) -> UsagePage:
    """By day, then caller. Answers also where a quota is spent."""
    if of not in (None, caller.id) and Scope.USAGE_READ not in caller.scopes:
        raise HTTPException(403, f"of: the usage of others wants the scope {Scope.USAGE_READ}")
    end = end or datetime.now(UTC).date()
    start = start or max(end, date.min + USUAL) - USUAL
    usage: Usage = request.app.state.usage
    whose = None if of == "*" else of or caller.id
    found = usage.between(start, end, whose, after=_place(cursor), limit=limit + 1)
    items = [
        DayOfUse(caller=row.caller, day=row.day, **{name: getattr(row, name) for name in Counts.__dataclass_fields__})
        for row in found[:limit]
    ]
    return UsagePage(items=items, next=f"{items[-1].day}/{items[-1].caller}" if len(found) > limit else None)


def _place(cursor: str | None) -> tuple[date, str] | None:
    if cursor is None:
        return None
    day, _, caller = cursor.partition("/")
    try:
        return date.fromisoformat(day), caller
    except ValueError:
        raise HTTPException(422, "cursor: take it from `next` of the page before") from None
