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

from sfumato.models import scales, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest, Threshold
from sfumato.models.runtime import Runtime
from sfumato.models.scales import Corners
from sfumato.models.streams import Streams
from sfumato.models.tiles import Boxes, Scores
from sfumato.schemas.detection import Detection, DetectorName, Target

SEEN = 16
"""A plate that is so high in the input, in pixels, is found: ``python ops/curve.py clp``."""
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
    threshold = Threshold(0.1)

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("clp", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["clp"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options, ("loc", "conf", "landms"))
        self._streams = Streams(options.streams)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Raises :class:`~sfumato.models.tiles.TooManyViews`."""
        return self._streams.look(self._detect, pictures, smallest)

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        finest = scales.finest(picture, smallest, SEEN, self._long_side)
        found = scales.look(picture, finest, self._find, OVERLAP)
        return tuple(scales.detection(Target.LICENCE_PLATE, *plate) for plate in zip(*found, strict=True))

    def _find(self, pixels: Image) -> tuple[Boxes, Corners, Scores]:
        location, confidence, landmarks = self._runtime(cv2.dnn.blobFromImage(pixels, mean=MEAN))
        return _decode(location[0], confidence[0], landmarks[0], _priors(*pixels.shape[:2]))


def _decode(
    location: NDArray[np.float32], confidence: NDArray[np.float32], landmarks: NDArray[np.float32], priors: Array
) -> tuple[Boxes, Corners, Scores]:
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
