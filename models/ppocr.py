"""PP-OCR's text detector: lettering of any kind, and licence plates as text of a plate's shape.

Method: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", 2020 (arXiv 1911.08947): the
network gives for each pixel how likely it lies in the shrunk kernel of a text; kernels are cut out at a threshold and
grown back. Each is taken as its rectangle of least area. Weight: ``weights.toml``. What it finds: ``docs/detectors.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest
from sfumato.models.runtime import Runtime
from sfumato.models.views import View, finest, views
from sfumato.schemas.detection import Detection, DetectorName, Target

LEAST = 16
"""Height of the smallest lettering that the network finds reliably in its input, in pixels (``ops/curve.py ppocr``)."""
USUAL = 12
"""Height of the smallest lettering looked for where the policy says nothing, in pixels of the picture."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels, blue first, as shares of 255: ImageNet's, in the order that PaddleOCR feeds them."""
KERNEL = 0.2
"""Pixels at least so likely belong to a kernel; the paper's 0.3 leaves more of faint plates out."""
UNCLIP = 2.0
"""A kernel grows on each side by its area × this ÷ its perimeter; the paper's 1.5 leaves edges of plates bare."""
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
Rectangle = tuple[tuple[float, float], tuple[float, float], float]
"""OpenCV's rotated rectangle: centre, width and height, angle in degrees."""


class PpOcr:
    name = DetectorName.PPOCR
    targets = frozenset({Target.TEXT, Target.LICENCE_PLATE})
    threshold = 0.5

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("ppocr", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["ppocr"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        wanted = smallest or [None] * len(pictures)
        return [self._detect(picture, least) for picture, least in zip(pictures, wanted, strict=True)]

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        scale = finest(picture, smallest, least=LEAST, usual=USUAL, long_side=self._long_side)
        found = [text for view in views(picture, scale) for text in self._look(picture, view)]
        texts = [text for text, _ in found]
        scores = [score for _, score in found]
        kept = cv2.dnn.NMSBoxesRotated(texts, scores, LOWEST_SCORE, OVERLAP) if found else ()
        return tuple(box for i in kept for box in _detections(texts[i], scores[i], picture))

    def _look(self, picture: Image, view: View) -> Iterator[tuple[Rectangle, float]]:
        """The texts of a view in pixels of the picture, and their scores."""
        (likelihood,) = self._runtime(_blob(view.cut(picture)))
        for ((x, y), (width, height), angle), score in _texts(likelihood[0, 0]):
            centre = (x / view.scale + view.x0, y / view.scale + view.y0)
            yield (centre, (width / view.scale, height / view.scale), angle), score


def _blob(part: Image) -> Array:
    mean, deviation = np.float32(MEAN), np.float32(DEVIATION)
    scaled = (part.astype(np.float32) - mean * 255) / (deviation * 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[np.newaxis])


def _texts(likelihood: Array) -> Iterator[tuple[Rectangle, float]]:
    """The grown rectangles of a map (height, width), in its pixels, and the mean of the map inside the kernels."""
    kernels = (likelihood >= KERNEL).astype(np.uint8)
    contours, _ = cv2.findContours(kernels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < SHORTEST:
            continue
        grown = width * height * UNCLIP / (width + height)  # both sides: area × UNCLIP ÷ perimeter, twice
        yield (centre, (width + grown, height + grown), angle), _score(likelihood, contour)


def _score(likelihood: Array, contour: NDArray[np.int32]) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, cv2.FILLED, offset=(-x, -y))
    return float(cv2.mean(likelihood[y : y + height, x : x + width], inside)[0])


def _detections(text: Rectangle, score: float, picture: Image) -> Iterator[Detection]:
    """The text, and the plate that it may be."""
    height, width = picture.shape[:2]
    corners = cv2.boxPoints(text).clip(0, (width, height))
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    if x1 <= x0 or y1 <= y0:
        return
    for target in (Target.TEXT, Target.LICENCE_PLATE):
        if target is Target.TEXT or _like_a_plate(text, width):
            yield Detection.model_construct(
                target=target,
                score=round(score, 3),
                box=(_tenth(x0), _tenth(y0), _tenth(x1), _tenth(y1)),
                outline=tuple((_tenth(x), _tenth(y)) for x, y in corners),
            )


def _like_a_plate(text: Rectangle, picture_width: int) -> bool:
    _, (width, height), angle = text
    long, short = max(width, height), min(width, height)
    tilt = angle if width >= height else angle + 90
    tilt = abs((tilt + 90) % 180 - 90)
    least, most = PLATE_ASPECT
    return bool(least <= long / short <= most and tilt <= PLATE_TILT and long <= PLATE_WIDTH * picture_width)


def _tenth(value: float) -> float:
    return round(float(value), 1)
