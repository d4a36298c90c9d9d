"""What a source hands to the ingestor, and the way there of stills: passed on, or decoded and encoded as JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import RawUnit

if TYPE_CHECKING:
    from sfumato.agents.cameras import Camera

MAX_PIXELS = 100_000_000
"""Larger pictures are dropped before they are converted."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded still, or access unit, as it goes to Kafka; ``width`` and ``height`` in pixels, upright.

    ``needed``: other units may need this one. ``transcoded``: a video's picture that was decoded and encoded here.
    """

    payload: bytes
    content_type: str
    width: int
    height: int
    captured_at: datetime
    time_source: TimeSource
    unit: RawUnit | None = None
    needed: bool = False
    transcoded: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """A frame that the camera sent and that cannot be used; ``seconds``: its time in the stream, where known."""

    reason: Reason
    seconds: float | None = None


class Pending(Protocol):
    """A frame of a video before it is known when it was taken, and whether the cap on frames leaves it out.

    ``seconds``: when it is decoded and ``shown``: when it is shown, in the stream's own time; None where unknown.
    ``delay``: the seconds between. ``needed``: others need it, so that it cannot be left out.
    """

    @property
    def seconds(self) -> float | None: ...
    @property
    def shown(self) -> float | None: ...
    @property
    def delay(self) -> float: ...
    @property
    def needed(self) -> bool: ...

    def picture(self, captured_at: datetime, source: TimeSource, *, discard: bool) -> Picture | Loss:
        """As it goes to Kafka; ``discard``: only because others need it."""


@dataclass(frozen=True, slots=True)
class PendingStill:
    """A decoded frame, or an MJPEG packet, which is a JPEG file already."""

    item: Any
    camera: Camera
    seconds: float | None
    delay: float = 0.0
    needed: bool = False

    @property
    def shown(self) -> float | None:
        return self.seconds

    def picture(self, captured_at: datetime, source: TimeSource, *, discard: bool) -> Picture | Loss:
        if isinstance(self.item, av.Packet):
            return still(bytes(self.item), "image/jpeg", self.camera, captured_at, source)
        return _encoded(self.item, self.camera, captured_at, source)


class StillReader:
    """The pictures of one opened stream as stills. ``timed``: the stream's times are worth something."""

    def __init__(self, stream: Any, camera: Camera, *, timed: bool) -> None:
        stream.codec_context.thread_count = 1  # one reader thread per camera; hundreds share the machine
        self._decode = as_jpeg if stream.codec_context.name == "mjpeg" else Decoder().decode
        self._camera = camera
        self._timed = timed

    def read(self, packet: Any) -> Iterator[PendingStill | Loss]:
        """What came out of a packet."""
        for item in self._decode(packet):
            if isinstance(item, Loss):
                yield item
            else:
                yield PendingStill(item, self._camera, _seconds(item) if self._timed else None)


class Decoder:
    """Frames of a stream, without those that damage has touched.

    A decoder conceals what is missing, and a concealed face is one that a detector may not find. So whatever
    comes from a damaged or missing unit up to the next keyframe is a :class:`Loss`.
    """

    def __init__(self) -> None:
        self._doubtful = True  # until the first keyframe: a stream may be joined in its middle

    def decode(self, packet: Any) -> Iterator[av.VideoFrame | Loss]:
        try:
            for frame in packet.decode():
                self._doubtful = frame.is_corrupt or (self._doubtful and not frame.key_frame)
                yield Loss(Reason.UNDECODABLE) if self._doubtful else frame
        except FFmpegError:
            self._doubtful = True
            yield Loss(Reason.UNDECODABLE)


def as_jpeg(packet: Any) -> Iterator[Any]:
    """An MJPEG packet is a JPEG file already; the demuxer's last one is empty."""
    if packet.size:
        yield packet


def still(
    payload: bytes, content_type: str, camera: Camera, captured_at: datetime, source: TimeSource
) -> Picture | Loss:
    """An encoded picture, byte for byte unless it has to be shrunk."""
    try:
        width, height = images.inspect(payload, content_type, max_pixels=MAX_PIXELS)
        fitted = _fitted(width, height, camera.long_side)
        if fitted != (width, height):
            image = images.resize(images.decode(payload, content_type, max_pixels=MAX_PIXELS), *fitted)
            payload, content_type = images.encode(image, camera.quality), "image/jpeg"
        return Picture(payload, content_type, *fitted, captured_at, source)
    except ImageError as error:
        return Loss(error.reason)


def _seconds(item: Any) -> float | None:
    """The stream's own time of a frame or packet; None where it has none."""
    return None if item.pts is None or item.time_base is None else float(item.pts * item.time_base)


def _encoded(frame: Any, camera: Camera, captured_at: datetime, source: TimeSource) -> Picture | Loss:
    """A decoded frame as JPEG, upright."""
    if frame.width * frame.height > MAX_PIXELS:
        return Loss(Reason.TOO_LARGE)
    width, height = _fitted(frame.width, frame.height, camera.long_side)
    image = frame.to_ndarray(format="bgr24", width=width, height=height, interpolation=Interpolation.AREA)
    if quarters := round(frame.rotation / 90) % 4:  # a phone's film lies on its side
        image = np.rot90(image, quarters)
        height, width = image.shape[:2]
    payload = images.encode(image, camera.quality)
    return Picture(payload, "image/jpeg", width, height, captured_at, source, transcoded=True)


def _fitted(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    """The size after shrinking to the long side; never enlarged."""
    scale = min(1.0, (long_side or max(width, height)) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
