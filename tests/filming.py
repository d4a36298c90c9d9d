"""Anonymized H.264 as the anonymizer's encoder makes it: for tests of its consumers."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import av
import numpy as np

from sfumato.models.detectors import Image
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.unit import H264, AnonymizedUnit

CLOCK = Fraction(1, 90_000)
SIZE = (320, 180)
BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)


def shade(sequence: int) -> int:
    """The brightness by which a test knows a picture again: steps of 10, every 20 pictures anew."""
    return 30 + sequence % 20 * 10


def plain(brightness: int, size: tuple[int, int] = SIZE) -> Image:
    return np.full((size[1], size[0], 3), brightness, np.uint8)


class Encoder:
    """One run of an encoder: keyframes every ``interval`` pictures, no B-frames."""

    def __init__(self, camera: str, size: tuple[int, int] = SIZE, interval: int = 10, fps: int = 25) -> None:
        self.camera = camera
        self.stream = uuid.uuid4().hex
        self._size = size
        self._fps = fps
        self._number = 0
        self._context: Any = av.CodecContext.create("libx264", "w")
        self._context.width, self._context.height = size
        self._context.pix_fmt = "yuv420p"
        self._context.time_base = CLOCK
        self._context.framerate = fps
        self._context.gop_size = interval
        self._context.max_b_frames = 0
        self._context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "crf": "4",
            "x264-params": "scenecut=0:threads=1",
        }

    def film(self, *sequences: int, epoch: int = 1, began: datetime | None = None, **changes: Any) -> list[Any]:
        """One unit per picture of these sequences, captured at the encoder's speed; :func:`shade` tells them apart."""
        return [self.unit(plain(shade(n), self._size), n, epoch, began or BEGAN, **changes) for n in sequences]

    def unit(self, image: Image, sequence: int, epoch: int, began: datetime, **changes: Any) -> AnonymizedFrame:
        pts = sequence * 90_000 // self._fps
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts, frame.time_base = pts, CLOCK
        (packet,) = self._context.encode(frame)
        number, self._number = self._number, self._number + 1
        width, height = self._size
        return AnonymizedFrame(
            id=FrameId(self.camera, epoch, sequence),
            captured_at=changes.pop("captured_at", began + timedelta(seconds=sequence / self._fps)),
            time_source=TimeSource.ARRIVAL,
            width=width,
            height=height,
            content_type=H264,
            payload=bytes(packet),
            outcome=changes.pop("outcome", Outcome.MASKED),
            reason=changes.pop("reason", None),
            policy_version=changes.pop("policy_version", 1),
            detections=(),
            unit=AnonymizedUnit(pts, CLOCK, packet.is_keyframe, self.stream, number),
        )
