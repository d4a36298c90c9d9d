"""CenterFace, the default face detector.

Method: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
(arXiv 1911.03599). Weight: ``weights.toml``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import images, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest
from sfumato.models.runtime import Runtime
from sfumato.schemas.detection import Detection, DetectorName, Target

STRIDE = 4
"""Pixels of the input per cell of the output maps."""
MULTIPLE = 32
"""Input sides are padded to a multiple of this, in pixels."""
OVERLAP = 0.3
"""Boxes that overlap a better one by more than this (intersection over union) are the same face."""


class CenterFace:
    name = DetectorName.CENTERFACE
    targets = frozenset({Target.FACE})
    threshold = 0.1

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("centerface", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["centerface"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, image: Image) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        scale = min(1.0, self._long_side / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = images.resize(image, *size)
        heat, size_map, offset = (output[0] for output in self._runtime(_blob(image))[:3])
        boxes, scores = _decode(heat[0], size_map, offset)
        boxes /= (image.shape[1] / width, image.shape[0] / height) * 2
        boxes = boxes.clip(0, (width, height, width, height))
        return tuple(
            Detection.model_construct(target=Target.FACE, score=round(float(score), 3), box=_rounded(box))
            for box, score in zip(boxes, scores, strict=True)
            if box[2] > box[0] and box[3] > box[1]
        )


def _blob(image: Image) -> NDArray[np.float32]:
    """Shape (1, 3, height, width), channels red, green, blue; zeros to the right and below up to the multiple."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)))
    return np.asarray(cv2.dnn.blobFromImage(padded, swapRB=True), np.float32)


def _decode(
    heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Maps of the network to boxes (n, 4) as x0 y0 x1 y1 in input pixels, and scores (n,)."""
    rows, columns = np.nonzero(heat >= LOWEST_SCORE)
    scores = heat[rows, columns]
    heights, widths = np.exp(size[:, rows, columns].astype(np.float64)) * STRIDE
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE - heights / 2
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE - widths / 2
    kept = np.array(
        cv2.dnn.NMSBoxes(np.stack([x, y, widths, heights], 1).tolist(), scores.tolist(), LOWEST_SCORE, OVERLAP),
        dtype=int,
    ).reshape(-1)
    return np.stack([x, y, x + widths, y + heights], 1)[kept].reshape(-1, 4), scores[kept]


def _rounded(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    return x0, y0, x1, y1
