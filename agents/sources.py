"""The sources: where pictures come from, by URL scheme. One line in ``SOURCES`` adds one.

A JPEG that the camera made is passed on byte for byte; other codecs are decoded and encoded as JPEG. Errors
and logs never show a URL's credentials or query.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import av
import av.logging
from av.error import FFmpegError

from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason

if TYPE_CHECKING:
    from sfumato.agents.cameras import Camera

av.logging.set_level(av.logging.PANIC)  # FFmpeg's own messages quote URLs with their credentials

OPEN_TIMEOUT = 10.0
READ_TIMEOUT = 5.0
"""A camera that sends nothing for this long, in seconds, is taken for dead and opened again."""
TRUSTED_CLOCK = timedelta(seconds=10)
"""A camera's clock is believed while it differs from ours by no more than this."""
MAX_PIXELS = 100_000_000
SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class SourceError(RuntimeError):
    """A source cannot be opened or has broken off; the text holds no credentials."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded still as it goes to Kafka; ``width`` and ``height`` in pixels."""

    payload: bytes
    content_type: str
    width: int
    height: int
    captured_at: datetime
    time_source: TimeSource


@dataclass(frozen=True, slots=True)
class Loss:
    """A frame that the camera sent and that cannot be used."""

    reason: Reason


class Cap:
    """Lets at most ``fps`` frames per second of the stream's own time pass; None: all."""

    def __init__(self, fps: float | None) -> None:
        self._interval = 1 / fps if fps else 0.0
        self._due = float("-inf")
        self._skipped = 0

    def take_skipped(self) -> int:
        """How many frames were skipped since this was last asked."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    def admits(self, at: float) -> bool:
        """Whether the frame at this time, in seconds, is taken. A jump back in time starts anew."""
        if not self._interval:
            return True
        if at < self._due - self._interval:
            self._due = at
        if at < self._due - 1e-6:
            self._skipped += 1
            return False
        self._due = max(self._due, at - self._interval) + self._interval
        return True


class Context:
    """What a reader shares with its source: the camera, the cap and the wish to stop."""

    def __init__(self, camera: Camera, stopping: threading.Event) -> None:
        self.camera = camera
        self.cap = Cap(camera.fps)
        self.stopping = stopping


Opener = Callable[[Context], Iterator[Picture | Loss]]


def open_source(context: Context) -> Iterator[Picture | Loss]:
    """The pictures of a camera, until it ends (files, stills) or is told to stop; :class:`SourceError` otherwise."""
    return SOURCES[urlsplit(context.camera.url).scheme.lower()](context)


def redact(url: str) -> str:
    """The URL without credentials and query, for logs."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{'***@' if '@' in parts.netloc else ''}{host}{port}{parts.path}"


def _rtsp(context: Context) -> Iterator[Picture | Loss]:
    options = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,udp,crypto"}
    with _opened(context.camera.url, options) as container:
        yield from _video(container, context)
    raise SourceError("the camera ended the stream")


def _http(context: Context) -> Iterator[Picture | Loss]:
    # Without file: a playlist from outside must not name files of this machine.
    options = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
    with _opened(context.camera.url, options) as container:
        yield from _video(container, context)
    raise SourceError("the camera ended the stream")


def _v4l2(context: Context) -> Iterator[Picture | Loss]:
    with _opened(_path(context.camera.url), {}, format="v4l2") as container:
        yield from _video(container, context)
    raise SourceError("the device ended the stream")


def _file(context: Context) -> Iterator[Picture | Loss]:
    clock = Pacer(context)
    for _ in count() if context.camera.loop else range(1):
        clock.restart()
        with _opened(_path(context.camera.url), {"protocol_whitelist": "file"}) as container:
            yield from _video(container, context, clock)
        if context.stopping.is_set():
            return


def _stills(context: Context) -> Iterator[Picture | Loss]:
    folder = Path(_path(context.camera.url))
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise SourceError(f"no folder with pictures ({', '.join(SUFFIXES)})")
    interval = 1 / (context.camera.fps or 1.0)
    clock = Pacer(context)
    for round_ in count() if context.camera.loop else range(1):
        for number, path in enumerate(paths, round_ * len(paths)):
            if not clock.wait_for(number * interval):
                return
            yield _still(path.read_bytes(), SUFFIXES[path.suffix.lower()], context, datetime.now(UTC))


SOURCES: dict[str, Opener] = {
    "rtsp": _rtsp,
    "rtsps": _rtsp,
    "http": _http,
    "https": _http,
    "file": _file,
    "v4l2": _v4l2,
    "stills": _stills,
}


