"""The rules of a consumer: which units may be decoded, which pictures are new."""

from __future__ import annotations

import pytest

from sfumato.agents.decoding import UndecodableError, UnitDecoder
from sfumato.agents.runs import WINDOW, Following, Seen
from sfumato.schemas.cloudevent import FrameId
from tests.filming import Encoder, shade


def test_pictures_may_go_back_by_a_few_but_never_come_twice():
    seen = Seen()
    assert [seen.add(FrameId("a", 1, n)) for n in (0, 2, 1, 1, 2, 3)] == [True, True, True, False, False, True]


def test_an_older_epoch_is_left_out_and_a_new_one_begins_again():
    seen = Seen()
    assert [seen.add(FrameId("a", e, n)) for e, n in ((1, 5), (2, 0), (1, 6), (2, 1))] == [True, True, False, True]


def test_what_is_older_than_the_window_counts_as_seen():
    seen = Seen()
    for n in range(0, 4 * WINDOW, 2):
        assert seen.add(FrameId("a", 1, n))
    newest = 4 * WINDOW - 2
    assert seen.add(FrameId("a", 1, newest - 1))
    assert not seen.add(FrameId("a", 1, newest - WINDOW - 1))
    assert len(seen._recent) <= 2 * WINDOW


def test_a_run_is_joined_at_a_keyframe_and_left_at_a_gap():
    units = [frame.unit for frame in Encoder("a", interval=4).film(*range(12))]
    following = Following()
    assert [following.admits(unit) for unit in units[1:6]] == [False, False, False, True, True]
    assert not following.admits(units[4])  # again
    assert following.admits(units[6])
    assert [following.admits(unit) for unit in units[8:10]] == [True, True]
    assert [following.admits(unit) for unit in (units[11], units[10])] == [False, False]


def test_another_run_is_followed_from_its_keyframe_on():
    one, two = ([frame.unit for frame in Encoder("a", interval=4).film(*range(8))] for _ in range(2))
    following = Following()
    mixed = [one[0], two[1], one[1], two[4], one[2], two[5]]
    assert [following.admits(unit) for unit in mixed] == [True, False, True, True, False, True]


def test_pictures_get_their_marks_back_and_damage_lasts_until_the_next_keyframe():
    frames = Encoder("a", interval=5).film(*range(15))
    decoder: UnitDecoder[int] = UnitDecoder()
    shown = {}
    for n, frame in enumerate(frames):
        if n == 7:
            continue
        try:
            shown |= dict(decoder.decode(frame, n))
        except UndecodableError:
            assert n in (8, 9)
    assert list(shown) == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14]
    for n, picture in shown.items():
        assert picture.to_ndarray(format="bgr24").mean() == pytest.approx(shade(n), abs=4)
