"""MTCNN, a face detector of another kind than CenterFace: for the second look.

Method: Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks", 2016
(arXiv 1604.02878): a small network slides over a pyramid of the picture, two larger ones judge what it proposes.
Weights: ``weights.toml``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import images, tiles, weights
from sfumato.models.detectors import DetectorOptions, Image, Smallest, Threshold
from sfumato.models.runtime import Runtime
from sfumato.models.streams import Streams
from sfumato.models.tiles import Boxes, Scores
from sfumato.schemas.detection import Detection, DetectorName, Target

NETWORKS = ("mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet")
SEEN = 12
"""Side of the window that the first network looks through, in pixels; it moves by :data:`STRIDE`."""
STRIDE = 2
STEP = 0.709
"""Between two levels of the pyramid: half the area, as in the paper."""
SMALLEST = 20
"""Height in pixels of the smallest face looked for where none is asked for, as in the paper."""
PROPOSED = 0.6
JUDGED = 0.7
"""Scores from which a face goes on from the first and the second network, as in the paper's code."""
OVERLAP_AT_ONE_SCALE = 0.5
OVERLAP = 0.7
"""Boxes that overlap a better one by more (intersection over union) are the same face."""
BATCH = 64
"""Crops that the second and third network judge at once; one size, so that each is compiled once."""
MOST = 2048
"""Proposals that go on, the likeliest."""


class Mtcnn:
    name = DetectorName.MTCNN
    targets = frozenset({Target.FACE})
    threshold = Threshold(0.7)

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where a weight is absent or differs."""
        runtimes = [Runtime(weights.locate(name, options.weights_dir), options) for name in NETWORKS]
        self._propose, self._refine, self._output = runtimes
        self.weights_sha256 = weights.WEIGHTS[NETWORKS[-1]].sha256
        self._streams = Streams(options.streams)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        return self._streams.look(self._detect, pictures, smallest)

    def _detect(self, picture: Image, smallest: int | None) -> tuple[Detection, ...]:
        boxes, scores = self._proposals(picture, SEEN / (smallest or SMALLEST))
        for network, side, least in ((self._refine, 24, JUDGED), (self._output, 48, 0.0)):
            moves, scores = _judge(network, picture, _square(boxes), side)
            boxes, passed = _moved(_square(boxes), moves), scores >= least
            boxes, scores = _best(boxes[passed], scores[passed], OVERLAP)
        boxes, there = tiles.inside(boxes, picture)
        return tiles.detections(Target.FACE, boxes[there], scores[there])

    def _proposals(self, picture: Image, scale: float) -> tuple[Boxes, Scores]:
        found: list[tuple[Boxes, Scores]] = [(np.empty((0, 4)), np.empty(0))]
        height, width = picture.shape[:2]
        while min(height, width) * scale >= SEEN:
            level = images.resize(picture, round(width * scale), round(height * scale))
            moves, faces = self._propose(_normalized(level)[None])
            found.append(_windows(moves[0], faces[0, :, :, 1], scale))
            scale *= STEP
        boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        boxes, scores = _best(boxes, scores, OVERLAP)
        return boxes[:MOST], scores[:MOST]


def _normalized(pixels: Image) -> NDArray[np.float32]:
    """Shape (width, height, 3), red first: these networks were trained on pictures with their axes swapped."""
    centred = pixels[:, :, ::-1].transpose(1, 0, 2) - np.float32(127.5)
    return np.asarray(centred / 128, np.float32)


def _windows(moves: NDArray[np.float32], faces: NDArray[np.float32], scale: float) -> tuple[Boxes, Scores]:
    """What the first network proposes at one scale; its maps are by column and row."""
    columns, rows = np.nonzero(faces >= PROPOSED)
    corners = np.stack([columns, rows], 1).astype(np.float64) * STRIDE
    boxes = np.concatenate([corners, corners + SEEN], 1) / scale
    scores = faces[columns, rows].astype(np.float64)
    boxes = _moved(boxes, moves[columns, rows].astype(np.float64))
    return _best(boxes, scores, OVERLAP_AT_ONE_SCALE)


def _judge(network: Runtime, picture: Image, boxes: Boxes, side: int) -> tuple[NDArray[np.float64], Scores]:
    """How a network moves each box, in shares of its size, and how likely it is a face."""
    moves, scores = np.empty((len(boxes), 4)), np.empty(len(boxes))
    for start in range(0, len(boxes), BATCH):
        crops = np.zeros((BATCH, side, side, 3), np.float32)
        part = boxes[start : start + BATCH]
        for number, box in enumerate(part):
            crops[number] = _normalized(_cut(picture, box, side))
        outputs = network(crops)
        moves[start : start + BATCH] = outputs[0][: len(part)]
        scores[start : start + BATCH] = outputs[-1][: len(part), 1]
    return moves, scores


def _cut(picture: Image, box: NDArray[np.float64], side: int) -> Image:
    """The box as a square of so many pixels; black beyond the picture."""
    x0, y0 = np.floor(box[:2]).astype(int)
    size = max(1, round(float(box[2] - box[0])))
    height, width = picture.shape[:2]
    inside = picture[max(0, y0) : max(0, min(height, y0 + size)), max(0, x0) : max(0, min(width, x0 + size))]
    top, left = max(0, -y0), max(0, -x0)
    whole = np.zeros((size, size, 3), np.uint8)
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    crop: Image = np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return crop


def _square(boxes: Boxes) -> Boxes:
    """Grown to squares about their centres."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    squares: Boxes = np.concatenate([centres - sides / 2, centres + sides / 2], 1)
    return squares


def _moved(boxes: Boxes, moves: NDArray[np.float64]) -> Boxes:
    sizes = boxes[:, 2:] - boxes[:, :2]
    moved: Boxes = boxes + moves * np.concatenate([sizes, sizes], 1)
    return moved


def _best(boxes: Boxes, scores: Scores, overlap: float) -> tuple[Boxes, Scores]:
    """The best box of each face (non-maximum suppression), the likeliest first."""
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = np.array(cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), 0.0, overlap), int).reshape(-1)
    return boxes[kept], scores[kept]
