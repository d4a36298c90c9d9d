"""A drawn part of the picture: always masked, or spared; a part of the policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import numpy as np
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
        if (crossing := _crossing(edges)) is not None:
            i, j = crossing
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


def _crossing(edges: list[tuple[Corner, Corner]]) -> tuple[int, int] | None:
    """The first two edges that have a point in common, beside the corner of neighbours."""
    last = len(edges) - 1
    beside = [(0, last), *((i, i + 1) for i in range(last))]
    apart = np.triu(_meet(np.array(edges, float)), 2)
    apart[0, last] = False
    found = [(i, j) for i, j in beside if _folds_back(edges[i], edges[j])]
    found += [(int(i), int(j)) for i, j in np.argwhere(apart)]
    return min(found, default=None)


def _meet(edges: np.ndarray) -> np.ndarray:
    """Whether each two of the edges (n, 2, 2) have a point in common, ends included: (n, n). All at once, since a
    policy of a megabyte holds millions of pairs."""
    a, b = edges[:, None, 0], edges[:, None, 1]  # of the row's edge; c: an end of the column's
    turns, touching = [], []
    for c in (edges[None, :, 0], edges[None, :, 1]):
        turn = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        within = ((np.minimum(a, b) <= c) & (c <= np.maximum(a, b))).all(axis=-1)
        turns.append(turn)
        touching.append((turn == 0) & within)
    apart = turns[0] * turns[1] < 0
    touch = touching[0] | touching[1]
    met: np.ndarray = (apart & apart.T) | touch | touch.T
    return met


def _folds_back(first: tuple[Corner, Corner], second: tuple[Corner, Corner]) -> bool:
    """Whether two edges with a corner in common lie upon one another."""
    shared = first[1] if first[1] in second else first[0]
    a = first[0] if shared == first[1] else first[1]
    b = second[1] if shared == second[0] else second[0]
    ahead = (a[0] - shared[0]) * (b[0] - shared[0]) + (a[1] - shared[1]) * (b[1] - shared[1])
    return _turn(shared, a, b) == 0 and ahead > 0
