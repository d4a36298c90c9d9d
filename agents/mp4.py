"""An ordinary MP4 file of pictures that come one by one: H.264, yuv420p, one size, index in front."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from sfumato.schemas.frame import AnonymizedFrame, RawFrame

CLOCK = 90_000
"""Ticks per second."""
SHORTEST = 0.001
"""Seconds between two pictures at least, where their times say less."""
FARTHEST_BACK, FARTHEST_AHEAD = 10.0, 86_400.0
"""Seconds; where H.264's own time jumps farther it is wrong, and counts anew from the capture time."""
CRF = "20"
"""x264's constant quality."""
PRESET = "veryfast"
KEYFRAME_INTERVAL = 100
"""Frames between keyframes at most: how finely a player can seek."""
USUAL_FPS = 25
"""For x264's level alone; the timestamps are the pictures' own."""


class Timeline:
    """When each picture is shown, in seconds from the first: at its capture time.

    H.264 has times of its own (``ce_pts``), even ones, which count within an epoch. An epoch begins at its capture
    time, or right after the one before where that is later, as with recordings that were ingested faster than filmed.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """Of the newest picture."""
        self._began: float | None = None
        self._epoch = -1
        self._shift = 0.0

    def place(self, frame: AnonymizedFrame | RawFrame) -> float:
        """The next picture's time; always later than the last one's."""
        captured = frame.captured_at.timestamp()
        if self._began is None:
            self._began, earliest = captured, 0.0
        else:
            earliest = self.seconds + SHORTEST
        at = captured - self._began
        if (unit := frame.unit) is not None:
            jump = self._shift + unit.seconds - self.seconds
            if frame.id.epoch != self._epoch or not -FARTHEST_BACK < jump < FARTHEST_AHEAD:
                self._epoch, self._shift = frame.id.epoch, max(at, earliest) - unit.seconds
            at = self._shift + unit.seconds
        self.seconds = max(at, earliest)
        return self.seconds


class Film:
    """The file, under another name beside it until :meth:`finish`; a context manager that otherwise deletes it. Or
    something to write to, such as memory, whose index is then at its end.

    The first picture gives the size. Others are scaled into it, with black bars where their shape differs.
    """

    def __init__(self, target: Path | BinaryIO) -> None:
        self.frames = 0
        self.size = (0, 0)
        """Width and height in pixels, both even; 0 before the first picture."""
        self._target = target
        self._part = target.with_name(f".{target.name}.{os.getpid()}.part") if isinstance(target, Path) else None
        self._output: Any = None
        self._stream: Any = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            with suppress(av.FFmpegError):
                self._output.close()
            self._output = None
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def add(self, picture: av.VideoFrame, at: float) -> None:
        """Append a picture shown ``at`` seconds from the beginning, later than the one before."""
        if self._output is None:
            self._open(picture)
        fitted = _fitted(picture, *self.size)
        fitted.pts, fitted.time_base = round(at * CLOCK), Fraction(1, CLOCK)
        fitted.pict_type = av.video.frame.PictureType.NONE  # x264 chooses, not the encoder before it
        self._output.mux(self._stream.encode(fitted))
        self.frames += 1

    def finish(self) -> None:
        """Complete the file and give it its name; there must be a picture in it."""
        self._output.mux(self._stream.encode(None))
        self._output.close()
        self._output = None
        if self._part is not None and isinstance(self._target, Path):
            os.replace(self._part, self._target)

    def _open(self, picture: av.VideoFrame) -> None:
        self.size = _even(picture.width), _even(picture.height)
        if self._part is not None:
            self._output = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
        else:
            self._output = av.open(self._target, "w", format="mp4")
        self._stream = stream = self._output.add_stream("libx264", rate=USUAL_FPS)
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.gop_size = KEYFRAME_INTERVAL
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        stream.options = {"crf": CRF, "preset": PRESET}


def _fitted(picture: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The picture in this size, in yuv420p by BT.601."""
    colours: dict[str, Any] = {
        "format": "yuv420p",
        "dst_colorspace": Colorspace.ITU601,
        "dst_color_range": ColorRange.MPEG,
    }
    if (_even(picture.width), _even(picture.height)) == (width, height):
        return picture.reformat(width, height, **colours)
    scale = min(width / picture.width, height / picture.height)
    inner = min(width, _even(picture.width * scale)), min(height, _even(picture.height * scale))
    image = picture.reformat(*inner, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = image
    return av.VideoFrame.from_ndarray(canvas, format="rgb24").reformat(**colours)


def _even(side: float) -> int:
    """yuv420p has one colour for two pixels."""
    return max(2, int(side) // 2 * 2)
