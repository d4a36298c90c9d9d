"""Polygons: what has a clear inside is taken, all else refused."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sfumato.schemas.zone import Zone


def zone(polygon):
    return Zone(name="door", polygon=polygon)


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ([(0, 0), (1, 1), (1, 0), (0, 1)], "crosses itself: the edge from corner 0 meets that from corner 2"),
        ([(0, 0), (1, 0), (0.5, 0.5), (1, 1), (0, 1), (0.5, 0.5)], "crosses itself"),  # touches itself at a point
        ([(0, 0), (1, 0), (1, 1), (0.5, 0), (0, 1)], "crosses itself"),  # a corner on another edge
        ([(0, 0), (0.5, 0), (1, 0)], "crosses itself"),  # on one line
        ([(0, 0), (1, 0), (0.5, 0), (0.5, 1)], "crosses itself"),  # folds back
        ([(0, 0), (1, 0), (1, 0), (0, 1)], "corner 1 is given twice in a row"),
        ([(0, 0), (1, 0), (1, 1), (0, 0)], "corner 3 is given twice in a row"),
        ([(0.5, 0.5), (0.501, 0.5), (0.5, 0.501)], "encloses no area"),
    ],
)
def test_what_has_no_clear_inside_is_refused(polygon, said):
    with pytest.raises(ValidationError, match=said):
        zone(polygon)


@pytest.mark.parametrize(
    "polygon",
    [
        [(0, 0), (1, 0), (1, 1), (0, 1)],
        [(0, 0), (0, 1), (1, 1), (1, 0)],
        [(0, 0), (0.5, 0), (1, 0), (1, 1)],  # a corner on a straight line
        [(0, 0), (1, 0), (1, 0.2), (0.2, 0.2), (0.2, 0.8), (1, 0.8), (1, 1), (0, 1)],  # not convex
    ],
)
def test_simple_polygons_are_taken(polygon):
    assert zone(polygon).polygon == tuple(polygon)


@st.composite
def stars(draw):
    """Polygons around the middle, corners by angle: simple, mostly not convex."""
    count = draw(st.integers(4, 24))
    lengths = draw(st.lists(st.floats(0.05, 0.5), min_size=count, max_size=count))
    return [
        (0.5 + r * math.cos(2 * math.pi * i / count), 0.5 + r * math.sin(2 * math.pi * i / count))
        for i, r in enumerate(lengths)
    ]


@given(stars())
def test_corners_in_order_are_taken_either_way_round(polygon):
    zone(polygon)
    zone(polygon[::-1])


@given(st.integers(4, 40), st.integers(0, 39))
def test_two_corners_of_a_convex_polygon_exchanged_cross(count, first):
    polygon = [
        (0.5 + 0.4 * math.cos(2 * math.pi * i / count), 0.5 + 0.4 * math.sin(2 * math.pi * i / count))
        for i in range(count)
    ]
    zone(polygon)
    i, j = first % count, (first + 1) % count
    polygon[i], polygon[j] = polygon[j], polygon[i]
    with pytest.raises(ValidationError, match="crosses itself"):
        zone(polygon)


def test_a_zone_of_many_corners_is_no_work():
    """A policy may hold thousands, and the bridge reads it between two requests: edges are not compared one by one."""
    circle = [(0.5 + 0.4 * math.cos(math.pi * n / 100), 0.5 + 0.4 * math.sin(math.pi * n / 100)) for n in range(200)]
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        zone(circle)
    finally:
        sys.setprofile(None)
    assert calls < 5_000
