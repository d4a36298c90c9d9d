"""A picture at several scales, for detectors that give an object's corners besides its box.

A network finds objects of a range of sizes in its input. The finest scale brings the smallest object wanted up to the
least size that the network finds; each coarser one brings larger objects into its range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.models.tiles import MOST_VIEWS, Boxes, Scores, TooManyViews, View, at_border, best, cut, inside
from sfumato.schemas.detection import Detection, Target

Corners = NDArray[np.float64]
"""Shape (n, 4, 2): x y in pixels."""
Find = Callable[[Image], tuple[Boxes, Corners, Scores]]

STEP = 3.0
"""One scale to the next coarser one."""
COARSEST = 480
"""There is no coarser view than one with a long side up to this, in pixels of the input."""
LONGEST = 1920
"""Views with a longer side are cut into tiles, in pixels of the input: it bounds memory."""
SHARED = 192
"""Tiles overlap by so much, in pixels of the input: what is larger is whole in a coarser view."""
MULTIPLE = 64
"""Sides of an input are padded to a multiple of it, in pixels: the networks need 32, and 64 keeps the shapes fewer."""


def look(picture: Image, finest: float, find: Find, overlap: float) -> tuple[Boxes, Corners, Scores]:
    """What ``find`` sees at each scale, in the picture's pixels, each object once.

    ``finest``: the first scale, input ÷ picture. ``find`` takes pixels whose sides are multiples of :data:`MULTIPLE`,
    black to the right and below. ``overlap``: boxes with a greater intersection over union are the same object.
    Raises :class:`~sfumato.models.tiles.TooManyViews`.
    """
    chosen = list(views(picture, finest))
    if len(chosen) > MOST_VIEWS:
        raise TooManyViews(f"{len(chosen)} views of one picture")
    found = [_look(picture, view, find) for view in chosen]
    boxes, corners, scores, borders = (np.concatenate(parts) for parts in zip(*found, strict=True))
    boxes, there = inside(boxes, picture)
    corners = corners.clip(0, picture.shape[1::-1])
    boxes, corners, scores = boxes[there], corners[there], scores[there]
    kept = best(boxes, scores, borders[there], overlap)
    return boxes[kept], corners[kept], scores[kept]


def finest(picture: Image, smallest: int | None, seen: int, long_side: int) -> float:
    """The scale at which an object of ``smallest`` pixels is ``seen`` pixels high. None: the picture as it is, its long
    side at most ``long_side`` pixels."""
    return min(1.0, long_side / max(picture.shape[:2])) if smallest is None else seen / smallest


def views(picture: Image, finest: float) -> Iterator[View]:
    """The views of a picture, the finest scale first; tiles where :data:`LONGEST` asks for them."""
    height, width = picture.shape[:2]
    scale = finest
    while True:
        longest, shared = int(LONGEST / scale), ceil(SHARED / scale)
        lefts, wide = cut(width, longest, shared)
        tops, high = cut(height, longest, shared)
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        yield from (View((x, y, x + wide, y + high), *size) for y in tops for x in lefts)
        if max(height, width) * scale <= COARSEST:
            return
        scale /= STEP


def detection(target: Target, box: NDArray[np.float64], corners: Corners, score: float) -> Detection:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    outline = tuple((round(float(x), 1), round(float(y), 1)) for x, y in corners)
    return Detection.model_construct(target=target, score=round(float(score), 3), box=(x0, y0, x1, y1), outline=outline)


def _look(picture: Image, view: View, find: Find) -> tuple[Boxes, Corners, Scores, NDArray[np.bool_]]:
    x0, y0, x1, y1 = view.part
    boxes, corners, scores = find(_pixels(picture[y0:y1, x0:x1], view))
    scale = np.array([(x1 - x0) / view.width, (y1 - y0) / view.height])
    start = np.array([x0, y0])
    boxes = boxes * np.tile(scale, 2) + np.tile(start, 2)
    return boxes, corners * scale + start, scores, at_border(boxes, view, picture)


def _pixels(part: Image, view: View) -> Image:
    # Area averaging would make blocks where it enlarges.
    method = cv2.INTER_AREA if view.width <= part.shape[1] else cv2.INTER_LINEAR
    resized = cv2.resize(part, (view.width, view.height), interpolation=method)
    return np.pad(resized, ((0, -view.height % MULTIPLE), (0, -view.width % MULTIPLE), (0, 0)))
