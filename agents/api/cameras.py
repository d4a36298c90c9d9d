"""Live anonymized frames: stills, the WebSocket and HLS of each camera."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import date
from typing import Annotated, Any

from av.error import FFmpegError
from confluent_kafka import KafkaException
from fastapi import APIRouter, Depends, Path, Request, Response, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sfumato.agents import hls, suspensions, viewers
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.live import Camera, Live
from sfumato.agents.standing import Standing
from sfumato.agents.stills import Stills
from sfumato.agents.web import paging
from sfumato.agents.web.deprecation import deprecated
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.idempotency import Idempotent
from sfumato.agents.web.paging import LIMIT, Cursor, Limit
from sfumato.models.task import NoPolicy
from sfumato.schemas.camera import CameraView, Lift, PolicyInForce
from sfumato.schemas.cloudevent import CAMERA_ID
from sfumato.schemas.page import Page
from sfumato.schemas.scope import Scope
from sfumato.schemas.suspension import Suspension

router = APIRouter(prefix="/v1/cameras", tags=["cameras"], route_class=Negotiated)

NO_FRAME = "no frame of this camera has arrived; GET /v1/cameras lists those that have"
NO_VIDEO = (
    'this camera\'s frames are JPEGs and HLS needs H.264: give its policy output = { codec = "h264" }, '
    "or use snapshot.jpg or the WebSocket live"
)
FIRST_SEGMENTS = 10.0
"""Longest wait for a camera's first segments, in seconds."""
MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "Not a camera with H.264, or no longer there"}}


UNSEEN: dict[int | str, dict[str, Any]] = {404: {"description": "Nothing of this camera has arrived"}}

CameraId = Annotated[str, Path(pattern=f"^{CAMERA_ID.pattern}$", description="A camera's id", examples=["north"])]


def _live(connection: HTTPConnection) -> Live:
    live: Live = connection.app.state.live
    return live


def _stills(connection: HTTPConnection) -> Stills:
    stills: Stills = connection.app.state.stills
    return stills


def _standing(connection: HTTPConnection) -> Standing:
    standing: Standing = connection.app.state.standing
    return standing


LiveCameras = Annotated[Live, Depends(_live)]
Known = Annotated[Standing, Depends(_standing)]
Watching = Annotated[Caller, needs(Scope.CAMERAS_READ)]


@router.get("", summary="The cameras seen since the bridge started", operation_id="listCameras")
async def cameras(
    live: LiveCameras, standing: Known, caller: Watching, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[CameraView]:
    """Sorted by id. Those that are the caller's; the others are 404 everywhere, as if they were not there."""
    seen = [camera for id, camera in sorted(live.cameras.items()) if caller.sees(id)]
    found = paging.page(seen, limit, cursor, lambda camera: camera.id)
    return Page(items=tuple(describe(camera, standing) for camera in found.items), next=found.next)


@router.get("/{camera:id}", summary="A camera", operation_id="getCamera", responses=UNSEEN)
async def get_camera(camera: CameraId, live: LiveCameras, standing: Known, caller: Watching) -> CameraView:
    """Its state, its newest frame's metadata, which policy is in force and whether it is suspended."""
    return describe(_seen(live, camera, caller), standing)


@router.post(
    "/{camera}:lift-suspension",
    summary="Lift a camera's suspension",
    operation_id="liftSuspension",
    responses={
        403: {"description": "The camera is not one of the caller's"},
        409: {"description": "The camera is not suspended"},
        503: {"description": "The broker does not answer"},
    },
)
def lift(
    camera: CameraId,
    body: Lift,
    request: Request,
    standing: Known,
    caller: Annotated[Caller, needs(Scope.POLICIES_WRITE)],
    _: Idempotent = None,
) -> Suspension:
    """A person has looked at the finds: frames are masked by the policy again. The record says who and why."""
    if not caller.sees(camera):
        raise HTTPException(403, "camera: your key or token is for other cameras")
    try:
        record = suspensions.lift(request.app.state.settings, camera, caller.id, body.note)
    except suspensions.SuspensionError as error:
        raise HTTPException(409, str(error)) from None
    except (KafkaException, TimeoutError):
        raise HTTPException(503, "the broker does not answer; try again", {"Retry-After": "5"}) from None
    if standing.ready:
        standing.suspensions.adopt(record)
    return record


@router.get(
    "/{camera}/snapshot.jpg",
    summary="The newest anonymized frame",
    operation_id="getSnapshot",
    responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "The camera has sent nothing yet"}},
    response_class=Response,
)
async def snapshot(
    camera: CameraId, live: LiveCameras, stills: Annotated[Stills, Depends(_stills)], caller: Watching
) -> Response:
    still = await stills.newest(_seen(live, camera, caller))
    if still is None:
        raise HTTPException(503, "its newest frame cannot be decoded; wait for the next keyframe")
    frame = still.arrival.frame
    headers = {"Cache-Control": "no-store", "X-Sfumato-Frame": str(frame.id), "X-Sfumato-Outcome": frame.outcome}
    return Response(still.jpeg, media_type="image/jpeg", headers=headers)


