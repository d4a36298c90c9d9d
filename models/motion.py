"""The target ``motion``: whatever moves in front of a fixed camera, by background subtraction.

OpenCV's MOG2 (Zivkovic, ICPR 2004), one model per camera, on the picture shrunk by area averaging so far that the
smallest object to be caught keeps :data:`SMALLEST_SIDE` pixels. It needs no weights and finds people of ten pixels. It
finds only what differs from the background it has learnt: who stands still from before the warm-up until its end is
background, and who stops in view becomes background after about :data:`FADE` seconds.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import Masking

WARM_UP_SECONDS = 5.0
WARM_UP_FRAMES = 25
"""Until the background is known, for both so many seconds and so many frames, pictures are fully masked."""
FADE = 60.0
"""Seconds after which something that stopped counts as background."""
BACKGROUND = 0.5
"""MOG2's backgroundRatio: only what has been there for half of the time is background."""
SMALLEST = 10
"""Height of the smallest object to be caught where the policy does not say, in pixels of the picture."""
SMALLEST_SIDE = 4
"""Its height in the shrunk picture."""
MARGIN = 2
"""Pixels of the shrunk picture by which what moves is grown on each side."""
MOST_CHANGED = 0.5
"""Where more of the picture changed, the camera was moved or the light switched: the background is learnt anew."""
MOST_BOXES = 100
"""Neighbours are merged until there are no more boxes."""
DEVIATIONS = 4.0
"""What differs from the background by more standard deviations moves (MOG2's default). Shadows count as what moves."""
LEAST_DEVIATION = 6.0
"""The least standard deviation of the background, in grey levels of 0 to 255. With MOG2's default, 2, an encoder's
noise that comes and goes with its keyframes counts as moving."""

FULL = 0.5
"""A box of which less moves is cut in two: what moves together need not be one thing."""

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the shrunk picture."""


class Motion:
    """The background of one camera, and what differs from it. Give it each picture once, in order."""

    def __init__(self) -> None:
        self._model: Any = None
        self._size = (0, 0)
        self._time = 0.0
        self._since = 0.0
        self._seen = 0

    def reset(self) -> None:
        """Forget the background."""
        self._model = None

    def detect(self, image: Image, time: float, masking: Masking) -> tuple[Detection, ...] | None:
        """What moves in the picture taken at ``time`` (seconds), in its pixels; None while the background is learnt."""
        height, width = image.shape[:2]
        scale = min(1.0, SMALLEST_SIDE / (masking.smallest or SMALLEST))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if self._model is None or size != self._size or time < self._time:
            self._begin(size, time)
        moving = self._subtract(cv2.resize(image, size, interpolation=cv2.INTER_AREA), time)
        if np.count_nonzero(moving) > MOST_CHANGED * moving.size and not self._learning(time):
            self._begin(size, time)
        if self._learning(time):
            return None
        across, down = width / size[0], height / size[1]
        return tuple(
            Detection(target=Target.MOTION, score=1.0, box=(x0 * across, y0 * down, x1 * across, y1 * down))
            for x0, y0, x1, y1 in regions(moving)
        )

    def _begin(self, size: tuple[int, int], time: float) -> None:
        self._model = cv2.createBackgroundSubtractorMOG2(varThreshold=DEVIATIONS**2, detectShadows=True)
        self._model.setBackgroundRatio(BACKGROUND)
        self._model.setVarMin(LEAST_DEVIATION**2)
        self._size, self._time, self._since, self._seen = size, time, time, 0

    def _subtract(self, image: Image, time: float) -> NDArray[np.uint8]:
        """255 where something moves, else 0."""
        self._seen += 1
        # While learning all frames weigh the same; then a new thing needs FADE seconds for its share of the weight.
        rate = 1.0 - math.exp((time - self._time) * math.log(1 - BACKGROUND) / FADE)
        mask = self._model.apply(image, learningRate=1 / self._seen if self._learning(time) else rate)
        self._time = time
        moving: NDArray[np.uint8] = np.where(mask > 0, 255, 0).astype(np.uint8)  # 127: a shadow
        return moving

    def _learning(self, time: float) -> bool:
        return time - self._since < WARM_UP_SECONDS or self._seen <= WARM_UP_FRAMES


def regions(moving: NDArray[np.uint8]) -> list[Region]:
    """Boxes that cover what moves, grown by the margin; at most :data:`MOST_BOXES`. Specks are left out."""
    joined = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= SMALLEST_SIDE
    kept[0] = False  # the background
    solid = np.where(kept[labels], 255, 0).astype(np.uint8)
    margin = MARGIN
    while True:
        grown = cv2.dilate(solid, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
        if count - 1 <= MOST_BOXES:
            found = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]
            return _cut([(labels == number, box) for number, box in enumerate(found, 1)])
        margin *= 2


def _cut(found: list[tuple[NDArray[np.bool_], Region]]) -> list[Region]:
    """Boxes that are half empty cut in two, and again, as long as there may be more. ``found``: masks with the box
    that each fills."""
    done: list[Region] = []
    while found:
        mask, (x0, y0, x1, y1) = found.pop(0)
        inside = mask[y0:y1, x0:x1]
        if np.count_nonzero(inside) >= FULL * inside.size or len(done) + len(found) + 2 > MOST_BOXES:
            done.append((x0, y0, x1, y1))
        elif x1 - x0 > y1 - y0:
            middle = (x0 + x1) // 2
            found += [(mask, _fitted(mask, part)) for part in ((x0, y0, middle, y1), (middle, y0, x1, y1))]
        else:
            middle = (y0 + y1) // 2
            found += [(mask, _fitted(mask, part)) for part in ((x0, y0, x1, middle), (x0, middle, x1, y1))]
    return done


def _fitted(mask: NDArray[np.bool_], region: Region) -> Region:
    """The smallest box in the region that holds what the mask has there."""
    x0, y0, x1, y1 = region
    left, top, width, height = cv2.boundingRect(mask[y0:y1, x0:x1].astype(np.uint8))
    return x0 + left, y0 + top, x0 + left + width, y0 + top + height
