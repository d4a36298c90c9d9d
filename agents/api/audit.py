"""What became of each frame: searched on the topic ``audit`` itself, and exported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.api import searches
from sfumato.agents.api.searches import Since, Until
from sfumato.agents.queries import AuditQuery
from sfumato.agents.search import Search, SearchError
from sfumato.agents.web.formats import Negotiated, chosen
from sfumato.agents.web.paging import LIMIT, Limit
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CAMERA_ID
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.page import Page
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1", tags=["audit"], route_class=Negotiated)

LINES = "application/x-ndjson"
CSV = "text/csv"
COLUMNS = (
    "id", "camera", "epoch", "sequence", "outcome", "reason", "detail", "captured_at", "time_source", "audited_at",
    "policy", "policy_version", "schedule", "width", "height", "input_bytes", "input_sha256", "output_bytes",
    "output_sha256",
)  # fmt: skip
"""Of the CSV; what is nested is in the JSON lines alone."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would compute."""
EXPORTED = 1_000
"""Events that the export reads at a time."""

Reading = Annotated[Caller, needs(Scope.AUDIT_READ)]
OneCamera = Annotated[str | None, Query(pattern=f"^{CAMERA_ID.pattern}$", description="A camera's id")]


def _query(
    caller: Reading,
    camera: OneCamera = None,
    since: Since = None,
    until: Until = None,
    outcome: Outcome | None = None,
    reason: Reason | None = None,
) -> AuditQuery:
    searches.check(since, until)

    def sees(camera: str | None) -> bool:
        """What names no camera is for those who see all."""
        return "*" in caller.cameras if camera is None else caller.sees(camera)

    return AuditQuery(sees, camera, since, until, outcome, reason)


Wanted = Annotated[AuditQuery, Depends(_query)]


@router.get(
    "/audit",
    summary="Search the audit events",
    operation_id="searchAudit",
    responses={400: {"description": "The cursor is not one of this search"}, 503: {"description": "No broker"}},
)
def search(
    request: Request,
    query: Wanted,
    limit: Limit = LIMIT,
    cursor: searches.Place = None,
) -> Page[AuditEvent]:
    """In the order of their time, those of the caller's cameras alone. A page looks at a bounded number of events, so
    it may hold few, or none, and yet have a `next`: go on until that is null. Send the same filters with it."""
    return searches.page(request, query, limit, cursor)


@router.get(
    "/audit:export",
    summary="Export the audit events",
    operation_id="exportAudit",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "All that match, one event a line",
            "content": {
                LINES: {"schema": {"type": "string"}},
                CSV: {"schema": {"type": "string"}},
            },
        },
        503: {"description": "No broker"},
    },
)
def export(request: Request, query: Wanted) -> StreamingResponse:
    """JSON lines, or CSV with what is not nested, as `Accept` says."""
    events = _events(request, query)
    first = next(events)  # what goes wrong at once can still be said
    kind = chosen(request)
    write = _as_csv if kind == CSV else _as_lines
    name = "audit.csv" if kind == CSV else "audit.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(write(first, events), media_type=kind, headers=headers)


def _events(request: Request, query: AuditQuery) -> Iterator[list[AuditEvent]]:
    try:
        with Search(request.app.state.settings, query) as found:
            yield from found.pages(EXPORTED)
    except SearchError as error:
        raise searches.unavailable(error) from None


def _as_lines(first: Iterable[AuditEvent], rest: Iterable[Iterable[AuditEvent]]) -> Iterator[str]:
    for events in chain((first,), rest):
        yield "".join(event.model_dump_json(by_alias=True) + "\n" for event in events)


def _as_csv(first: Iterable[AuditEvent], rest: Iterable[Iterable[AuditEvent]]) -> Iterator[str]:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for events in chain((first,), rest):
        for event in events:
            document = event.model_dump(mode="json", by_alias=True, include=set(COLUMNS))
            table.writerow([_cell(document[column]) for column in COLUMNS])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
