"""A picture looked at in views: the whole of it, and overlapping tiles for what is small; their boxes merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sfumato.models import images
from sfumato.models.detectors import Image, Threshold
from sfumato.schemas.detection import Detection, Target

Boxes = NDArray[np.float64]
"""Shape (n, 4): x0 y0 x1 y1 in pixels."""
Scores = NDArray[np.float64]
"""Shape (n,)."""
Find = Callable[[Image], tuple[Boxes, Scores]]

MOST_VIEWS = 64
"""Of one picture. What would need more is not looked at in less detail than asked for: it is refused."""
BORDER = 0.02
"""A box that ends within this share of a tile's side from a border inside of the picture may be cut there."""
COVERED = 0.9
"""A box of which a better one covers more than this share says nothing new."""


class TooManyViews(ValueError):
    """The objects asked for are too small for a picture of this size."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of the picture, x0 y0 x1 y1 in its pixels, and the width and height at which it is looked at."""

    part: tuple[int, int, int, int]
    width: int
    height: int


def cut(length: int, longest: int, overlap: int) -> tuple[list[int], int]:
    """Where the fewest tiles of at most ``longest`` begin along a side, and how long they are, in pixels.

    They are spread evenly. An object that is no longer than ``overlap`` is whole in one of them.
    """
    if length <= longest:
        return [0], length
    if overlap >= longest:
        raise TooManyViews(f"tiles of {longest} pixels cannot overlap by {overlap}")
    count = ceil((length - overlap) / (longest - overlap))
    tile = ceil((length + (count - 1) * overlap) / count)
    return [i * (length - tile) // (count - 1) for i in range(count)], tile


def look(
    picture: Image, views: Iterable[View], find: Find, overlap: float, threshold: Threshold | None = None
) -> tuple[Boxes, Scores]:
    """What ``find`` sees in each view, in the picture's pixels, each object once.

    ``find`` takes the view's pixels and gives boxes in them. ``overlap``: boxes with a greater intersection over
    union are the same object. ``threshold``: one that rises, as of :func:`best`.
    """
    views = list(views)
    if len(views) > MOST_VIEWS:
        raise TooManyViews(f"{len(views)} views of one picture")
    found = [_look(picture, view, find) for view in views]
    boxes, there = inside(np.concatenate([boxes for boxes, _, _ in found]), picture)
    scores, at_border = (np.concatenate([part[i] for part in found]) for i in (1, 2))
    return merge(boxes[there], scores[there], at_border[there], overlap, threshold)


def inside(boxes: Boxes, picture: Image) -> tuple[Boxes, NDArray[np.bool_]]:
    """The boxes cut off at the picture's edges, and shape (n,): of which something is left. Raises RuntimeError where
    one is not a number: nobody knows where that object is."""
    if np.isnan(boxes).any():
        raise RuntimeError("a box is not a number")
    height, width = picture.shape[:2]
    cut_off: Boxes = boxes.clip(0, (width, height, width, height))
    return cut_off, (cut_off[:, 2] > cut_off[:, 0]) & (cut_off[:, 3] > cut_off[:, 1])


def detections(target: Target, boxes: Boxes, scores: Scores) -> tuple[Detection, ...]:
    return tuple(
        Detection.model_construct(target=target, score=round(float(score), 3), box=_rounded(box))
        for box, score in zip(boxes, scores, strict=True)
    )


def _rounded(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    return x0, y0, x1, y1


def _look(picture: Image, view: View, find: Find) -> tuple[Boxes, Scores, NDArray[np.bool_]]:
    x0, y0, x1, y1 = view.part
    pixels = images.resize(picture[y0:y1, x0:x1], view.width, view.height)
    boxes, scores = find(pixels)
    scale = np.array([(x1 - x0) / view.width, (y1 - y0) / view.height] * 2)
    boxes = boxes * scale + (x0, y0, x0, y0)
    return boxes, scores, at_border(boxes, view, picture)


def at_border(boxes: Boxes, view: View, picture: Image) -> NDArray[np.bool_]:
    """Shape (n,): whether the border of the view, where it lies inside of the picture, may have cut the box."""
    x0, y0, x1, y1 = view.part
    height, width = picture.shape[:2]
    near_x, near_y = BORDER * (x1 - x0), BORDER * (y1 - y0)
    cut = (boxes[:, 0] < x0 + near_x) & (x0 > 0)
    cut |= (boxes[:, 1] < y0 + near_y) & (y0 > 0)
    cut |= (boxes[:, 2] > x1 - near_x) & (x1 < width)
    cut |= (boxes[:, 3] > y1 - near_y) & (y1 < height)
    return cut


def merge(
    boxes: Boxes, scores: Scores, at_border: NDArray[np.bool_], overlap: float, threshold: Threshold | None = None
) -> tuple[Boxes, Scores]:
    """The best box of each object and its score."""
    kept = best(boxes, scores, at_border, overlap, threshold)
    return boxes[kept], scores[kept]


def best(
    boxes: Boxes, scores: Scores, at_border: NDArray[np.bool_], overlap: float, threshold: Threshold | None = None
) -> list[int]:
    """Which box is the best one of each object, as non-maximum suppression has it, with one difference: of two boxes
    of which a border may have cut one nobody knows which is right, so both stay unless the better one covers the
    other. Where the ``threshold`` rises with the height of a box, the better one may be one that does not count: then
    one that counts stays beside it."""
    order = np.argsort(-scores, kind="stable")
    # As :func:`detections` rounds them, since they are judged after that.
    counts = np.zeros(len(boxes), bool) if threshold is None else threshold.met(boxes.round(1), scores.round(3))
    kept: list[int] = []
    for i in order:
        both, area, areas = _areas(boxes[i], boxes[kept])
        same = both > overlap * (area + areas - both)
        same &= ~(at_border[kept] | at_border[i])
        same |= both > COVERED * area
        if not (same & (counts[kept] | ~counts[i])).any():
            kept.append(int(i))
    return kept


def _areas(box: NDArray[np.float64], others: Boxes) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """In square pixels: what the box shares with each of the others, its own, theirs."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return sides.clip(0).prod(1), float((box[2:] - box[:2]).prod()), (others[:, 2:] - others[:, :2]).prod(1)
