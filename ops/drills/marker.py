"""The marker: a drawn face that every camera of a drill shows and that no output may show; and the search for it.

The search is by normalised cross-correlation (Lewis, "Fast Normalized Cross-Correlation", 1995; OpenCV's
TM_CCOEFF_NORMED) for two strips of the face, so that half a face left open is found, too.
"""

from __future__ import annotations

import cv2
import numpy as np

from sfumato.models.detectors import Image

SIDE = 40
"""Of the square that holds the face, in pixels."""
FOUND = 0.85
"""Correlation from which a strip counts as seen; in the pictures that the cameras send it is 0.99 and more, in what is
rightly masked at most 0.74."""
CONTRAST = 0.25
"""What correlates with less contrast than this share of the strip's is noise of a flat place."""
STRIPS = {"eyes": (0.36, 0.56), "mouth": (0.60, 0.84)}
"""Of the height of the square; both from a fifth to four fifths of its width."""
SCALE = 8
"""It is drawn so many times larger and then shrunk."""
SKIN = (140, 170, 215)
PARTS = (
    ((0.50, 0.40), (0.40, 0.38), (30, 40, 60)),  # hair
    ((0.50, 0.53), (0.34, 0.42), SKIN),
    *(((x, 0.40), (0.10, 0.035), (40, 50, 70)) for x in (0.36, 0.64)),  # brows
    *(((x, 0.47), (0.075, 0.04), (235, 235, 240)) for x in (0.36, 0.64)),
    *(((x, 0.47), (0.035, 0.038), (15, 15, 20)) for x in (0.36, 0.64)),
    ((0.50, 0.58), (0.035, 0.10), (120, 150, 200)),  # nose
    *(((x, 0.66), (0.02, 0.012), (70, 90, 130)) for x in (0.47, 0.53)),
    ((0.50, 0.78), (0.14, 0.045), (80, 80, 170)),  # mouth
    ((0.50, 0.775), (0.12, 0.012), (40, 40, 90)),
)
"""Ellipses, in the order they are drawn: centre and half axes as shares of the square's side, colour."""


def face(ground: Image) -> Image:
    """The face before a ground of :data:`SIDE` by :data:`SIDE` pixels."""
    drawn = cv2.resize(ground, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR)
    side = SIDE * SCALE
    for centre, axes, colour in PARTS:
        place, half = (tuple(round(share * side) for share in pair) for pair in (centre, axes))
        cv2.ellipse(drawn, place, half, 0, 0, 360, colour, -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(drawn, (0, 0), SCALE * SIDE / 60)
    return np.asarray(cv2.resize(soft, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _strip(top: float, bottom: float) -> Image:
    plain = face(np.full((SIDE, SIDE, 3), 150, np.uint8))
    rows, columns = slice(round(top * SIDE), round(bottom * SIDE)), slice(SIDE // 5, SIDE * 4 // 5)
    return np.asarray(cv2.cvtColor(plain[rows, columns], cv2.COLOR_BGR2GRAY), np.uint8)


_STRIPS = {name: _strip(*span) for name, span in STRIPS.items()}


def correlation(picture: Image, strip: Image) -> float:
    """The highest over all places of the picture with contrast, -1 where there is none."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    found = cv2.matchTemplate(grey, strip, cv2.TM_CCOEFF_NORMED)
    height, width = strip.shape
    values = grey.astype(np.float64)
    # OpenCV divides by almost nothing where a window is flat: look only where there is something to see.
    mean, square = (cv2.boxFilter(v, -1, (width, height), anchor=(0, 0)) for v in (values, values**2))
    deviation = np.sqrt(np.maximum(square - mean**2, 0))[: found.shape[0], : found.shape[1]]
    return float(found[deviation > CONTRAST * strip.std()].max(initial=-1.0))


def shows(picture: Image) -> bool:
    """Whether the marker, or a strip of it, can be seen in a picture."""
    return any(correlation(picture, strip) >= FOUND for strip in _STRIPS.values())
