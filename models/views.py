"""What a detector looks at: the whole picture at several scales, cut into tiles where one is too large for one pass.

A network finds objects of a range of sizes in its input. The finest scale brings the smallest object wanted up to
the least size that the network finds; each coarser one brings larger objects into its range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from sfumato.models.detectors import Image

STEP = 3.0
"""One scale to the next coarser one."""
COARSEST = 480
"""No coarser view than one with a long side up to this, in pixels of the input."""
TILE = 1920
"""Inputs with a longer side are cut, in pixels: it bounds memory."""
OVERLAP = 192
"""Tiles share so many pixels of the input: what is larger is whole in the next coarser view."""
MULTIPLE = 64
"""Sides of an input are padded to a multiple of it, in pixels: the networks need 32, and 64 keeps the shapes fewer."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of a picture, in its pixels, and the scale at which the network sees it (input ÷ picture)."""

    x0: int
    y0: int
    x1: int
    y1: int
    scale: float

    def cut(self, picture: Image) -> Image:
        """The part at its scale in the top left corner of a black canvas, uint8, (height, width, 3)."""
        part = picture[self.y0 : self.y1, self.x0 : self.x1]
        height, width = (max(1, round(side * self.scale)) for side in part.shape[:2])
        # Area averaging would make blocks where it enlarges.
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(part, (width, height), interpolation=method)
        return np.pad(resized, ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)))


def views(picture: Image, finest: float) -> Iterator[View]:
    """The views of a picture, the finest scale first."""
    height, width = picture.shape[:2]
    scale = finest
    while True:
        yield from _tiles(width, height, scale)
        if max(height, width) * scale <= COARSEST:
            return
        scale /= STEP


def finest(picture: Image, smallest: int | None, *, least: float, usual: int, long_side: int) -> float:
    """The scale at which an object of ``smallest`` pixels is ``least`` pixels high in the input. Where ``smallest`` is
    None: the ``usual`` one, and the picture's long side becomes no more than ``long_side`` pixels."""
    if smallest is not None:
        return least / smallest
    return min(least / usual, long_side / max(picture.shape[:2]))


def _tiles(width: int, height: int, scale: float) -> Iterator[View]:
    """Parts of equal size that overlap by :data:`OVERLAP` or more; one, where the whole fits."""
    for y0, y1 in _spans(height, scale):
        for x0, x1 in _spans(width, scale):
            yield View(x0, y0, x1, y1, scale)


def _spans(side: int, scale: float) -> Iterator[tuple[int, int]]:
    tile, overlap = int(TILE / scale), math.ceil(OVERLAP / scale)
    if side <= tile:
        yield 0, side
        return
    count = math.ceil((side - overlap) / (tile - overlap))
    for index in range(count):
        start = round(index * (side - tile) / (count - 1))
        yield start, start + tile
