"""A drawn part of the picture: always masked, or spared; a part of the policy."""

from __future__ import annotations

from enum import StrEnum
from itertools import combinations
from typing import Annotated

from pydantic import Field, field_validator

from sfumato.schemas.detection import Target
from sfumato.schemas.masking import MaskName
from sfumato.schemas.part import Part, Relative, Text

SMALLEST_AREA = 1e-6
"""Share of the picture under which a polygon encloses nothing: about one pixel of 1280x720."""

Corner = tuple[float, float]


class Rule(StrEnum):
    ALWAYS_MASK = "always_mask"
    NEVER_MASK = "never_mask"


class Zone(Part):
    """A polygon, corners as shares (0 to 1) of the picture's width and height, whose edges meet at corners only.

    ``mask``: of an always-mask zone. ``spares``: what a never-mask zone leaves unmasked; by default only motion,
    so that any detected object is masked all the same.
    """

    name: Text
    polygon: Annotated[tuple[tuple[Relative, Relative], ...], Field(min_length=3, max_length=200)]
    rule: Rule = Rule.ALWAYS_MASK
    mask: MaskName = MaskName.SOLID
    spares: frozenset[Target] = frozenset({Target.MOTION})

    @field_validator("polygon")
    @classmethod
    def _simple(cls, polygon: tuple[Corner, ...]) -> tuple[Corner, ...]:
        """Refuse what has no clear inside: programs that draw it differ in what they fill."""
        edges = list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))
        for number, (start, end) in enumerate(edges):
            if start == end:
                raise ValueError(f"corner {number} is given twice in a row; leave one out (the last joins the first)")
        for (i, first), (j, second) in combinations(enumerate(edges), 2):
            neighbours = j - i == 1 or (i == 0 and j == len(edges) - 1)
            if _folds_back(first, second) if neighbours else _meet(*first, *second):
                raise ValueError(
                    f"crosses itself: the edge from corner {i} meets that from corner {j}; "
                    "list the corners in order around the zone, or make it two zones"
                )
        if abs(_area(polygon)) < SMALLEST_AREA:
            raise ValueError("encloses no area; move its corners apart")
        return polygon


def _area(polygon: tuple[Corner, ...]) -> float:
    """Signed area by the shoelace formula."""
    pairs = zip(polygon, [*polygon[1:], polygon[0]], strict=True)
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) / 2


def _turn(a: Corner, b: Corner, c: Corner) -> float:
    """Cross product of ab and ac: its sign says on which side of ab lies c; 0: on the line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _meet(a: Corner, b: Corner, c: Corner, d: Corner) -> bool:
    """Whether the segments ab and cd have a point in common, ends included."""
    if _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0:
        return True
    touching = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(_turn(p, q, r) == 0 and _within(p, q, r) for p, q, r in touching)


def _within(a: Corner, b: Corner, c: Corner) -> bool:
    """Whether c, on the line of ab, lies between them."""
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])


def _folds_back(first: tuple[Corner, Corner], second: tuple[Corner, Corner]) -> bool:
    """Whether two edges with a corner in common lie upon one another."""
    shared = first[1] if first[1] in second else first[0]
    a = first[0] if shared == first[1] else first[1]
    b = second[1] if shared == second[0] else second[0]
    ahead = (a[0] - shared[0]) * (b[0] - shared[0]) + (a[1] - shared[1]) * (b[1] - shared[1])
    return _turn(shared, a, b) == 0 and ahead > 0
