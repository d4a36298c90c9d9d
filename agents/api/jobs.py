"""Jobs: files anonymized in the background. Handed in, watched, cancelled; their results fetched and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sfumato.agents.access import gate
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.choose import choose
from sfumato.agents.jobs.desk import Desk, RequestError
from sfumato.agents.jobs.records import JobError, NoJobError
from sfumato.agents.web import conditions, paging, ranges
from sfumato.agents.web.conditions import IfNoneMatch
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.idempotency import Idempotent
from sfumato.agents.web.paging import LIMIT, Limit
from sfumato.models.reading import ENDINGS
from sfumato.schemas.job import MOST_FILES, Job, JobReport, JobRequest, JobState, Progress, Step
from sfumato.schemas.page import Page
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Negotiated)

LOOKED_AT = 0.4
"""Seconds between two looks at a job that somebody watches."""
KINDS = ("image/jpeg", "image/png", "image/webp", *ENDINGS)
"""The media types of results."""
EVENTS = {"description": "Events `progress` and, at last, `ended`; their data is the job's progress as JSON"}
"""In OpenAPI, which before 3.2 has no words for a stream."""
PING = 15
"""Seconds after which a silent stream of events says that it is there."""


JobCursor = Annotated[str | None, paging.cursor("job-cursor")]
MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such job of yours"}}


def _desk(connection: HTTPConnection) -> Desk:
    desk: Desk = connection.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(_desk)]
FileNumber = Annotated[int, Path(ge=0, lt=MOST_FILES, description="A file's number in the job")]
Reader = Annotated[Caller, needs(Scope.JOBS_READ)]
Writer = Annotated[Caller, needs(Scope.JOBS_WRITE)]


@router.post(
    "",
    status_code=202,
    summary="Hand in a job",
    operation_id="createJob",
    responses={
        403: {"description": "The step analyze wants the scope analyses:create"},
        409: {"description": "An upload belongs to another job"},
        422: {"description": "Names the field"},
    },
)
def create(
    wanted: JobRequest, request: Request, response: Response, caller: Writer, desk: TheDesk, _: Idempotent = None
) -> Job:
    if Step.ANALYZE in wanted.steps and Scope.ANALYSES_CREATE not in caller.scopes:
        raise HTTPException(403, f"steps: analyze wants the scope {Scope.ANALYSES_CREATE}; ask an administrator for it")
    chosen = choose(wanted.policy, request.app.state.standing, caller)
    try:
        job = desk.create(caller.id, wanted, chosen.policy)
    except RequestError as error:
        raise HTTPException(422, str(error)) from None
    except JobError as error:
        raise HTTPException(409, str(error)) from None
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get("", summary="The caller's jobs, newest first", operation_id="listJobs")
def listed(
    caller: Reader,
    desk: TheDesk,
    limit: Limit = LIMIT,
    cursor: JobCursor = None,
    state: JobState | None = None,
) -> Page[Job]:
    """A page of jobs with many files may hold fewer than `limit`, and yet have a `next`."""
    return paging.newest(cursor, lambda before: desk.jobs.page(caller.id, limit, before, state))


@router.get(
    "/{job:id}",
    summary="A job with its files",
    operation_id="getJob",
    response_model=Job,
    responses={**MISSING, 304: {"description": "It is the one of If-None-Match"}},
)
def get(
    job: str, request: Request, response: Response, caller: Reader, desk: TheDesk, _: IfNoneMatch = None
) -> Job | Response:
    found = _found(desk, job, caller)
    return conditions.answer(request, response, f"{found.id}/{found.version}", found)


@router.post(
    "/{job}:cancel",
    summary="End a job",
    operation_id="cancelJob",
    responses={**MISSING, 409: {"description": "It has ended"}},
)
def cancel(job: str, caller: Writer, desk: TheDesk) -> Job:
    try:
        return desk.jobs.cancel(job, caller.id)
    except NoJobError as error:
        raise HTTPException(404, str(error)) from None
    except JobError as error:
        raise HTTPException(409, str(error)) from None


@router.delete(
    "/{job:id}",
    status_code=204,
    summary="Delete an ended job and its results",
    operation_id="deleteJob",
    responses={**MISSING, 409: {"description": "It has not ended"}},
)
def delete(job: str, caller: Writer, desk: TheDesk) -> None:
    try:
        desk.delete(job, caller.id)
    except NoJobError as error:
        raise HTTPException(404, str(error)) from None
    except JobError as error:
        raise HTTPException(409, str(error)) from None


@router.get("/{job}/report", summary="What became of every picture", operation_id="getJobReport", responses=MISSING)
def report(job: str, caller: Reader, desk: TheDesk) -> JobReport:
    return JobReport.of(_found(desk, job, caller))


@router.get(
    "/{job}/events",
    summary="Progress as server-sent events",
    operation_id="watchJob",
    response_class=EventSourceResponse,
    responses={
        **MISSING,
        200: {"content": {"text/event-stream": {"schema": EVENTS}}},
        204: {"description": "Nothing more will come"},
    },
)
async def events(job: str, request: Request, caller: Reader, desk: TheDesk) -> Response:
    """Events are snapshots, with the job's version as id: after a break the newest one is all that is missing."""
    found = await asyncio.to_thread(_found, desk, job, caller)
    last = request.headers.get("last-event-id", "")
    since = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else -1
    if found.state.ended and since >= found.version:
        return Response(status_code=204)  # an EventSource connects no more

    async def stream() -> AsyncIterator[ServerSentEvent]:
        async for progress in _progress(desk, job, caller, since, partial(gate.is_known, request.scope)):
            name = "ended" if progress.state.ended else "progress"
            yield ServerSentEvent(progress.model_dump_json(), event=name, id=str(progress.version))

    return EventSourceResponse(stream(), ping=PING)


