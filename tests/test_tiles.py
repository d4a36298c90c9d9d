"""Tiles: every object no longer than the overlap is whole in one, and merging loses nothing at a border."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.models import scales, tiles
from sfumato.models.tiles import TooManyViews, View


@given(st.integers(16, 8000), st.integers(32, 1000), st.integers(0, 31), st.data())
def test_whatever_is_no_longer_than_the_overlap_is_whole_in_a_tile(length, longest, overlap, data):
    starts, tile = tiles.cut(length, longest, overlap)
    assert tile <= max(longest, 0) or tile == length <= longest
    assert starts[0] == 0
    assert starts[-1] + tile == length
    size = min(overlap, length)
    at = data.draw(st.integers(0, length - size))
    assert any(start <= at and at + size <= start + tile for start in starts)


def test_no_tile_more_than_needed():
    assert tiles.cut(100, 100, 20) == ([0], 100)
    assert tiles.cut(101, 100, 20) == ([0, 40], 61)
    with pytest.raises(TooManyViews):
        tiles.cut(100, 20, 20)


def merged(*rows):
    boxes = np.array([row[:4] for row in rows], float)
    kept = tiles.merge(boxes, np.array([r[4] for r in rows]), np.array([r[5] for r in rows], bool), 0.5)
    return [(*box, score) for box, score in zip(kept[0].tolist(), kept[1].tolist(), strict=True)]


def test_the_better_of_two_whole_boxes_stays():
    assert merged((0, 0, 10, 20, 0.5, False), (1, 0, 10, 20, 0.9, False)) == [(1, 0, 10, 20, 0.9)]
    assert len(merged((0, 0, 10, 20, 0.5, False), (9, 0, 19, 20, 0.9, False))) == 2


def test_a_box_cut_at_a_border_stays_unless_a_better_one_covers_it():
    """A person whose upper half one tile saw better than another saw the whole: both, or the legs stay bare."""
    upper, whole = (0, 0, 10, 12, 0.9, True), (0, 0, 10, 20, 0.5, False)
    assert sorted(merged(upper, whole)) == [(0, 0, 10, 12, 0.9), (0, 0, 10, 20, 0.5)]
    assert merged((0, 0, 10, 12, 0.5, True), (0, 0, 10, 20, 0.9, False)) == [(0, 0, 10, 20, 0.9)]


def test_boxes_come_back_in_the_pixels_of_the_picture():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[60:70, 110:130] = 255

    def find(pixels):
        y, x = np.nonzero(pixels[:, :, 0] > 128)
        boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
        return np.array(boxes, float).reshape(-1, 4), np.ones(len(boxes))

    views = [View((0, 0, 200, 100), 100, 50), View((100, 50, 200, 100), 200, 100), View((0, 0, 50, 50), 50, 50)]
    boxes, scores = tiles.look(picture, views, find, 0.5)
    np.testing.assert_allclose(boxes, [[110, 60, 130, 70]], atol=1)
    assert scores.tolist() == [1]


def test_a_box_that_is_not_a_number_raises():
    """The object was seen, and nobody knows where: left out, it would stay open."""
    picture, box = np.zeros((100, 100, 3), np.uint8), np.array([[10.0, np.nan, 20.0, 20.0]])
    with pytest.raises(RuntimeError, match="not a number"):
        tiles.look(picture, [View((0, 0, 100, 100), 100, 100)], lambda _: (box, np.ones(1)), 0.5)
    with pytest.raises(RuntimeError, match="not a number"):
        scales.look(picture, 1.0, lambda _: (box, np.zeros((1, 4, 2)), np.ones(1)), 0.5)


def test_what_would_need_too_many_views_is_refused():
    looked_at = []
    with pytest.raises(TooManyViews):
        tiles.look(np.zeros((9, 9, 3), np.uint8), [View((0, 0, 9, 9), 9, 9)] * 65, looked_at.append, 0.5)
    assert looked_at == []