class Pacer:
    """Holds a file back to its own speed, unless it is to be read as fast as possible."""

    def __init__(self, context: Context) -> None:
        self._stopping = context.stopping
        self._real_time = context.camera.pace == "real-time"
        self.restart()

    def restart(self) -> None:
        self._started = time.monotonic()

    def wait_for(self, at: float) -> bool:
        """Wait until ``at`` seconds after the start; False where told to stop."""
        if self._real_time:
            self._stopping.wait(max(0.0, self._started + at - time.monotonic()))
        return not self._stopping.is_set()


class CameraClock:
    """Capture times from the camera's clock, as RTCP sender reports give it, or else from the arrival.

    FFmpeg attaches the sender's wall clock to packets as "producer reference time" (AVProducerReferenceTime:
    int64 microseconds since 1970, int flags).
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    def learn(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None or packet.time_base is None or not packet.has_sidedata("prft"):
            return
        (microseconds,) = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))
        self._offset = microseconds / 1e6 - float(packet.pts * packet.time_base)

    def capture_time(self, pts: float | None) -> tuple[datetime, TimeSource]:
        """The time of the frame with this presentation time, in seconds, and whose clock says so."""
        arrival = datetime.now(UTC)
        if self._offset is not None and pts is not None:
            captured = datetime.fromtimestamp(self._offset + pts, UTC)
            if abs(captured - arrival) <= TRUSTED_CLOCK:
                return captured, TimeSource.CAMERA
        return arrival, TimeSource.ARRIVAL


@contextmanager
def _opened(url: str, options: dict[str, str], format: str | None = None) -> Iterator[Any]:
    try:
        with av.open(url, options=options, format=format, timeout=(OPEN_TIMEOUT, READ_TIMEOUT)) as container:
            if not container.streams.video:
                raise SourceError("holds no video")
            yield container
    except FFmpegError as error:
        raise SourceError(error.strerror or type(error).__name__) from None  # str(error) would show the URL


def _video(container: Any, context: Context, pacer: Pacer | None = None) -> Iterator[Picture | Loss]:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # one reader thread per camera; hundreds share the machine
    passed_on = stream.codec_context.name == "mjpeg" and context.camera.long_side is None
    clock = CameraClock()
    first: float | None = None
    for packet in container.demux(stream):
        if context.stopping.is_set():
            return
        clock.learn(packet)
        for item in _pictures(packet, passed_on):
            if isinstance(item, Loss):
                yield item
                continue
            at = None if item.pts is None or item.time_base is None else float(item.pts * item.time_base)
            if pacer is not None and at is not None:
                first = at if first is None else first
                if not pacer.wait_for(at - first):
                    return
            if context.cap.admits(time.monotonic() if at is None else at):
                captured_at, source = clock.capture_time(at)
                yield _picture(item, context, captured_at, source)


def _pictures(packet: av.Packet[Any], passed_on: bool) -> Iterator[Any]:
    """The packet itself where it is a JPEG to be passed on, else its decoded frames."""
    if passed_on:
        if packet.size:
            yield packet
        return
    try:
        yield from packet.decode()
    except FFmpegError:
        yield Loss(Reason.UNDECODABLE)


def _picture(item: Any, context: Context, captured_at: datetime, source: TimeSource) -> Picture | Loss:
    if isinstance(item, av.Packet):
        return _still(bytes(item), "image/jpeg", context, captured_at, source)
    width, height = _fitted(item.width, item.height, context.camera.long_side)
    image = item.to_ndarray(format="bgr24", width=width, height=height)
    payload = images.encode(image, context.camera.quality)
    return Picture(payload, "image/jpeg", width, height, captured_at, source)


def _still(
    payload: bytes,
    content_type: str,
    context: Context,
    captured_at: datetime,
    source: TimeSource = TimeSource.ARRIVAL,
) -> Picture | Loss:
    try:
        width, height = images.inspect(payload, content_type, max_pixels=MAX_PIXELS)
        fitted = _fitted(width, height, context.camera.long_side)
        if fitted != (width, height):
            image = images.resize(images.decode(payload, content_type, max_pixels=MAX_PIXELS), *fitted)
            payload, content_type = images.encode(image, context.camera.quality), "image/jpeg"
        return Picture(payload, content_type, *fitted, captured_at, source)
    except ImageError as error:
        return Loss(error.reason)


def _fitted(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    """The size after shrinking to the long side; never enlarged."""
    scale = min(1.0, (long_side or max(width, height)) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _path(url: str) -> str:
    return unquote(urlsplit(url).path)
