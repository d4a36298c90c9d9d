"""What breaks a camera's stream of pictures: a new run, a clock that jumps, another picture size, a cut.

Rule: no track is predicted beyond a cut or a new run, but its mask stays where it was until its time is over: the
camera may only have been bumped, or a lamp gone out (:meth:`~sfumato.models.tracks.Timeline.cut`). At a new run the
frames that wait are brought to their end first. A picture of another size keeps its tracks, scaled. What relies on the
picture standing still (``motion``) begins anew each time and fully masks until it has learnt.
"""

from __future__ import annotations

import math
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.schemas.frame import RawFrame

THUMBNAIL = (32, 18)
"""Width and height in which pictures are compared, in pixels."""
ALIKE = 0.4
"""Correlation of two thumbnails under which the scene is another one. Within one scene no pair of frames of the clip
``bikes`` is under 0.5, at its cuts none over 0.25 (``tests/test_scene.py``)."""
PLAIN = 4.0
"""A thumbnail whose grey levels (0 to 255) deviate less holds nothing to compare: night, fog, a covered lens."""


class Change(StrEnum):
    """How a picture differs from the one before it."""

    RUN = "run"
    """Another epoch, stills instead of units, frames read again, or a time that goes back: nothing follows on."""
    SIZE = "size"
    CUT = "cut"
    """Another scene: a cut, or a camera that was moved fast."""


class Scene:
    """Compares each picture of a camera with the one before it."""

    def __init__(self) -> None:
        self._run: tuple[int, bool] | None = None
        self._sequence = -1
        self._time = -np.inf
        self._size = (0, 0)
        self._thumbnail: NDArray[np.float32] | None = None

    def follow(self, frame: RawFrame, image: Image, time: float) -> Change | None:
        """Look at the next picture, taken at ``time`` (seconds); None for the first and where it goes on."""
        before, size, run = self._thumbnail, image.shape[:2], (frame.id.epoch, frame.unit is None)
        again = frame.unit is None and frame.id.sequence <= self._sequence  # units come in presentation order
        breaks = run != self._run or again or time < self._time
        resized = size != self._size
        self._run, self._sequence, self._time, self._size = run, frame.id.sequence, time, (size[0], size[1])
        self._thumbnail = _thumbnail(image)
        if before is None:
            return None
        if breaks:
            return Change.RUN
        if _correlation(before, self._thumbnail) < ALIKE:
            return Change.CUT
        return Change.SIZE if resized else None


def _thumbnail(image: Image) -> NDArray[np.float32]:
    """Every n-th pixel's green, which is most of its brightness, averaged: cheap, and free of the picture's noise."""
    step = max(1, min(image.shape[0] // (2 * THUMBNAIL[1]), image.shape[1] // (2 * THUMBNAIL[0])))
    green = np.ascontiguousarray(image[::step, ::step, 1])
    small: NDArray[np.float32] = cv2.resize(green, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    return small


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's, of thumbnails without their mean; 1 where one of them holds nothing to compare."""
    x, y = a.ravel(), b.ravel()
    power = float(x @ x), float(y @ y)
    if min(power) < PLAIN**2 * x.size:
        return 1.0
    return float(x @ y) / math.sqrt(power[0] * power[1])
