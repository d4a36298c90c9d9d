"""What breaks a camera's stream of pictures: a new run, a clock that jumps, another picture size, a cut.

Rule: no track is predicted beyond a cut or a new run, but its mask stays where it was until its time is over: the
camera may only have been bumped, or a lamp gone out (:meth:`~sfumato.models.tracks.Timeline.cut`). At a new run the
frames that wait are brought to their end first. A picture of another size keeps its tracks, scaled. What relies on the
picture standing still (``motion``) begins anew each time and fully masks until it has learnt.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.schemas.frame import RawFrame, TimeSource

THUMBNAIL = (32, 18)
"""Width and height in which pictures are compared, in pixels."""
ALIKE = 0.4
"""Correlation of two thumbnails under which the scene is another one. Within one scene no pair of frames of the clip
``bikes`` is under 0.5, at its cuts none over 0.25 (``tests/test_scene.py``)."""
PLAIN = 4.0
"""A thumbnail whose grey levels (0 to 255) deviate less holds nothing to compare: night, fog, a covered lens."""


GAP = 5.0
"""A gap between two stills is none of a slow camera's where it is longer than so many usual ones ..."""
USUAL = 15
"""... which is the median of so many."""


class Change(StrEnum):
    """How a picture differs from the one before it."""

    RUN = "run"
    """Another epoch, stills instead of units, stills by another clock, frames read again, or a time that goes back:
    nothing follows on."""
    CLOCK = "clock"
    """Of stills: so long without a picture, though none is missing, that the clock may have been set."""
    SIZE = "size"
    CUT = "cut"
    """Another scene: a cut, or a camera that was moved fast."""


class Scene:
    """Compares each picture of a camera with the one before it."""

    def __init__(self) -> None:
        self._run: tuple[int, TimeSource | None] | None = None
        self._sequence = -1
        self._time = -np.inf
        self._size = (0, 0)
        self._thumbnail: NDArray[np.float32] | None = None
        self._gaps: deque[float] = deque(maxlen=USUAL)

    def follow(self, frame: RawFrame, image: Image, time: float, hold: float) -> Change | None:
        """Look at the next picture, taken at ``time`` (seconds); None for the first and where it goes on. ``hold``:
        seconds for which masks are held; no shorter gap is a :attr:`Change.CLOCK`."""
        still = frame.unit is None  # the times of units are their stream's own
        before, size, run = self._thumbnail, image.shape[:2], (frame.id.epoch, frame.time_source if still else None)
        again = still and frame.id.sequence <= self._sequence  # units come in presentation order
        breaks = run != self._run or again or time < self._time
        set_ahead = still and not breaks and self._set_ahead(frame.id.sequence, time, hold)
        resized = size != self._size
        self._run, self._sequence, self._time, self._size = run, frame.id.sequence, time, (size[0], size[1])
        self._thumbnail = _thumbnail(image)
        if before is None:
            return None
        if breaks:
            return Change.RUN
        if _correlation(before, self._thumbnail) < ALIKE:
            return Change.CUT
        if resized:
            return Change.SIZE
        return Change.CLOCK if set_ahead else None

    def _set_ahead(self, sequence: int, time: float, hold: float) -> bool:
        """Whether the clock seems to have been set ahead, as by NTP, since the still before."""
        gap, usual = time - self._time, float(np.median(self._gaps)) if self._gaps else math.inf
        self._gaps.append(gap)
        return gap > max(hold, GAP * usual) and sequence == self._sequence + 1


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
