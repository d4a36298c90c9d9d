"""What the searches of records have in common: a span of time, pages, and a topic that may not be there."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Query, Request
from starlette.exceptions import HTTPException

from sfumato.agents import search
from sfumato.agents.search import Positions, Search, SearchError
from sfumato.agents.web import paging
from sfumato.agents.web.problems import Refusal
from sfumato.schemas.page import Page
from sfumato.schemas.part import Moment
from sfumato.schemas.problem import Fault

R = TypeVar("R")

Place = Annotated[str | None, paging.cursor("search-cursor", 20_000)]
"""A place in each partition: some 900 of them. A longer one would be more than a server takes as an address."""
Since = Annotated[Moment | None, Query(alias="from", description="At or after", examples=["2027-01-01T00:00:00Z"])]
Until = Annotated[Moment | None, Query(alias="to", description="Before", examples=["2027-01-02T00:00:00Z"])]


def check(since: datetime | None, until: datetime | None) -> None:
    """:class:`Refusal` where the span ends before it begins."""
    if since is not None and until is not None and until < since:
        fault = Fault(field="to", detail="earlier than from", remedy="give a later moment, or leave it out")
        raise Refusal(422, "to: earlier than from; give a later moment, or leave it out", errors=[fault])


def page(request: Request, query: search.Query[R], limit: int, cursor: str | None) -> Page[R]:
    """What is found from the cursor on; HTTPException 400 where that is none, 503 without the topic."""
    try:
        with Search(request.app.state.settings, query, paging.read(cursor, Positions)) as found:
            items = found.page(limit)
            after = found.positions
    except SearchError as error:
        raise unavailable(error) from None
    return Page(items=tuple(items), next=paging.write(after) if after is not None else None)


def unavailable(error: SearchError) -> HTTPException:
    return HTTPException(503, f"cannot be read: {error}", {"Retry-After": "5"})
