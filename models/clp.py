"""CLP, a licence plate detector with four corners.

Method: Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019 (arXiv 1905.00641), trained on
Chinese plates instead of faces; its priors and variances are those of the package that carries the weight.
Weight: ``weights.toml``; where it comes from: ``docs/licences.md``. What it finds: ``docs/detectors.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest
from sfumato.models.runtime import Runtime
from sfumato.models.views import View, finest, views
from sfumato.schemas.detection import Detection, DetectorName, Target

LEAST = 16
"""Height of the smallest plate that the network finds reliably in its input, in pixels (``ops/curve.py clp``)."""
USUAL = 12
"""Height of the smallest plate looked for where the policy says nothing, in pixels of the picture."""
MEAN = (104, 117, 123)
"""Subtracted from blue, green, red."""
PRIORS = {8: (24, 48), 16: (96, 192), 32: (384, 768)}
"""Pixels of the input per cell of each output map: sides of its two square priors."""
CENTRE, SIZE = 0.1, 0.2
"""The variances: what the network's outputs are multiplied with."""
OVERLAP = 0.4
"""Boxes that overlap a better one by more than this (intersection over union) are the same plate."""

Array = NDArray[np.float64]


class Clp:
    name = DetectorName.CLP
    targets = frozenset({Target.LICENCE_PLATE})
    threshold = 0.2

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("clp", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["clp"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options, ("loc", "conf", "landms"))

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        wanted = smallest or [None] * len(pictures)
        return [self._detect(picture, least) for picture, least in zip(pictures, wanted, strict=True)]

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        scale = finest(picture, smallest, least=LEAST, usual=USUAL, long_side=self._long_side)
        found = [self._look(picture, view) for view in views(picture, scale)]
        boxes, corners, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        height, width = picture.shape[:2]
        boxes = boxes.clip(0, (width, height, width, height))
        corners = corners.clip(0, (width, height))
        return tuple(_plate(boxes[i], corners[i], scores[i]) for i in _best(boxes, scores))

    def _look(self, picture: Image, view: View) -> tuple[Array, Array, Array]:
        """Boxes (n, 4), corners (n, 4, 2) in pixels of the picture, and scores (n,)."""
        part = view.cut(picture)
        location, confidence, landmarks = self._runtime(cv2.dnn.blobFromImage(part, mean=MEAN))
        boxes, corners, scores = _decode(location[0], confidence[0], landmarks[0], _priors(*part.shape[:2]))
        start = np.array((view.x0, view.y0), np.float64)
        return boxes / view.scale + np.tile(start, 2), corners / view.scale + start, scores


def _decode(
    location: NDArray[np.float32], confidence: NDArray[np.float32], landmarks: NDArray[np.float32], priors: Array
) -> tuple[Array, Array, Array]:
    """The network's outputs for each prior to boxes, corners and scores, in pixels of the input."""
    scores = confidence[:, 1].astype(np.float64)
    kept = scores >= LOWEST_SCORE
    centre, side = priors[kept, :2], priors[kept, 2:]
    middle = centre + location[kept, :2] * CENTRE * side
    half = side * np.exp(location[kept, 2:] * SIZE) / 2
    corners = centre[:, None] + landmarks[kept].reshape(-1, 4, 2) * CENTRE * side[:, None]
    return np.concatenate([middle - half, middle + half], 1), corners, scores[kept]


@lru_cache(64)
def _priors(height: int, width: int) -> Array:
    """Shape (n, 4): centre x y and sides of each prior, in pixels of an input of that size, in the network's order."""
    priors = []
    for step, sides in PRIORS.items():
        y, x = (np.mgrid[: height // step, : width // step] + 0.5) * step
        for_each_side = [np.stack([x, y, np.full_like(x, side), np.full_like(x, side)], -1) for side in sides]
        priors.append(np.stack(for_each_side, 2).reshape(-1, 4))
    return np.concatenate(priors)


def _best(boxes: Array, scores: Array) -> list[int]:
    """Which boxes remain once the worse ones of the same plate are gone."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = cv2.dnn.NMSBoxes(np.concatenate([boxes[:, :2], sides], 1).tolist(), scores.tolist(), LOWEST_SCORE, OVERLAP)
    return [int(i) for i in kept if sides[i].min() > 0]


def _plate(box: Array, corners: Array, score: float) -> Detection:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    return Detection.model_construct(
        target=Target.LICENCE_PLATE,
        score=round(float(score), 3),
        box=(x0, y0, x1, y1),
        outline=tuple((round(float(x), 1), round(float(y), 1)) for x, y in corners),
    )
