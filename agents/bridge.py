"""The bridge: anonymized frames for browsers, over WebSocket and REST. Reads ``frames.anonymized`` only.

Endpoints and the WebSocket's format: docs/bridge.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from av.error import FFmpegError
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sfumato.agents import hls, problems, viewers
from sfumato.agents.live import Camera, Live
from sfumato.agents.reader import Reader
from sfumato.agents.settings import Settings
from sfumato.agents.stills import Stills

log = logging.getLogger(__name__)

VIEWER = Path(__file__).with_name("viewer")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NO_FRAME = "no frame of this camera has arrived; GET /v1/cameras lists those that have"
NO_VIDEO = (
    'this camera\'s frames are JPEGs and HLS needs H.264: give its policy output = { codec = "h264" }, '
    "or use snapshot.jpg or the WebSocket live"
)
FIRST_SEGMENTS = 10.0
"""Longest wait for a camera's first segments, in seconds."""


def make_app(settings: Settings) -> FastAPI:
    """The ASGI application; its lifespan runs the Kafka reader."""
    live = Live()
    stills = Stills(settings.jpeg_quality)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.reader = reader = Reader(settings, live, asyncio.get_running_loop())
        reader.start()
        yield
        await asyncio.to_thread(reader.close)
        stills.close()

    # FastAPI's documentation pages load from another site, so they are off; the schema itself is served.
    app = FastAPI(title="sfumato bridge", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.live = live
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.bridge_allowed_hosts)
    app.middleware("http")(_add_headers)
    problems.add_handlers(app)
    _add_routes(app, live, stills)
    _add_hls(app, live)
    app.mount("/viewer", StaticFiles(directory=VIEWER), name="viewer")
    return app


def _add_routes(app: FastAPI, live: Live, stills: Stills) -> None:
    @app.get("/v1/cameras", summary="The cameras seen since the bridge started")
    async def cameras() -> dict[str, Any]:
        return {"cameras": [describe(camera) for _, camera in sorted(live.cameras.items())]}

    @app.get(
        "/v1/cameras/{camera}/snapshot.jpg",
        summary="The newest anonymized frame",
        responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "The camera has sent nothing yet"}},
        response_class=Response,
    )
    async def snapshot(camera: str) -> Response:
        if camera not in live.cameras:
            raise HTTPException(404, NO_FRAME)
        still = await stills.newest(live.cameras[camera])
        if still is None:
            raise HTTPException(503, "its newest frame cannot be decoded; wait for the next keyframe")
        frame = still.arrival.frame
        headers = {"Cache-Control": "no-store", "X-Sfumato-Frame": str(frame.id), "X-Sfumato-Outcome": frame.outcome}
        return Response(still.jpeg, media_type="image/jpeg", headers=headers)

    @app.websocket("/v1/cameras/{camera}/live")
    async def watch(socket: WebSocket, camera: str) -> None:
        await viewers.watch(socket, camera, live, stills)

    @app.get("/healthz", summary="The process answers")
    async def healthz() -> dict[str, str]:
        if not app.state.reader.is_alive():
            raise HTTPException(503, "the thread that reads Kafka has ended; restart the bridge")
        return {"status": "ok"}

    @app.get("/readyz", summary="The broker answers and every partition is read")
    async def readyz() -> dict[str, str]:
        if not app.state.reader.ready:
            raise HTTPException(503, "the broker does not answer, or the topic does not exist")
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def exported() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def viewer() -> FileResponse:
        return FileResponse(VIEWER / "index.html")


def _add_hls(app: FastAPI, live: Live) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "Not a camera with H.264, or no longer there"}}

    @app.get(
        "/v1/cameras/{camera}/hls/index.m3u8",
        summary="HLS of a camera whose frames are H.264",
        responses={200: {"content": {hls.PLAYLIST: {}}}, **missing},
        response_class=Response,
    )
    async def playlist(camera: str) -> Response:
        shown = _filmed(live, camera)
        shown.hls.want()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SEGMENTS):
                while len(shown.hls.segments) < hls.LEAST:
                    await live.changed(camera)
        if not shown.hls.segments:
            raise HTTPException(503, "its first group of pictures is not complete", {"Retry-After": "5"})
        return Response(shown.hls.playlist(), media_type=hls.PLAYLIST)

    @app.get(
        "/v1/cameras/{camera}/hls/init-{breaks}.mp4",
        summary="The initialization of segments that the playlist names",
        responses={200: {"content": {hls.SEGMENT: {}}}, **missing},
        response_class=Response,
    )
    async def initialization(camera: str, breaks: int) -> Response:
        return await _muxed(_filmed(live, camera).hls.find_break(breaks), 0)

    @app.get(
        "/v1/cameras/{camera}/hls/{number}.m4s",
        summary="A segment that the playlist names",
        responses={200: {"content": {hls.SEGMENT: {}}}, **missing},
        response_class=Response,
    )
    async def segment(camera: str, number: int) -> Response:
        return await _muxed(_filmed(live, camera).hls.find(number), 1)


async def _muxed(segment: hls.Segment | None, part: int) -> Response:
    if segment is None:
        raise HTTPException(404, "this segment is not, or no longer, there; fetch the playlist again")
    try:
        parts = await asyncio.to_thread(hls.mux, segment)
    except (FFmpegError, OverflowError):
        raise HTTPException(404, "this segment is not valid H.264") from None
    return Response(parts[part], media_type=hls.SEGMENT, headers={"Cache-Control": "no-store"})


def _filmed(live: Live, id: str) -> Camera:
    """The camera whose newest frame is H.264, else 404."""
    camera = live.cameras.get(id)
    if camera is None:
        raise HTTPException(404, NO_FRAME)
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


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


class Server(uvicorn.Server):
    """uvicorn's server, which before it ends tells the viewers that the bridge goes away."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port, *_ = listener.getsockname()
            log.info("viewer: http://%s:%d/", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; viewers are then closed with code 1001. SystemExit where the port is taken."""
    app = make_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.bridge_host,
        port=settings.bridge_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # JPEGs are compressed already
        ws_max_size=1024,  # viewers have nothing to say
        server_header=False,
    )
    server = Server(config, app.state.live)

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again once it has ended in good order; here that is exit status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run()
