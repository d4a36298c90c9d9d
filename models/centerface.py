"""CenterFace, the default face detector.

Method: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
(arXiv 1911.03599). Weight: ``weights.toml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import tiles, weights
from sfumato.models.boxes import Box
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest, Threshold
from sfumato.models.runtime import Runtime
from sfumato.models.streams import Streams
from sfumato.models.tiles import Boxes, Scores, View
from sfumato.schemas.detection import Detection, DetectorName, Target

STRIDE = 4
"""Pixels of the input per cell of the output maps."""
MULTIPLE = 32
"""Input sides are padded to a multiple of this, in pixels."""
SEEN = 16
"""A face that is so high in the input, in pixels, is found: ``python ops/curve.py centerface``."""
MOST_PIXELS = 1280 * 736
"""Of one inference where the policy says how small a face may be; what needs more is cut into tiles."""
OVERLAP = 0.3
"""Boxes that overlap a better one by more than this (intersection over union) are the same face."""
AROUND = 2.0
"""What is looked at for a face's points: a square of so many times the box's longer side ..."""
CLOSE = 160
"""... brought to this side, in pixels."""

Points = NDArray[np.float64]
"""Shape (n, 2): x and y in pixels."""


class CenterFace:
    name = DetectorName.CENTERFACE
    targets = frozenset({Target.FACE})
    threshold = Threshold(0.1, (24, 0.15), (40, 0.2))

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("centerface", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["centerface"].sha256
        self._long_side = options.long_side
        self._runtime = Runtime(path, options)
        self._streams = Streams(options.streams)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Raises :class:`~sfumato.models.tiles.TooManyViews`."""
        return self._streams.look(self._detect, pictures, smallest)

    def points(self, picture: Image, box: Box) -> Points:
        """Eyes, nose tip and corners of the mouth of the face in a box, in pixels of the picture, shape (5, 2): those
        on the left of the picture first. The box is looked at again by itself, at one size, and judges no face."""
        x0, y0, x1, y1 = box
        side = AROUND * max(x1 - x0, y1 - y0)
        scale = CLOSE / side
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
        shift = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
        close = cv2.warpAffine(picture, shift, (CLOSE, CLOSE), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        heat, size, offset, marks = (output[0] for output in self._runtime(_blob(np.asarray(close, np.uint8))))
        return _points(heat[0], size, offset, marks) / scale + (left, top)

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        height, width = picture.shape[:2]
        scale = min(1.0, self._long_side / max(height, width)) if smallest is None else SEEN / smallest
        chosen = whole(width, height, scale) if smallest is None else views(width, height, scale)
        boxes, scores = tiles.look(picture, chosen, self._find, OVERLAP, self.threshold)
        return tiles.detections(Target.FACE, boxes, scores)

    def _find(self, pixels: Image) -> tuple[Boxes, Scores]:
        heat, size, offset = (output[0] for output in self._runtime(_blob(pixels))[:3])
        return _decode(heat[0], size, offset)


def whole(width: int, height: int, scale: float) -> list[View]:
    return [View((0, 0, width, height), max(1, round(width * scale)), max(1, round(height * scale)))]


def views(width: int, height: int, scale: float) -> list[View]:
    """The whole picture, as large as one inference may be, and where that is less than ``scale`` asks for, tiles.

    A face that is not whole in a tile is at least :data:`SEEN` pixels high in the whole picture.
    """
    fitting = (MOST_PIXELS / (width * height)) ** 0.5
    if scale <= fitting:
        return whole(width, height, scale)
    overlap = ceil(max(2.0, scale / fitting) * SEEN / scale)
    longest = int(MOST_PIXELS**0.5 / scale)
    lefts, tile_width = tiles.cut(width, longest, overlap)
    tops, tile_height = tiles.cut(height, longest, overlap)
    size = (round(tile_width * scale), round(tile_height * scale))
    return whole(width, height, fitting) + [
        View((x, y, x + tile_width, y + tile_height), *size) for y in tops for x in lefts
    ]


def _blob(image: Image) -> NDArray[np.float32]:
    """Shape (1, 3, height, width), channels red, green, blue; zeros to the right and below up to the multiple."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)))
    return np.asarray(cv2.dnn.blobFromImage(padded, swapRB=True), np.float32)


def _decode(heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32]) -> tuple[Boxes, Scores]:
    """Maps of the network to boxes (n, 4) as x0 y0 x1 y1 in input pixels, and scores (n,). Some may be the same face
    still (:func:`_withheld`)."""
    rows, columns = np.nonzero(heat >= LOWEST_SCORE)
    scores = heat[rows, columns].astype(np.float64)
    heights, widths = np.exp(size[:, rows, columns].astype(np.float64)) * STRIDE
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE - heights / 2
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE - widths / 2
    kept = np.array(
        cv2.dnn.NMSBoxes(np.stack([x, y, widths, heights], 1).tolist(), scores.tolist(), LOWEST_SCORE, OVERLAP),
        dtype=int,
    ).reshape(-1)
    boxes = np.stack([x, y, x + widths, y + heights], 1).reshape(-1, 4)
    kept = np.concatenate([kept, _withheld(boxes, scores, kept)])
    return boxes[kept], scores[kept]


def _withheld(boxes: Boxes, scores: Scores, kept: NDArray[np.int_]) -> NDArray[np.int_]:
    """Boxes that were left out for better ones, but may count where none of those does: they are lower, so that a lower
    score is asked of them. How high they are in the picture :func:`~sfumato.models.tiles.best` knows, and decides."""
    least, most = CenterFace.threshold.range
    left_out = np.setdiff1d(np.flatnonzero((scores >= least) & (scores < most)), kept)
    if not left_out.size or scores[kept].min() >= most:
        return left_out[:0]
    a, b = boxes[left_out, None], boxes[None, kept]
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0)
    both, areas = sides.prod(-1), [(each[..., 2:] - each[..., :2]).prod(-1) for each in (a, b)]
    same = both > OVERLAP * (areas[0] + areas[1] - both)
    same &= scores[kept] >= scores[left_out, None]
    no_lower = a[..., 3] - a[..., 1] >= b[..., 3] - b[..., 1]
    hidden = (same & (no_lower | (scores[kept] >= most))).any(1)
    return np.asarray(left_out[~hidden])


def _points(
    heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32], marks: NDArray[np.float32]
) -> Points:
    """The five points of the surest face around the middle, in input pixels: they are given as shares of its box."""
    rows, columns = (slice(side // 4, side - side // 4) for side in heat.shape)
    row, column = np.unravel_index(heat[rows, columns].argmax(), heat[rows, columns].shape)
    row, column = row + rows.start, column + columns.start
    height, width = np.exp(size[:, row, column].astype(np.float64)) * STRIDE
    y = (row + offset[0, row, column] + 0.5) * STRIDE - height / 2
    x = (column + offset[1, row, column] + 0.5) * STRIDE - width / 2
    shares = marks[:, row, column].astype(np.float64).reshape(5, 2)
    return np.stack([x + shares[:, 1] * width, y + shares[:, 0] * height], 1)
