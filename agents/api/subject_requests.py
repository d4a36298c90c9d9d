"""Subject requests: a clip of one person asked for, approved by others, fetched; each act is recorded before it
happens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from sfumato.agents import metrics
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.access.keys import Keys
from sfumato.agents.files.uploads import NoUploadError
from sfumato.agents.search import SearchError
from sfumato.agents.subjects import picking
from sfumato.agents.subjects.disclosures import UntoldError
from sfumato.agents.subjects.picking import NoFrameError, PickError
from sfumato.agents.subjects.requests import (
    ForbiddenError,
    GoneError,
    NoRequestError,
    Person,
    Requests,
    RequestStateError,
)
from sfumato.agents.web import conditions, paging, ranges
from sfumato.agents.web.conditions import IfNoneMatch
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.idempotency import Idempotent
from sfumato.agents.web.paging import LIMIT, Limit
from sfumato.agents.web.problems import Refusal
from sfumato.schemas.page import Page
from sfumato.schemas.problem import Fault
from sfumato.schemas.scope import Scope
from sfumato.schemas.subject_request import ApprovalDraft, SubjectDraft, SubjectRequest

router = APIRouter(prefix="/v1/subject-requests", tags=["subject requests"], route_class=Negotiated)

CHUNK = 1024 * 1024
REFUSALS: dict[type[Exception], str] = {ForbiddenError: "forbidden", GoneError: "gone", UntoldError: "not_recorded"}
"""Why a clip was not delivered, as the metric says it."""
MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such request, or not of your cameras"}}
UNTOLD: dict[int | str, dict[str, Any]] = {
    503: {"description": "The broker does not take the record, so nothing happened"}
}


RequestCursor = Annotated[str | None, paging.cursor("subject-request-cursor")]
Reading = Annotated[Caller, needs(Scope.SUBJECTS_READ)]
Asking = Annotated[Caller, needs(Scope.SUBJECTS_REQUEST)]
Approving = Annotated[Caller, needs(Scope.SUBJECTS_APPROVE)]


def _requests(request: Request) -> Requests:
    requests: Requests = request.app.state.subject_requests
    return requests


Known = Annotated[Requests, Depends(_requests)]


@router.post(
    "",
    status_code=201,
    summary="Ask for a clip of one person",
    operation_id="createSubjectRequest",
    responses={
        **UNTOLD,
        404: {"description": "No such frame, or not of your cameras"},
        410: {"description": "The footage is shredded or deleted; `detail` says since when"},
    },
)
def create(
    draft: SubjectDraft,
    request: Request,
    response: Response,
    caller: Asking,
    requests: Known,
    _: Idempotent = None,
) -> SubjectRequest:
    """Nothing is read of the footage before others have approved."""
    settings = request.app.state.settings
    if (draft.until - draft.since).total_seconds() > settings.subject_seconds:
        raise _invalid("until", f"more than {settings.subject_seconds:g} s after since", "ask for a shorter clip")
    if draft.until > datetime.now(UTC):
        raise _invalid("until", "has not come yet", "ask for what was recorded already")
    try:
        if not caller.sees(draft.camera):
            raise picking.none(draft)
        made = requests.create(draft, _person(request, caller), picking.pick(settings, draft))
    except NoFrameError as error:
        raise HTTPException(404, str(error)) from None
    except PickError as error:
        raise _refused(str(error)) from None
    except SearchError as error:
        raise HTTPException(503, f"the topic audit cannot be read: {error}", {"Retry-After": "5"}) from None
    except (GoneError, UntoldError) as error:
        _refuse(error)
    response.headers["Location"] = f"/v1/subject-requests/{made.id}"
    return made


@router.get("", summary="The requests for the caller's cameras, newest first", operation_id="listSubjectRequests")
def listed(
    caller: Reading, requests: Known, limit: Limit = LIMIT, cursor: RequestCursor = None
) -> Page[SubjectRequest]:
    return paging.newest(cursor, lambda before: requests.page(limit, before, caller.sees))


@router.get(
    "/{id}",
    summary="A request and who approved it",
    operation_id="getSubjectRequest",
    response_model=SubjectRequest,
    responses={**MISSING, 304: {"description": "It is the one of If-None-Match"}},
)
def get(
    id: str, request: Request, response: Response, caller: Reading, requests: Known, _: IfNoneMatch = None
) -> SubjectRequest | Response:
    found = _found(requests, id, caller)
    return conditions.answer(request, response, f"{found.id}/{found.version}/{found.state}", found)


@router.post(
    "/{id}/approvals",
    summary="Approve or refuse a request",
    operation_id="decideSubjectRequest",
    responses={
        **MISSING,
        **UNTOLD,
        403: {"description": "It is the caller's own, or of somebody whose key they made"},
        409: {"description": "The caller has decided already, or it waits for no approval"},
    },
)
def decide(
    id: str,
    draft: ApprovalDraft,
    request: Request,
    caller: Approving,
    requests: Known,
    _: Idempotent = None,
) -> SubjectRequest:
    """Each caller once, and never on their own request. Enough approvals have the clip made; one refusal ends it."""
    _found(requests, id, caller)
    try:
        return requests.decide(id, _person(request, caller), draft)
    except (NoRequestError, RequestStateError, ForbiddenError, UntoldError) as error:
        _refuse(error)


@router.delete(
    "/{id}",
    status_code=204,
    response_class=Response,
    summary="Withdraw one's own request",
    operation_id="withdrawSubjectRequest",
    responses={**MISSING, **UNTOLD, 403: {"description": "Not the caller's"}, 409: {"description": "It has ended"}},
)
def withdraw(id: str, request: Request, caller: Asking, requests: Known) -> Response:
    """Its clip is deleted. What was recorded of it stays, and so does the request."""
    _found(requests, id, caller)
    try:
        requests.withdraw(id, _person(request, caller))
    except (NoRequestError, RequestStateError, ForbiddenError, UntoldError) as error:
        _refuse(error)
    return Response(status_code=204)


@router.head("/{id}/content", include_in_schema=False)
@router.get(
    "/{id}/content",
    summary="The clip, for its requester alone",
    operation_id="getSubjectContent",
    response_class=StreamingResponse,
    responses={
        **MISSING,
        **UNTOLD,
        200: {"content": {"video/mp4": {}}},
        206: {"description": "The part that Range asks for"},
        304: {"description": "It is the one of If-None-Match"},
        403: {"description": "The caller is not its requester"},
        409: {"description": "There is no clip (yet)"},
        410: {"description": "The footage or the clip is gone; `detail` says since when"},
        416: {"description": "The range lies behind its end"},
    },
)
def content(id: str, request: Request, caller: Asking, requests: Known) -> Response:
    """Each call is recorded before its first byte."""
    _found(requests, id, caller)
    person = _person(request, caller)
    try:
        clip, upload = requests.clip(id, person)

        def read(start: int, end: int) -> Iterator[bytes]:
            file = request.app.state.uploads.open(upload)
            requests.deliver(id, person, f"{start}-{end - 1}/{clip.bytes}")
            metrics.SUBJECT_DELIVERIES.labels("delivered").inc()
            return _bytes(file, start, end)

        return ranges.answer(request, clip, f"{id}.mp4", read, keep=False)
    except NoUploadError:
        metrics.SUBJECT_DELIVERIES.labels("gone").inc()
        raise HTTPException(410, "the clip was deleted meanwhile; GET the request tells") from None
    except (NoRequestError, RequestStateError, ForbiddenError, GoneError, UntoldError) as error:
        metrics.SUBJECT_DELIVERIES.labels(REFUSALS.get(type(error), "not_ready")).inc()
        _refuse(error)


def _bytes(file: Any, start: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = end - start
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _found(requests: Requests, id: str, caller: Caller) -> SubjectRequest:
    try:
        found = requests.get(id)
    except NoRequestError as error:
        raise HTTPException(404, str(error)) from None
    if not caller.sees(found.camera):
        raise HTTPException(404, "no such request; GET /v1/subject-requests lists them")
    return found


def _person(request: Request, caller: Caller) -> Person:
    """Who calls, and who made their key."""
    keys: Keys = request.app.state.keys
    kind, _, id = caller.id.partition(":")
    key = keys.get(id) if kind == "key" else None
    return Person(caller.id, key.made_by if key is not None else None)


def _invalid(field: str, detail: str, remedy: str) -> Refusal:
    fault = Fault(field=field, pointer=f"/{field}", detail=detail, remedy=remedy)
    return Refusal(422, f"{field}: {detail}; {remedy}", errors=[fault])


def _refused(text: str) -> Refusal:
    """``field: what is wrong; what to do``."""
    field, _, rest = text.partition(": ")
    detail, _, remedy = rest.partition("; ")
    return _invalid(field, detail, remedy or detail)


def _refuse(error: Exception) -> NoReturn:
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    raise HTTPException(status, str(error), {"Retry-After": "5"} if status == 503 else None) from None


STATUS: dict[type[Exception], int] = {
    NoRequestError: 404,
    ForbiddenError: 403,
    RequestStateError: 409,
    GoneError: 410,
    UntoldError: 503,
}
