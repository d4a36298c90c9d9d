"""The bridge: anonymized frames for browsers, over WebSocket and REST. Reads ``frames.anonymized`` only.

Endpoints and the WebSocket's format: docs/bridge.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sfumato.agents import metrics
from sfumato.agents.live import GOODBYE_TIMEOUT, Live, Reader, Shown
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import CAMERA_ID, format_time

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
GOING_AWAY = 1001
"""WebSocket close code at the bridge's end."""


def make_app(settings: Settings) -> FastAPI:
    """The ASGI application; its lifespan runs the Kafka reader."""
    live = Live()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.reader = reader = Reader(settings, live, asyncio.get_running_loop())
        reader.start()
        yield
        await asyncio.to_thread(reader.close)

    # FastAPI's documentation pages load from another site, so they are off; the schema itself is served.
    app = FastAPI(title="sfumato bridge", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.live = live
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.bridge_allowed_hosts)
    app.middleware("http")(_add_headers)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_routes(app, live)
    app.mount("/viewer", StaticFiles(directory=VIEWER), name="viewer")
    return app


def _add_routes(app: FastAPI, live: Live) -> None:
    @app.get("/v1/cameras", summary="The cameras seen since the bridge started")
    async def cameras() -> dict[str, Any]:
        return {"cameras": [describe(shown) for _, shown in sorted(live.cameras.items())]}

    @app.get(
        "/v1/cameras/{camera}/snapshot.jpg",
        summary="The newest anonymized frame",
        responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "The camera has sent nothing yet"}},
        response_class=Response,
    )
    async def snapshot(camera: str) -> Response:
        shown = live.cameras.get(camera)
        if shown is None:
            raise HTTPException(404, "no frame of this camera has arrived; GET /v1/cameras lists those that have")
        frame = shown.frame
        headers = {"Cache-Control": "no-store", "X-Sfumato-Frame": str(frame.id), "X-Sfumato-Outcome": frame.outcome}
        return Response(frame.payload, media_type="image/jpeg", headers=headers)

    @app.websocket("/v1/cameras/{camera}/live")
    async def watch(socket: WebSocket, camera: str) -> None:
        await _watch(socket, camera, live)

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


def describe(shown: Shown) -> dict[str, Any]:
    """A camera as ``GET /v1/cameras`` shows it."""
    now = time.monotonic()
    return {
        "id": shown.frame.id.camera,
        "state": shown.state(now),
        "fps": shown.fps(now),
        "viewers": shown.viewers,
        **header(shown),
    }


def header(shown: Shown) -> dict[str, Any]:
    """A frame's metadata, as JSON in front of it on the WebSocket. ``age_ms``: since it reached the bridge."""
    frame = shown.frame
    return {
        "frame": str(frame.id),
        "captured_at": format_time(frame.captured_at),
        "time_source": frame.time_source,
        "width": frame.width,
        "height": frame.height,
        "outcome": frame.outcome,
        "reason": frame.reason,
        "policy_version": frame.policy_version,
        "objects": len(frame.detections),
        "latency_ms": shown.latency_ms,
        "age_ms": shown.age_ms(time.monotonic()),
    }


async def _watch(socket: WebSocket, camera: str, live: Live) -> None:
    """Send each newest frame until the viewer leaves; while one is being sent, older ones are skipped."""
    if not _same_site(socket):
        await socket.send_denial_response(_problem_response(403, "pages of another site may not watch"))
        return
    if not CAMERA_ID.fullmatch(camera):
        await socket.send_denial_response(_problem_response(404, f"a camera id matches {CAMERA_ID.pattern}"))
        return
    await socket.accept()
    tasks = {
        asyncio.create_task(_until_closed(socket)),
        asyncio.create_task(_send_frames(socket, camera, live)),
        asyncio.create_task(live.closing.wait()),
    }
    with metrics.VIEWERS.track_inprogress(), live.watched():
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if live.closing.is_set():
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # gone already, or too slow
                await asyncio.wait_for(socket.close(GOING_AWAY), GOODBYE_TIMEOUT)


async def _send_frames(socket: WebSocket, camera: str, live: Live) -> None:
    seen, counted = None, None
    try:
        while True:
            shown = await live.newer_than(camera, seen)
            if counted is None:
                counted = shown
                counted.viewers += 1
            seen = shown.frame
            metadata = json.dumps(header(shown), separators=(",", ":")).encode()
            await socket.send_bytes(struct.pack(">I", len(metadata)) + metadata + seen.payload)
    except (WebSocketDisconnect, RuntimeError):
        return  # the viewer has gone while a frame was on its way
    finally:
        if counted is not None:
            counted.viewers -= 1


async def _until_closed(socket: WebSocket) -> None:
    """What a viewer sends is ignored; its leaving is noticed."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _same_site(socket: WebSocket) -> bool:
    """Browsers name the page's origin: it must be this bridge. Other clients send none."""
    origin = socket.headers.get("origin")
    return origin is None or origin.partition("://")[2] == socket.headers.get("host")


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


async def _problem(request: Request, error: Exception) -> JSONResponse:
    """RFC 9457."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    return _problem_response(status, str(detail))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    places = [".".join(map(str, e["loc"])) for e in error.errors()] if isinstance(error, RequestValidationError) else []
    return _problem_response(422, f"not valid: {', '.join(places)}")


def _problem_response(status: int, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": HTTPException(status).detail, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


class Server(uvicorn.Server):
    """uvicorn's server, which before it ends tells the viewers that the bridge goes away."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; viewers are then closed with code 1001. SystemExit where the port is taken."""
    log.info("viewer: http://%s:%d/", settings.bridge_host, settings.bridge_port)
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