@router.websocket("/{job}/progress")
async def progress(socket: WebSocket, job: str, caller: Reader, desk: TheDesk) -> None:
    """Each change as one JSON text; closed with 1000 once the job has ended."""
    await asyncio.to_thread(_found, desk, job, caller)
    await socket.accept()
    leaving = asyncio.create_task(_gone(socket))
    try:
        async for each in _progress(desk, job, caller, -1):
            if leaving.done():
                return
            await socket.send_text(each.model_dump_json())
        await socket.close()
    except WebSocketDisconnect:
        return
    finally:
        leaving.cancel()


@router.head("/{job}/files/{number}/content", include_in_schema=False)
@router.get(
    "/{job}/files/{number}/content",
    summary="A masked file",
    operation_id="getJobContent",
    response_class=StreamingResponse,
    responses={
        200: {"content": {kind: {} for kind in KINDS}},
        404: {"description": "There is no such result, or not any more"},
        206: {"description": "The part that Range asks for"},
        304: {"description": "It is the one of If-None-Match"},
        416: {"description": "The range lies behind its end"},
    },
)
def content(job: str, number: FileNumber, request: Request, caller: Reader, desk: TheDesk) -> Response:
    try:
        result, blob = desk.jobs.result(job, number, caller.id)
    except NoJobError as error:
        raise HTTPException(404, str(error)) from None
    return ranges.answer(request, result, result.name, lambda start, end: desk.blobs.read(blob, start, end))


def _found(desk: Desk, job: str, caller: Caller) -> Job:
    try:
        return desk.jobs.get(job, caller.id)
    except NoJobError as error:
        raise HTTPException(404, str(error)) from None


async def _known() -> bool:
    """Of a WebSocket the gate sees to it."""
    return True


async def _progress(
    desk: Desk, job: str, caller: Caller, since: int, known: Callable[[], Awaitable[bool]] = _known
) -> AsyncIterator[Progress]:
    """The job after each change, up to its end, or until the caller is not ``known`` any more; what changes in between
    is left out."""
    seen = since
    while await known():
        try:
            version = await asyncio.to_thread(desk.jobs.version, job, caller.id)
            if version != seen:
                found = await asyncio.to_thread(desk.jobs.get, job, caller.id)
                seen = found.version
                yield Progress.of(found)
                if found.state.ended:
                    return
        except NoJobError:
            return  # deleted meanwhile
        await asyncio.sleep(LOOKED_AT)


async def _gone(socket: WebSocket) -> None:
    """Until the client has left; what it says is of no interest."""
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError, RuntimeError):
        return
