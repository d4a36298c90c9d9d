"""The sources: where pictures come from, by URL scheme. One line in ``SOURCES`` adds one.

Access units of H.264 and H.265, and JPEGs that the camera made, are passed on as they are unless they are to be
shrunk; other codecs are decoded and encoded as JPEG. Errors and logs never show a URL's credentials, path or query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import av
import av.logging
from av.error import FFmpegError

from sfumato.agents import pictures
from sfumato.agents.clocks import CameraClock, Cap, FileClock, arrives
from sfumato.agents.pictures import Loss, Pending, Picture, StillReader
from sfumato.agents.units import CONTENT_TYPES, Gate, Remuxer, Timeline
from sfumato.models.bitstream import BitstreamError
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason

if TYPE_CHECKING:
    from sfumato.agents.cameras import Camera

log = logging.getLogger(__name__)
# FFmpeg's own messages quote URLs with their credentials. None, not PANIC: that would call Python from the decoders'
# threads, while a thread that closes a decoder waits for them with the GIL in hand.
av.logging.set_level(None)

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
Packets = Iterator[tuple[Any, Iterator[Pending | Loss]]]
"""Packets, each with what comes of it."""


class SourceError(RuntimeError):
    """A source cannot be opened or has broken off; the text holds no part of its URL."""


class Context:
    """What a reader shares with its source through all openings of a camera: the wish to stop, the cap on frames per
    second, the times of access units, and the gate, which the reader closes when it has to drop one.

    ``on_skip`` is called for each frame that the cap leaves out.
    """

    def __init__(self, camera: Camera, stopping: threading.Event, on_skip: Callable[[], None]) -> None:
        self.camera = camera
        self.stopping = stopping
        self.on_skip = on_skip
        self.cap = Cap(camera.fps)
        self.gate = Gate()
        self.timeline = Timeline()
        self.said: str | None = None
        """The codec that this opening decodes, once that was logged."""


Opener = Callable[[Context], Iterator[Item]]


def open_source(context: Context) -> Iterator[Item]:
    """The pictures of a camera, until it ends (files, stills) or is told to stop; :class:`SourceError` otherwise."""
    context.said = None
    return SOURCES[_scheme(context.camera)](context)


def waits(camera: Camera) -> bool:
    """Whether its frames can wait until Kafka has room for them: read as fast as possible, from a disk."""
    return camera.pace == "fast" and _scheme(camera) in RECORDED_SCHEMES


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
        clock = CameraClock()
        for packet, found in _read(container, context):
            clock.learn(packet)
            for item in found:
                if isinstance(item, Loss):
                    yield item
                else:
                    at = time.monotonic() if item.seconds is None else item.seconds
                    yield from _capped(context, item, at, *clock.capture_time(item.shown, item.delay))
    if not context.stopping.is_set():
        raise SourceError("the camera ended the stream")


def _file(context: Context) -> Iterator[Item]:
    real_time = context.camera.pace == "real-time"
    clock = FileClock(real_time, context.stopping)
    for _ in _rounds(context):
        clock.begin_round()
        usable = False
        try:
            with _opened(_path(context), {"protocol_whitelist": "file"}, READ_TIMEOUT) as container:
                for item, seconds in _paced(_read(container, context), clock):
                    if isinstance(item, Loss):
                        yield item
                        continue
                    usable = True
                    captured_at = arrives(item.delay if real_time else 0.0)
                    yield from _capped(context, item, seconds, captured_at, TimeSource.ARRIVAL)
        except SourceError as error:
            if not usable:
                raise
            log.warning("camera %s: the file is damaged and ends early: %s", context.camera.id, error)
        if not usable and not context.stopping.is_set():
            raise SourceError("the file holds no picture that can be used")


def _paced(packets: Packets, clock: FileClock) -> Iterator[tuple[Pending | Loss, float]]:
    """What a file's packets hold, each when it is due, with its time since the first round began."""
    seconds = 0.0
    for item in chain.from_iterable(found for _, found in packets):
        if not isinstance(item, Loss) or item.seconds is not None:
            seconds = clock.advance(item.seconds)
        if not clock.wait_until(seconds):
            return
        yield item, seconds


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
RECORDED_SCHEMES = frozenset({"file", "stills"})
LOCAL_SCHEMES = RECORDED_SCHEMES | {"v4l2"}
"""Schemes followed by a path of this machine instead of a host."""
UNTIMED_FORMATS = frozenset({"mpjpeg", "h264", "hevc"})
"""FFmpeg numbers the pictures of these, when they come over HTTP, as if they came at 25 frames per second."""


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


def _read(container: Any, context: Context) -> Packets:
    """The packets of the first video stream."""
    stream = container.streams.video[0]
    reader = _reader(container, stream, context)
    for packet in container.demux(stream):
        if context.stopping.is_set():
            return
        yield packet, reader.read(packet)


def _reader(container: Any, stream: Any, context: Context) -> Remuxer | StillReader:
    camera, codec = context.camera, stream.codec_context.codec.canonical_name
    recorded = _scheme(camera) in RECORDED_SCHEMES
    if camera.remux and codec in CONTENT_TYPES and not _shrinks(stream, camera):
        try:
            return Remuxer(stream, context.gate, context.timeline, recorded=recorded)
        except BitstreamError as error:
            raise SourceError(f"its parameter sets cannot be read: {error}") from None
    if codec != "mjpeg" and context.said != codec:
        log.info("camera %s: %s is decoded here and sent as JPEG", camera.id, codec)
        context.said = codec
    return StillReader(stream, camera, timed=recorded or container.format.name not in UNTIMED_FORMATS)


def _shrinks(stream: Any, camera: Camera) -> bool:
    """Whether pictures are larger than wanted; a size that is not known yet counts as larger."""
    if camera.long_side is None:
        return False
    longest: int = max(stream.codec_context.width, stream.codec_context.height)
    return longest == 0 or longest > camera.long_side


def _capped(context: Context, item: Pending, at: float, captured_at: datetime, source: TimeSource) -> Iterator[Item]:
    """The frame, unless the cap leaves it out; one that others need is sent all the same, marked."""
    within = context.cap.admits(at)
    if within or item.needed:
        yield item.picture(captured_at, source, discard=not within)
    else:
        context.on_skip()


def _scheme(camera: Camera) -> str:
    return urlsplit(camera.url).scheme.lower()


def _path(context: Context) -> str:
    return unquote(urlsplit(context.camera.url).path)
