"""Resumable uploads by tus 1.0.0 (https://tus.io/protocols/resumable-upload): the core, and the extensions creation,
creation-with-upload, creation-defer-length, expiration, termination and checksum. Nothing is ever read back."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.files.uploads import ConflictError, NoUploadError, State, TooLargeError, Uploads, Writer
from sfumato.agents.web import tus
from sfumato.agents.web.bodies import TooSlowError
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.idempotency import IdempotentByHeaders
from sfumato.models.content import ContentError
from sfumato.schemas.scope import Scope
from sfumato.schemas.upload import UploadStatus

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/uploads", tags=["uploads"], max_body_size=2**62, route_class=Negotiated)
"""Its bodies are bounded by the upload's length and SFUMATO_UPLOAD_MAX_BYTES instead."""
MOST_WRITING = 32
"""Requests that write at once in one process: each holds up to three segments in memory."""

Owner = Annotated[Caller, needs(Scope.UPLOADS_WRITE)]


@dataclass(slots=True)
class Writing:
    """The uploads that requests to this process are writing to."""

    ids: set[str] = field(default_factory=set)

    @contextmanager
    def alone(self, id: str) -> Iterator[None]:
        if id in self.ids:
            raise tus.refusal(423, "another request is writing to this upload; end it, or wait", {"Retry-After": "5"})
        if len(self.ids) >= MOST_WRITING:
            raise tus.refusal(503, "too many uploads are being written at once; try again", {"Retry-After": "5"})
        self.ids.add(id)
        try:
            yield
        finally:
            self.ids.discard(id)


def _speaks(request: Request, caller: Owner) -> Caller:
    """The caller; 412 for another version of the protocol, or none."""
    if request.headers.get("tus-resumable") != tus.VERSION:
        raise tus.refusal(412, f"Tus-Resumable: wants {tus.VERSION}", {"Tus-Version": tus.VERSION})
    return caller


Speaker = Annotated[Caller, Depends(_speaks)]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such upload of yours, or it has expired"},
    412: {"description": "Tus-Resumable is missing or of another version"},
}
WRITES: dict[int | str, dict[str, Any]] = {
    400: {"description": "A header is missing or not valid; the detail names it"},
    409: {"description": "The upload is at another offset; HEAD tells it"},
    413: {"description": "More than Tus-Max-Size, or than Upload-Length"},
    415: {"description": "The body's type is another one, or what was uploaded cannot be masked"},
    423: {"description": "Another request is writing to this upload"},
    tus.STATUS_CHECKSUM_MISMATCH: {"description": "The body is not what Upload-Checksum says; it was discarded"},
}


@router.options(
    "",
    status_code=204,
    summary="What this server can do (tus)",
    operation_id="describeUploads",
    response_class=Response,
)
async def options(request: Request, caller: Owner) -> Response:
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Max-Size": str(request.app.state.settings.upload_max_bytes),
        "Tus-Extension": tus.EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(tus.DIGESTS),
    }
    return tus.answer(204, headers)


@router.options(
    "/{id}",
    status_code=204,
    summary="What this server can do (tus)",
    operation_id="describeUpload",
    response_class=Response,
)
async def options_of(id: str, request: Request, caller: Owner) -> Response:
    return await options(request, caller)


@router.post(
    "",
    status_code=201,
    summary="Begin an upload (tus)",
    operation_id="createUpload",
    responses={201: {"description": "Location says where it goes on"}, 412: PROBLEMS[412], **WRITES},
    response_class=Response,
    openapi_extra=tus.described(
        "Tus-Resumable", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Checksum", body=False
    ),
)
async def create(request: Request, caller: Speaker, _: IdempotentByHeaders = None) -> Response:
    length = tus.number(request, "upload-length")
    deferred = request.headers.get("upload-defer-length")
    if (length is None) == (deferred is None) or deferred not in (None, "1"):
        raise tus.refusal(400, "wants either Upload-Length, in bytes, or Upload-Defer-Length: 1")
    if length == 0:
        raise tus.refusal(400, "Upload-Length: an empty file is nothing that can be masked")
    said = tus.metadata(request.headers.get("upload-metadata", ""))
    checksum = tus.checksum(request)
    content_type = request.headers.get("content-type")
    if content_type not in (None, tus.BODY) and request.headers.get("content-length", "0") != "0":
        raise tus.refusal(415, f"Content-Type: wants {tus.BODY}, or no body")
    uploads = _uploads(request)
    with _errors():
        state = await asyncio.to_thread(uploads.create, caller.id, length, said)
    headers = {"Location": f"{router.prefix}/{state.id}", "Upload-Expires": tus.date(state.expires_at)}
    if content_type == tus.BODY:
        try:
            headers["Upload-Offset"] = str(await _append(request, uploads, state, 0, checksum))
        except BaseException:  # nobody was told where it is
            await asyncio.shield(asyncio.to_thread(uploads.delete, state.id))
            raise
    return tus.answer(201, headers)


@router.head(
    "/{id}",
    summary="How far an upload is (tus)",
    operation_id="getUploadOffset",
    responses=PROBLEMS,
    response_class=Response,
    openapi_extra=tus.described("Tus-Resumable"),
)
async def offset(id: str, request: Request, caller: Speaker) -> Response:
    uploads = _uploads(request)
    with _errors():
        state = await asyncio.to_thread(uploads.get, id, caller.id)
        if state.offset == state.length and not state.complete:  # ended before it was looked at
            await asyncio.to_thread(uploads.complete, id)
    headers = {"Upload-Offset": str(state.offset), "Upload-Expires": tus.date(state.expires_at)}
    if state.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(state.length)
    if state.details:
        pairs = ((name, base64.b64encode(value.encode()).decode()) for name, value in state.details.items())
        headers["Upload-Metadata"] = ",".join(f"{name} {value}".strip() for name, value in pairs)
    return tus.answer(200, headers)