@router.get(
    "/{camera}/snapshot",
    summary="The newest anonymized frame, under its old name",
    operation_id="getSnapshotOld",
    responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "The camera has sent nothing yet"}},
    response_class=Response,
)
@deprecated(since=date(2026, 11, 1), sunset=date(2027, 11, 1), successor="/v1/cameras/{camera}/snapshot.jpg")
async def old_snapshot(
    camera: CameraId, live: LiveCameras, stills: Annotated[Stills, Depends(_stills)], caller: Watching
) -> Response:
    """Use `snapshot.jpg`: what an address holds should be seen from its name."""
    return await snapshot(camera, live, stills, caller)


@router.websocket("/{camera}/live")
async def watch(socket: WebSocket, camera: str, caller: Watching) -> None:
    if not caller.sees(camera):
        raise HTTPException(404, NO_FRAME)
    await viewers.watch(socket, camera, _live(socket), _stills(socket))


@router.get(
    "/{camera}/hls/index.m3u8",
    summary="HLS of a camera whose frames are H.264",
    operation_id="getPlaylist",
    responses={200: {"content": {hls.PLAYLIST: {}}}, **MISSING},
    response_class=Response,
)
async def playlist(camera: CameraId, live: LiveCameras, caller: Watching) -> Response:
    shown = _filmed(live, camera, caller)
    shown.hls.want()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_SEGMENTS):
            while len(shown.hls.segments) < hls.LEAST:
                await live.changed(camera)
    if not shown.hls.segments:
        raise HTTPException(503, "its first group of pictures is not complete", {"Retry-After": "5"})
    return Response(shown.hls.playlist(), media_type=hls.PLAYLIST)


@router.get(
    "/{camera}/hls/init-{breaks}.mp4",
    summary="The initialization of segments that the playlist names",
    operation_id="getInitialization",
    responses={200: {"content": {hls.SEGMENT: {}}}, **MISSING},
    response_class=Response,
)
async def initialization(camera: CameraId, breaks: int, live: LiveCameras, caller: Watching) -> Response:
    return await _muxed(_filmed(live, camera, caller).hls.find_break(breaks), 0)


@router.get(
    "/{camera}/hls/{number}.m4s",
    summary="A segment that the playlist names",
    operation_id="getSegment",
    responses={200: {"content": {hls.SEGMENT: {}}}, **MISSING},
    response_class=Response,
)
async def segment(camera: CameraId, number: int, live: LiveCameras, caller: Watching) -> Response:
    return await _muxed(_filmed(live, camera, caller).hls.find(number), 1)


async def _muxed(segment: hls.Segment | None, part: int) -> Response:
    if segment is None:
        raise HTTPException(404, "this segment is not, or no longer, there; fetch the playlist again")
    try:
        parts = await asyncio.to_thread(hls.mux, segment)
    except (FFmpegError, OverflowError):
        raise HTTPException(404, "this segment is not valid H.264") from None
    return Response(parts[part], media_type=hls.SEGMENT, headers={"Cache-Control": "no-store"})


def _seen(live: Live, id: str, caller: Caller) -> Camera:
    """The camera, else 404; also where it is not the caller's."""
    camera = live.cameras.get(id)
    if camera is None or not caller.sees(id):
        raise HTTPException(404, NO_FRAME)
    return camera


def _filmed(live: Live, id: str, caller: Caller) -> Camera:
    """The camera whose newest frame is H.264, else 404."""
    camera = _seen(live, id, caller)
    if camera.newest.frame.unit is None:
        raise HTTPException(404, NO_VIDEO)
    return camera


def describe(camera: Camera, standing: Standing) -> CameraView:
    """A camera as the API shows it."""
    now = time.monotonic()
    return CameraView(
        id=camera.id,
        state=camera.state(now),
        fps=camera.fps(now),
        viewers=camera.viewers,
        policy=_in_force(camera.id, standing) if standing.ready else None,
        suspension=standing.suspensions.newest(camera.id) if standing.ready else None,
        **viewers.header(camera.newest),
    )


def _in_force(id: str, standing: Standing) -> PolicyInForce:
    form = standing.suspensions.over(standing.policies.get)(id)
    name = standing.policies.look(lambda register: register.applies(id))
    if isinstance(form, NoPolicy):
        return PolicyInForce(name=name, version=form.version, schedule=form.schedule, reason=form.reason)
    return PolicyInForce(name=name, version=form.version, schedule=form.schedule)
