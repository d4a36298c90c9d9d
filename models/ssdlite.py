"""SSDLite, the default person detector.

Method: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018 (arXiv 1801.04381), section 6.2.
Weight: ``weights.toml``; a frozen graph of TensorFlow with one class, which OpenVINO reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, log

import numpy as np

from sfumato.models import tiles, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest, Threshold
from sfumato.models.runtime import Runtime
from sfumato.models.streams import Streams
from sfumato.models.tiles import Boxes, Scores, View
from sfumato.schemas.detection import Detection, DetectorName, Target

SIDE = 300
"""Of the graph's square input, in pixels."""
SEEN = 60
"""A person that is so high in the input, in pixels, is found: ``python ops/curve.py ssdlite``."""
ASPECT = 4 / 3
"""Width by height of a tile: that of the photographs from which such models learn."""
SLENDER = 0.5
"""Width by height of the widest person who must be whole in one tile."""
FINEST = 3 / 4
"""Height of the tiles by that of the picture where the policy says nothing of the smallest person."""
OVERLAP = 0.5
"""Boxes that overlap a better one by more than this (intersection over union) are the same person."""


class Ssdlite:
    name = DetectorName.SSDLITE
    targets = frozenset({Target.PERSON})
    threshold = Threshold(0.15)

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs;
        :class:`~sfumato.models.detectors.DetectorError` where the provider reads no such graph."""
        path = weights.locate("ssdlite", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["ssdlite"].sha256
        self._runtime = Runtime(path, options, outputs=("detection_boxes:0", "detection_scores:0"))
        self._streams = Streams(options.streams)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Raises :class:`~sfumato.models.tiles.TooManyViews`."""
        return self._streams.look(self._detect, pictures, smallest)

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        height, width = picture.shape[:2]
        boxes, scores = tiles.look(picture, views(width, height, smallest), self._find, OVERLAP)
        return tiles.detections(Target.PERSON, boxes, scores)

    def _find(self, pixels: Image) -> tuple[Boxes, Scores]:
        boxes, scores = (output[0].astype(np.float64) for output in self._runtime(pixels[np.newaxis, :, :, ::-1]))
        seen = scores >= LOWEST_SCORE
        return boxes[seen][:, [1, 0, 3, 2]] * SIDE, scores[seen]


def views(width: int, height: int, smallest: int | None) -> Iterator[View]:
    """The whole picture, then tiles, finer level by level until the smallest person, in pixels, is seen.

    Whoever is not whole in a tile of one level is seen in those of the level before.
    """
    finest = height * FINEST if smallest is None else smallest * SIDE / SEEN
    yield View((0, 0, width, height), SIDE, SIDE)
    coarser = float(height)
    levels = ceil(log(max(1.0, height / finest)) / log(SIDE / SEEN / 2))
    for level in range(1, levels + 1):
        tile = height * (finest / height) ** (level / levels)
        overlap = coarser * SEEN / SIDE
        lefts, tile_width = tiles.cut(width, round(tile * ASPECT), round(overlap * SLENDER))
        tops, tile_height = tiles.cut(height, round(tile), round(overlap))
        for y in tops:
            yield from (View((x, y, x + tile_width, y + tile_height), SIDE, SIDE) for x in lefts)
        coarser = tile
