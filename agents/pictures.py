"""From a camera's packets to encoded stills: what a source hands to the ingestor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from sfumato.models import images
from sfumato.models.images import ImageError
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason

if TYPE_CHECKING:
    from sfumato.agents.cameras import Camera

MAX_PIXELS = 100_000_000
"""Larger pictures are dropped before they are converted."""


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


def seconds(item: Any) -> float | None:
    """The stream's own time of a frame or packet; None where it has none."""
    if isinstance(item, Loss) or item.pts is None or item.time_base is None:
        return None
    return float(item.pts * item.time_base)


def picture(item: Any, camera: Camera, captured_at: datetime, source: TimeSource) -> Picture | Loss:
    """A decoded frame encoded as JPEG, or a JPEG packet as it is."""
    if isinstance(item, av.Packet):
        return still(bytes(item), "image/jpeg", camera, captured_at, source)
    if item.width * item.height > MAX_PIXELS:
        return Loss(Reason.TOO_LARGE)
    width, height = _fitted(item.width, item.height, camera.long_side)
    image = item.to_ndarray(format="bgr24", width=width, height=height, interpolation=Interpolation.AREA)
    if quarters := round(item.rotation / 90) % 4:  # a phone's film lies on its side
        image = np.rot90(image, quarters)
        height, width = image.shape[:2]
    payload = images.encode(image, camera.quality)
    return Picture(payload, "image/jpeg", width, height, captured_at, source)


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


def _fitted(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    """The size after shrinking to the long side; never enlarged."""
    scale = min(1.0, (long_side or max(width, height)) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
