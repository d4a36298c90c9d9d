"""The sources: where pictures come from, by URL scheme. One line in ``SOURCES`` adds one.

A JPEG that the camera made is passed on byte for byte unless it is to be shrunk; other codecs are decoded and
encoded as JPEG. Errors and logs never show a URL's credentials, path or query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import av
import av.logging
from av.error import FFmpegError

from sfumato.agents import pictures
from sfumato.agents.clocks import CameraClock, Cap, FileClock
from sfumato.agents.pictures import Loss, Picture
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason

if TYPE_CHECKING:
    from sfumato.agents.cameras import Camera

log = logging.getLogger(__name__)
av.logging.set_level(av.logging.PANIC)  # FFmpeg's own messages quote URLs with their credentials

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 10.0
"""A camera that sends nothing for this long, in seconds, is taken for dead and opened again."""
SEGMENT_TIMEOUT = 30.0
"""The same for HLS, which sends nothing until its next segment is complete."""
SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
LARGEST_STILL = 256 * 1024 * 1024
"""Larger picture files are not read, in bytes."""
STILLS_PER_SECOND = 1.0

Item = Picture | Loss


class SourceError(RuntimeError):
    """A source cannot be opened or has broken off; the text holds no part of its URL."""


class Context:
    """What a reader shares with its source: the camera, the wish to stop, and the cap on frames per second.

    ``on_skip`` is called for each frame that the cap leaves out.
    """

    def __init__(self, camera: Camera, stopping: threading.Event, on_skip: Callable[[], None]) -> None:
        self.camera = camera
        self.stopping = stopping
        self.cap = Cap(camera.fps, on_skip)


Opener = Callable[[Context], Iterator[Item]]


def open_source(context: Context) -> Iterator[Item]:
    """The pictures of a camera, until it ends (files, stills) or is told to stop; :class:`SourceError` otherwise."""
    return SOURCES[urlsplit(context.camera.url).scheme.lower()](context)


def redact(url: str) -> str:
    """What of a URL may be logged: scheme, host and port, since some cameras take their password in the path."""
    parts = urlsplit(url)
    if parts.scheme.lower() in LOCAL_SCHEMES:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def _rtsp(context: Context) -> Iterator[Item]:
    options = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,udp,crypto"}
    yield from _live(context, context.camera.url, options, READ_TIMEOUT)


def _http(context: Context) -> Iterator[Item]:
    # Without file: a playlist from outside must not name files of this machine.
    options = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
    playlist = urlsplit(context.camera.url).path.lower().endswith((".m3u8", ".m3u"))
    yield from _live(context, context.camera.url, options, SEGMENT_TIMEOUT if playlist else READ_TIMEOUT)


def _v4l2(context: Context) -> Iterator[Item]:
    yield from _live(context, _path(context), {}, READ_TIMEOUT, format="v4l2")


def _live(
    context: Context, url: str, options: dict[str, str], read_timeout: float, format: str | None = None
) -> Iterator[Item]:
    with _opened(url, options, read_timeout, format) as container:
        # FFmpeg numbers the parts of MJPEG over HTTP as if they came at 25 frames per second.
        timed = container.format.name != "mpjpeg"
        clock = CameraClock()
        for packet, items in _decoded(container, context):
            clock.learn(packet)
            for item in items:
                seconds = pictures.seconds(item) if timed else None
                if isinstance(item, Loss):
                    yield item
                elif context.cap.admits(time.monotonic() if seconds is None else seconds):
                    yield pictures.picture(item, context.camera, *clock.capture_time(seconds))
    if not context.stopping.is_set():
        raise SourceError("the camera ended the stream")


def _file(context: Context) -> Iterator[Item]:
    clock = FileClock(context.camera.pace == "real-time", context.stopping)
    for _ in _rounds(context):
        clock.begin_round()
        try:
            with _opened(_path(context), {"protocol_whitelist": "file"}, READ_TIMEOUT) as container:
                for _, items in _decoded(container, context):
                    for item in items:
                        if isinstance(item, Loss):
                            yield item
                            continue
                        seconds = clock.advance(pictures.seconds(item))
                        if not clock.wait_until(seconds):
                            return
                        if context.cap.admits(seconds):
                            yield pictures.picture(item, context.camera, datetime.now(UTC), TimeSource.ARRIVAL)
        except SourceError as error:
            if not clock.moved:
                raise
            log.warning("camera %s: the file is damaged and ends early: %s", context.camera.id, error)
        if not clock.moved and not context.stopping.is_set():
            raise SourceError("the file holds no picture that can be decoded")


def _stills(context: Context) -> Iterator[Item]:
    folder = Path(_path(context))
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SourceError(f"no folder with pictures ({', '.join(SUFFIXES)})")
    interval = 1 / (context.camera.fps or STILLS_PER_SECOND)
    clock = FileClock(context.camera.pace == "real-time", context.stopping)
    for round_ in _rounds(context):
        for number, path in enumerate(paths, round_ * len(paths)):
            if not clock.wait_until(number * interval):
                return
            try:
                if path.stat().st_size > LARGEST_STILL:
                    yield Loss(Reason.TOO_LARGE)
                    continue
                payload = path.read_bytes()
            except OSError:  # gone meanwhile, or not ours to read
                yield Loss(Reason.UNDECODABLE)
                continue
            content_type = SUFFIXES[path.suffix.lower()]
            yield pictures.still(payload, content_type, context.camera, datetime.now(UTC), TimeSource.ARRIVAL)


SOURCES: dict[str, Opener] = {
    "rtsp": _rtsp,
    "rtsps": _rtsp,
    "http": _http,
    "https": _http,
    "file": _file,
    "v4l2": _v4l2,
    "stills": _stills,
}
LOCAL_SCHEMES = frozenset({"file", "v4l2", "stills"})
"""Schemes followed by a path of this machine instead of a host."""


def _rounds(context: Context) -> Iterator[int]:
    for number in count() if context.camera.loop else range(1):
        if context.stopping.is_set():
            return
        yield number


@contextmanager
def _opened(url: str, options: dict[str, str], read_timeout: float, format: str | None = None) -> Iterator[Any]:
    try:
        with av.open(url, options=options, format=format, timeout=(OPEN_TIMEOUT, read_timeout)) as container:
            if not container.streams.video:
                raise SourceError("holds no video")
            yield container
    except FFmpegError as error:
        raise SourceError(error.strerror or type(error).__name__) from None  # str(error) would show the URL


def _decoded(container: Any, context: Context) -> Iterator[tuple[av.Packet[Any], Iterator[Any]]]:
    """Each packet of the first video stream with what came out of it: frames, JPEG packets or losses."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # one reader thread per camera; hundreds share the machine
    decode = pictures.as_jpeg if stream.codec_context.name == "mjpeg" else pictures.Decoder().decode
    for packet in container.demux(stream):
        if context.stopping.is_set():
            return
        yield packet, decode(packet)


def _path(context: Context) -> str:
    return unquote(urlsplit(context.camera.url).path)
