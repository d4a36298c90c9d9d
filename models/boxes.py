"""Boxes in a picture: x0, y0 (inclusive) to x1, y1 (exclusive), in pixels."""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]


def usable(box: Box, size: tuple[int, int]) -> bool:
    """Whether it has an area and some of it lies in a picture of that width and height."""
    return all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3] and meets(box, size)


def centred(box: Box) -> tuple[float, float, float, float]:
    """Centre x and y, width, height."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def cornered(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def moved(box: Box, dx: float, dy: float) -> Box:
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def scaled(box: Box, across: float, down: float) -> Box:
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def between(a: Box, b: Box, share: float) -> Box:
    """``a`` moved to ``b`` by a share of the way."""
    x0, y0, x1, y1 = (p + share * (q - p) for p, q in zip(a, b, strict=True))
    return x0, y0, x1, y1


def union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def meets(box: Box, size: tuple[int, int]) -> bool:
    return box[2] > 0 and box[3] > 0 and box[0] < size[0] and box[1] < size[1]


def beyond(box: Box, size: tuple[int, int]) -> bool:
    """Whether it does not even touch a picture of that width and height."""
    return box[2] < 0 or box[3] < 0 or box[0] > size[0] or box[1] > size[1]


def clip(box: Box, size: tuple[int, int]) -> Box:
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size[0]), box[2]), min(float(size[1]), box[3])


def common(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    both = common(a, b)
    return both / (area(a) + area(b) - both)


def share(a: Box, b: Box) -> float:
    """Of ``a``'s area, what lies in ``b``."""
    return common(a, b) / area(a)


def cover(a: Box, b: Box) -> float:
    """Of the smaller one's area, what lies in the other."""
    return common(a, b) / min(area(a), area(b))
