"""Masked pictures to H.264, camera by camera. One line in ``ENCODERS`` adds an encoder.

Every picture gives one unit at once: no B-frames, no lookahead. Only pixels go in, so nothing of the input's stream
(parameter sets, SEI, user data) can come out.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType

from sfumato.models.detectors import Image
from sfumato.schemas.fault import Fault
from sfumato.schemas.policy import Output
from sfumato.schemas.unit import AnonymizedUnit

ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "tune": "zerolatency", "forced-idr": "1", "threads": "1"},
    "h264_nvenc": {"preset": "p3", "tune": "ull", "zerolatency": "1", "delay": "0", "forced-idr": "1", "bf": "0"},
}
"""FFmpeg's names and the options under which each gives a unit per picture."""
TICKS = Fraction(1, 90_000)
"""Time base of cameras that send stills."""
ANY_RATE = 25
"""Frames per second that rate control assumes; the true times are in the units."""
STEP_BACK = 1
"""Seconds. Times that go back by no more than this are moved on tick by tick until they have caught up; further back
they are another clock's, and no keyframe would be due before they had."""
BT601 = 6
"""Colour matrix, primaries and transfer of what comes out (ITU-T H.273: SMPTE 170M)."""


Form = tuple[Output, int, int, Fraction]
"""What an encoder is made for: output, width and height in pixels, time base."""


class EncoderError(Fault, RuntimeError):
    """An encoder cannot be used; the text says what to do."""


def check(name: str) -> None:
    """:class:`EncoderError` where the encoder is unknown or does not work on this machine."""
    if name not in ENCODERS:
        raise EncoderError(f"unknown H.264 encoder {name!r}; one of: {', '.join(sorted(ENCODERS))}")
    try:
        Encoder(name, Output(), 256, 256, TICKS).encode(np.zeros((256, 256, 3), np.uint8), 0)
    except (FFmpegError, ValueError, EncoderError) as error:
        raise EncoderError(f"H.264 encoder {name} does not work here: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One H.264 access unit, Annex B, with parameter sets in front of a keyframe; the size of its picture in pixels."""

    payload: bytes
    unit: AnonymizedUnit
    width: int
    height: int


class Encoders:
    """The encoders of all cameras. A camera's run ends with its size, its policy's output, its time base or the source
    of its times, where they go back by more than :data:`STEP_BACK`, and when it is the one heard least recently of more
    than ``limit``."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._encoders: dict[str, Encoder] = {}

    def encode(
        self, camera: str, image: Image, output: Output, pts: int, time_base: Fraction, source: object = None
    ) -> Encoded:
        """The picture as the camera's next unit. Pictures of one camera come one after the other. ``source``: within
        what ``pts`` runs on, as the epoch.

        An odd width or height loses its last column or row. Raises :class:`EncoderError` or what FFmpeg raises; the
        camera's run has ended then.
        """
        height, width = (side - side % 2 for side in image.shape[:2])
        encoder = self._encoders.pop(camera, None)
        if encoder is None or not encoder.fits((output, width, height, time_base), source, pts):
            encoder = Encoder(self._name, output, width, height, time_base, source)
        encoded = encoder.encode(image[:height, :width], pts)
        self._encoders[camera] = encoder
        if len(self._encoders) > self._limit:
            self.close(next(iter(self._encoders)))
        return encoded

    def close(self, camera: str) -> None:
        """End the camera's run, if there is one."""
        self._encoders.pop(camera, None)


class Encoder:
    """One run: a stream that begins with a keyframe. Sides in pixels, even."""

    def __init__(
        self, name: str, output: Output, width: int, height: int, time_base: Fraction, source: object = None
    ) -> None:
        self.stream = secrets.token_hex(8)
        self._form: Form = (output, width, height, time_base)
        self._source = source
        self._number = 0
        self._pts: int | None = None
        self._keyframe_at = 0
        context: Any = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = time_base, Fraction(ANY_RATE)
        context.bit_rate = output.bitrate * 1000
        context.gop_size = 2**31 - 1  # keyframes come when they are due, below
        context.max_b_frames = 0
        context.colorspace = context.color_primaries = context.color_trc = BT601
        context.options = ENCODERS[name]
        self._context = context

    def fits(self, form: Form, source: object, pts: int) -> bool:
        """Whether the run may go on with such a picture."""
        back = 0 if self._pts is None else (self._pts - pts) * self._form[3]
        return self._form == form and self._source == source and back <= STEP_BACK

    def encode(self, image: Image, pts: int) -> Encoded:
        """``image``: uint8, (height, width, 3), BGR. ``pts`` that does not rise is moved on by one tick."""
        output, width, height, time_base = self._form
        pts = pts if self._pts is None else max(pts, self._pts + 1)
        due = self._pts is None or (pts - self._keyframe_at) * time_base >= output.keyframe_interval
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601")
        frame.pts, frame.time_base = pts, time_base
        frame.pict_type = PictureType.I if due else PictureType.NONE
        packets = self._context.encode(frame)
        keyframe = len(packets) == 1 and packets[0].is_keyframe  # also unasked: x264 begins anew where a scene does
        if len(packets) != 1 or (due and not keyframe):
            raise EncoderError("the encoder did not answer a picture with one unit of the kind asked for")
        if keyframe:
            self._keyframe_at = pts
        self._pts = pts
        unit = AnonymizedUnit(pts, time_base, keyframe, self.stream, self._number)
        self._number += 1
        return Encoded(bytes(packets[0]), unit, width, height)
