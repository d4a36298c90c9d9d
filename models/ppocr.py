"""PP-OCR's text detector: lettering of any kind, and licence plates as text of a plate's shape.

Method: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", 2020 (arXiv 1911.08947): the
network gives for each pixel how likely it lies in the shrunk kernel of a text; kernels are cut out at a threshold and
grown back. Each is taken as its rectangle of least area, which a plate is. Weight: ``weights.toml``. What it finds:
``docs/detectors.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import scales, weights
from sfumato.models.detectors import DetectorOptions, Image, Smallest, Threshold
from sfumato.models.runtime import Runtime
from sfumato.models.scales import Corners
from sfumato.models.streams import Streams
from sfumato.models.tiles import Boxes, Scores
from sfumato.schemas.detection import Detection, DetectorName, Target

SEEN = 16
"""Lettering that is so high in the input, in pixels, is found: ``python ops/curve.py ppocr``."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels, blue first, as shares of 255: ImageNet's, in the order that PaddleOCR feeds them."""
KERNEL = 0.2
"""Pixels at least so likely belong to a kernel: the paper's."""
UNCLIP = 2.0
"""Each side of a kernel moves out by its area * this / its perimeter; the paper's 1.5 leaves edges of plates bare."""
SHORTEST = 2.0
"""Kernels with a shorter side are noise, in pixels of the input."""
OVERLAP = 0.5
"""Rectangles that overlap a better one by more than this (intersection over union) are the same text."""

PLATE_ASPECT = (1.2, 9.0)
"""Long ÷ short side of a text that may be a plate: from a motorcycle's two lines to a worn European plate's one."""
PLATE_TILT = 45.0
"""Its long side leaves the horizontal by no more than this, in degrees."""
PLATE_WIDTH = 0.75
"""Its long side, as a share of the picture's width, is no more than this."""

Array = NDArray[np.float32]


class PpOcr:
    name = DetectorName.PPOCR
    targets = frozenset({Target.TEXT, Target.LICENCE_PLATE})
    threshold = Threshold(0.5)

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("ppocr", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["ppocr"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options)
        self._streams = Streams(options.streams)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Raises :class:`~sfumato.models.tiles.TooManyViews`."""
        return self._streams.look(self._detect, pictures, smallest)

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        finest = scales.finest(picture, smallest, SEEN, self._long_side)
        found = scales.look(picture, finest, self._find, OVERLAP)
        return tuple(
            scales.detection(target, *text)
            for text in zip(*found, strict=True)
            for target in (Target.TEXT, Target.LICENCE_PLATE)
            if target is Target.TEXT or like_a_plate(text[1], picture.shape[1])
        )

    def _find(self, pixels: Image) -> tuple[Boxes, Corners, Scores]:
        (likelihood,) = self._runtime(_blob(pixels))
        corners, scores = _texts(likelihood[0, 0])
        return np.concatenate([corners.min(1), corners.max(1)], 1), corners, scores


def like_a_plate(corners: Corners, picture_width: int) -> bool:
    """Whether a text of these four corners (4, 2) has the shape of a licence plate."""
    sides = np.roll(corners, -1, 0)[:2] - corners[:2]
    lengths = np.hypot(*sides.T)
    short, long = sorted(lengths)
    if short == 0:
        return False
    along = sides[lengths.argmax()]
    tilt = abs(np.degrees(np.arctan2(along[1], along[0])))
    least, most = PLATE_ASPECT
    return bool(
        least <= long / short <= most and min(tilt, 180 - tilt) <= PLATE_TILT and long <= PLATE_WIDTH * picture_width
    )


def _blob(part: Image) -> Array:
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    scaled = (part.astype(np.float32) - mean * 255) / (deviation * 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[np.newaxis])


def _texts(likelihood: Array) -> tuple[Corners, Scores]:
    """The grown rectangles of a map (height, width), in its pixels, and the mean of the map inside each kernel."""
    kernels = (likelihood >= KERNEL).astype(np.uint8)
    contours, _ = cv2.findContours(kernels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners, scores = [], []
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) >= SHORTEST:
            grown = width * height * UNCLIP / (width + height)  # by area * UNCLIP / perimeter on each side
            corners.append(cv2.boxPoints((centre, (width + grown, height + grown), angle)))
            scores.append(_score(likelihood, contour))
    return np.array(corners, np.float64).reshape(-1, 4, 2), np.array(scores, np.float64)


def _score(likelihood: Array, contour: NDArray[np.int32]) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, cv2.FILLED, offset=(-x, -y))
    return float(cv2.mean(likelihood[y : y + height, x : x + width], inside)[0])