@router.patch(
    "/{id}",
    status_code=204,
    summary="Go on with an upload (tus)",
    operation_id="continueUpload",
    responses={**PROBLEMS, **WRITES, 503: {"description": "Too many uploads at once"}},
    response_class=Response,
    openapi_extra=tus.described("Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Checksum", body=True),
)
async def append(id: str, request: Request, caller: Speaker) -> Response:
    if request.headers.get("content-type") != tus.BODY:
        raise tus.refusal(415, f"Content-Type: wants {tus.BODY}")
    start = tus.number(request, "upload-offset")
    if start is None:
        raise tus.refusal(400, "Upload-Offset: is missing")
    length, checksum, uploads = tus.number(request, "upload-length"), tus.checksum(request), _uploads(request)
    with _errors():
        state = await asyncio.to_thread(uploads.get, id, caller.id)
        if length is not None:
            await asyncio.to_thread(uploads.set_length, id, length)
    reached = await _append(request, uploads, state, start, checksum)
    return tus.answer(204, {"Upload-Offset": str(reached), "Upload-Expires": tus.date(state.expires_at)})


@router.delete(
    "/{id}",
    status_code=204,
    summary="Delete an upload (tus)",
    operation_id="deleteUpload",
    responses=PROBLEMS,
    response_class=Response,
    openapi_extra=tus.described("Tus-Resumable"),
)
async def terminate(id: str, request: Request, caller: Speaker) -> Response:
    uploads = _uploads(request)
    with _errors():
        await asyncio.to_thread(uploads.get, id, caller.id)
        await asyncio.to_thread(uploads.delete, id)
    return tus.answer(204)


@router.post("/{id}", include_in_schema=False)
async def override(id: str, request: Request, caller: Owner) -> Response:
    """For clients behind what lets only GET and POST through (tus, X-HTTP-Method-Override)."""
    methods = {"PATCH": append, "DELETE": terminate, "HEAD": offset}
    wanted = methods.get(request.headers.get("x-http-method-override", ""))
    if wanted is None:
        raise tus.refusal(405, "wants PATCH, HEAD or DELETE", {"Allow": "GET, HEAD, PATCH, DELETE, OPTIONS"})
    return await wanted(id, request, _speaks(request, caller))


@router.get(
    "/{id}",
    summary="An upload, without its bytes",
    operation_id="getUpload",
    responses={404: PROBLEMS[404]},
)
async def show(id: str, request: Request, caller: Owner) -> UploadStatus:
    with _errors():
        state = await asyncio.to_thread(_uploads(request).get, id, caller.id)
    return UploadStatus(
        id=state.id,
        filename=state.details.get("filename"),
        length=state.length,
        offset=state.offset,
        complete=state.complete,
        content_type=state.kind,
        created_at=state.created_at,
        expires_at=state.expires_at,
    )


async def _append(request: Request, uploads: Uploads, state: State, start: int, checksum: tus.Checksum | None) -> int:
    """Take the body; how far the upload then is. What has arrived counts where the body breaks off, unless a checksum
    was to be compared."""
    writing: Writing = request.app.state.writing
    with writing.alone(state.id), _errors():
        writer = await asyncio.to_thread(uploads.writer, state.id, start, at_end=checksum is not None)
        if (tus.number(request, "content-length") or 0) > writer.room:
            raise TooLargeError("Content-Length: more bytes than Upload-Length, or Tus-Max-Size, leaves")
        try:
            await _receive(request, writer, checksum)
        except (ClientDisconnect, TooSlowError) as error:
            await asyncio.to_thread(writer.discard if checksum else writer.finish)
            if isinstance(error, TooSlowError):
                detail = "the body stopped, or is too slow; go on where HEAD says"
                raise tus.refusal(408, detail, {"Connection": "close"}) from None
            raise tus.refusal(400, "the body broke off; go on where HEAD says") from None
        except BaseException:
            await asyncio.shield(asyncio.to_thread(writer.discard))
            raise
        await asyncio.to_thread(writer.finish)
        state = await asyncio.to_thread(uploads.get, state.id)
        if state.offset == state.length:
            await asyncio.to_thread(uploads.complete, state.id)
        return state.offset


async def _receive(request: Request, writer: Writer, checksum: tus.Checksum | None) -> None:
    async for chunk in request.stream():
        if checksum is not None:
            checksum.digest.update(chunk)
        writer.take(chunk)
        if writer.full:
            await asyncio.to_thread(writer.flush)
    if checksum is not None and not hmac.compare_digest(checksum.digest.digest(), checksum.wanted):
        raise tus.refusal(tus.STATUS_CHECKSUM_MISMATCH, "the body is not what Upload-Checksum says; send it again")


def _uploads(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.uploads
    return uploads


@contextmanager
def _errors() -> Iterator[None]:
    """What uploads raise, as problems."""
    try:
        yield
    except NoUploadError as error:
        raise tus.refusal(404, str(error)) from None
    except ConflictError as error:
        raise tus.refusal(409, str(error)) from None
    except TooLargeError as error:
        raise tus.refusal(413, str(error)) from None
    except ContentError as error:
        raise tus.refusal(415, f"the uploaded file {error}; it was deleted") from None
    except OSError as error:  # of the store or a seal; their texts name settings, and no data
        log.error("uploads: %s", error if type(error).__module__.startswith("sfumato.") else type(error).__name__)
        raise tus.refusal(503, "the store of uploads does not work; its log says why", {"Retry-After": "30"}) from None
