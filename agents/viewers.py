"""The bridge's WebSocket: one viewer of one camera. Format: docs/bridge.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from sfumato.agents import metrics
from sfumato.agents.live import GOODBYE_TIMEOUT, Arrival, Camera, Live, Place
from sfumato.agents.stills import Stills
from sfumato.agents.web import problems
from sfumato.schemas.cloudevent import CAMERA_ID, format_time
from sfumato.schemas.unit import AnonymizedUnit

GOING_AWAY = 1001
"""WebSocket close code at the bridge's end."""
VIDEO = ("h264",)
"""What a viewer may say that it can decode."""


def header(arrival: Arrival) -> dict[str, Any]:
    """A frame's metadata, as JSON in front of it on the WebSocket. ``age_ms``: since it reached the bridge."""
    frame = arrival.frame
    return {
        "frame": str(frame.id),
        "captured_at": format_time(frame.captured_at),
        "time_source": frame.time_source,
        "width": frame.width,
        "height": frame.height,
        "content_type": frame.content_type,
        "outcome": frame.outcome,
        "reason": frame.reason,
        "policy_version": frame.policy_version,
        "objects": len(frame.detections),
        "latency_ms": arrival.latency_ms,
        "age_ms": arrival.age_ms(time.monotonic()),
    }


def unit_header(arrival: Arrival, unit: AnonymizedUnit) -> dict[str, Any]:
    """What H.264 adds to the metadata, where the unit is sent as it is."""
    return {
        "keyframe": unit.keyframe,
        "stream": unit.stream,
        "unit": unit.number,
        "pts_us": round(unit.pts * unit.time_base * 1_000_000),
        "new": arrival.new,
    }


async def watch(socket: WebSocket, camera: str, live: Live, stills: Stills) -> None:
    """Send what is new until the viewer leaves."""
    video = socket.query_params.get("video")
    if not _same_site(socket):
        await socket.send_denial_response(problems.response(403, "pages of another site may not watch"))
        return
    if not CAMERA_ID.fullmatch(camera):
        await socket.send_denial_response(problems.response(404, f"a camera id matches {CAMERA_ID.pattern}"))
        return
    if video is not None and video not in VIDEO:
        detail = f"video: one of {', '.join(VIDEO)}, or left out for JPEG"
        await socket.send_denial_response(problems.response(400, detail))
        return
    await socket.accept()
    sending = _send_units(socket, camera, live) if video else _send_stills(socket, camera, live, stills)
    tasks = {
        asyncio.create_task(_until_closed(socket)),
        asyncio.create_task(sending),
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


async def _send_stills(socket: WebSocket, id: str, live: Live, stills: Stills) -> None:
    """Each newest picture as JPEG; while one is on its way, older ones are skipped."""
    with _gone(), _counted(await live.newer_than(id, None)) as camera:
        sent = None
        while True:
            seen = camera.newest
            still = await stills.newest(camera)
            if still is not None and still.arrival.new and still.arrival is not sent:
                sent = still.arrival
                await _send(socket, {**header(sent), "content_type": "image/jpeg"}, still.jpeg)
            await live.newer_than(id, seen)


async def _send_units(socket: WebSocket, id: str, live: Live) -> None:
    """Every unit from a keyframe on, as it is, and each newest JPEG; who falls behind skips to a keyframe."""
    with _gone(), _counted(await live.newer_than(id, None)):
        place: Place | None = None
        while True:
            arrival, place = await live.after(id, place)
            unit = arrival.frame.unit
            await _send(socket, header(arrival) | (unit_header(arrival, unit) if unit else {}), arrival.frame.payload)


async def _send(socket: WebSocket, metadata: dict[str, Any], payload: bytes) -> None:
    packed = json.dumps(metadata, separators=(",", ":")).encode()
    await socket.send_bytes(struct.pack(">I", len(packed)) + packed + payload)


@contextmanager
def _gone() -> Iterator[None]:
    """The viewer may leave while a frame is on its way."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        yield


@contextmanager
def _counted(camera: Camera) -> Iterator[Camera]:
    camera.viewers += 1
    try:
        yield camera
    finally:
        camera.viewers -= 1


async def _until_closed(socket: WebSocket) -> None:
    """What a viewer sends is ignored; its leaving is noticed."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _same_site(socket: WebSocket) -> bool:
    """Browsers name the page's origin: it must be this bridge, or one that SFUMATO_CORS_ORIGINS names. Other clients
    send none."""
    origin = socket.headers.get("origin")
    if origin is None or origin.partition("://")[2] == socket.headers.get("host"):
        return True
    return origin in socket.app.state.settings.cors_origins
