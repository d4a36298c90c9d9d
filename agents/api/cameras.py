"""Live anonymized frames: stills, the WebSocket and HLS of each camera."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated, Any

from av.error import FFmpegError
from fastapi import APIRouter, Depends, Response, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sfumato.agents import hls, viewers
from sfumato.agents.callers import Caller, needs
from sfumato.agents.live import Camera, Live
from sfumato.agents.stills import Stills
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1/cameras", tags=["cameras"])

NO_FRAME = "no frame of this camera has arrived; GET /v1/cameras lists those that have"
NO_VIDEO = (
    'this camera\'s frames are JPEGs and HLS needs H.264: give its policy output = { codec = "h264" }, '
    "or use snapshot.jpg or the WebSocket live"
)
FIRST_SEGMENTS = 10.0
"""Longest wait for a camera's first segments, in seconds."""
MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "Not a camera with H.264, or no longer there"}}


def _live(connection: HTTPConnection) -> Live:
    live: Live = connection.app.state.live
    return live


def _stills(connection: HTTPConnection) -> Stills:
    stills: Stills = connection.app.state.stills
    return stills


LiveCameras = Annotated[Live, Depends(_live)]
Watching = Annotated[Caller, needs(Scope.CAMERAS_READ)]


@router.get("", summary="The cameras seen since the bridge started")
async def cameras(live: LiveCameras, caller: Watching) -> dict[str, Any]:
    """Those that are the caller's; the others are 404 everywhere, as if they were not there."""
    return {"cameras": [describe(camera) for id, camera in sorted(live.cameras.items()) if caller.sees(id)]}


@router.get(
    "/{camera}/snapshot.jpg",
    summary="The newest anonymized frame",
    responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "The camera has sent nothing yet"}},
    response_class=Response,
)
async def snapshot(
    camera: str, live: LiveCameras, stills: Annotated[Stills, Depends(_stills)], caller: Watching
) -> Response:
    still = await stills.newest(_seen(live, camera, caller))
    if still is None:
        raise HTTPException(503, "its newest frame cannot be decoded; wait for the next keyframe")
    frame = still.arrival.frame
    headers = {"Cache-Control": "no-store", "X-Sfumato-Frame": str(frame.id), "X-Sfumato-Outcome": frame.outcome}
    return Response(still.jpeg, media_type="image/jpeg", headers=headers)


@router.websocket("/{camera}/live")
async def watch(socket: WebSocket, camera: str, caller: Watching) -> None:
    if not caller.sees(camera):
        raise HTTPException(404, NO_FRAME)
    await viewers.watch(socket, camera, _live(socket), _stills(socket))


@router.get(
    "/{camera}/hls/index.m3u8",
    summary="HLS of a camera whose frames are H.264",
    responses={200: {"content": {hls.PLAYLIST: {}}}, **MISSING},
    response_class=Response,
)
async def playlist(camera: str, live: LiveCameras, caller: Watching) -> Response:
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
    responses={200: {"content": {hls.SEGMENT: {}}}, **MISSING},
    response_class=Response,
)
async def initialization(camera: str, breaks: int, live: LiveCameras, caller: Watching) -> Response:
    return await _muxed(_filmed(live, camera, caller).hls.find_break(breaks), 0)


@router.get(
    "/{camera}/hls/{number}.m4s",
    summary="A segment that the playlist names",
    responses={200: {"content": {hls.SEGMENT: {}}}, **MISSING},
    response_class=Response,
)
async def segment(camera: str, number: int, live: LiveCameras, caller: Watching) -> Response:
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


def describe(camera: Camera) -> dict[str, Any]:
    """A camera as ``GET /v1/cameras`` shows it."""
    now = time.monotonic()
    return {
        "id": camera.id,
        "state": camera.state(now),
        "fps": camera.fps(now),
        "viewers": camera.viewers,
        **viewers.header(camera.newest),
    }
