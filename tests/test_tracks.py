"""Boxes over time: what was missed for a moment stays masked, before and after."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.models.regions import around
from sfumato.models.tracks import GATE, Timeline
from sfumato.schemas.detection import Detection, Evidence, Target
from sfumato.schemas.masking import Masking, Shape

OUTLINE = ((100, 80), (200, 80), (200, 110), (100, 110))
SIZE = (640, 480)
STEP = 0.04
Box = tuple[float, float, float, float]


def face(x: float, y: float = 100.0, side: float = 40.0, weak: bool = False, target: Target = Target.FACE) -> Detection:
    evidence = Evidence.WEAK if weak else Evidence.DETECTED
    return Detection(target=target, score=0.06 if weak else 0.9, box=(x, y, x + side, y + side), evidence=evidence)


def film(frames, hold=1.0, reach=10.0, step=STEP, size=SIZE):  # type: ignore[no-untyped-def]
    """Each frame's boxes, looked at from the film's end."""
    timeline = Timeline(hold, reach)
    for number, found in enumerate(frames):
        timeline.append(number * step, size, found)
    assert len(timeline) == len(frames)
    return [timeline.pop() for _ in frames]


def covers(boxes, box: Box, slack: float = 1e-6) -> bool:  # type: ignore[no-untyped-def]
    return any(
        b.box[0] <= box[0] + slack
        and b.box[1] <= box[1] + slack
        and b.box[2] >= box[2] - slack
        and b.box[3] >= box[3] - slack
        for b in boxes
    )


def test_a_missed_frame_is_masked_where_the_object_must_be():
    """Live: nothing of later frames is known."""
    timeline, out = Timeline(1.0, 0.0), []
    for number in range(20):
        timeline.append(number * STEP, SIZE, [] if number in (10, 11, 12) else [face(100 + 8 * number)])
        out.append(timeline.pop())
    for number in (10, 11, 12):
        (held,) = out[number]
        assert held.evidence is Evidence.TRACKED
        assert covers([held], face(100 + 8 * number).box)
    assert {box.track for boxes in out for box in boxes} == {1}
    assert [boxes[0].evidence for boxes in out].count(Evidence.DETECTED) == 17


def test_a_mask_is_held_for_the_stated_time_and_grows():
    frames = [[face(100)] for _ in range(10)] + [[] for _ in range(40)]
    out = film(frames, hold=1.0)
    held = [boxes for boxes in out[10:] if boxes]
    assert len(held) == 25  # one second at 25 frames/s
    widths = [box.box[2] - box.box[0] for (box,) in held]
    assert widths == sorted(widths)
    assert 40 < widths[0] < 60 < widths[-1] <= 40 * 2.2
    assert out[35:] == [()] * 15


def test_what_moves_is_held_for_a_short_time_only():
    """Its regions merge and split; and the background remembers by itself."""
    out = film([[face(100, target=Target.MOTION)]] * 5 + [[]] * 20, hold=1.0)
    assert 6 <= sum(bool(boxes) for boxes in out[5:]) <= 8
    assert sum(bool(boxes) for boxes in film([[face(100, target=Target.MOTION)]] + [[]] * 20, hold=0.1)[1:]) == 2


def test_a_mask_ends_where_its_object_has_left_the_picture():
    out = film([[face(560 + 10 * n)] for n in range(6)] + [[] for _ in range(20)])
    assert [bool(boxes) for boxes in out[6:]] == [True] * 2 + [False] * 18
    assert all(0 <= b.box[0] < b.box[2] <= SIZE[0] for boxes in out[6:] for b in boxes)


def test_a_new_object_masks_the_frames_before_it_was_found():
    frames = [[] if n < 12 else [face(300 + 5 * n)] for n in range(20)]
    out = film(frames, reach=0.2)
    assert out[:7] == [()] * 7
    for number in range(7, 12):
        (back,) = out[number]
        assert back.evidence is Evidence.LOOKAHEAD
        assert back.track == 1
        assert covers([back], face(300 + 5 * number).box)
    assert film(frames, reach=0.0)[11] == ()


def test_a_frame_that_was_taken_out_is_not_changed_and_those_inside_are():
    timeline = Timeline(1.0, 0.2)
    for number in range(5):
        timeline.append(number * STEP, SIZE, [])
    assert timeline.pop() == timeline.pop() == ()
    timeline.append(5 * STEP, SIZE, [face(100)])
    assert [timeline.pop()[0].evidence for _ in range(3)] == [Evidence.LOOKAHEAD] * 3


def test_a_gap_is_bridged_on_the_way_that_the_object_took():
    """It stopped while it was not seen, so the prediction alone would miss it."""
    way = [100 + 6 * min(n, 5) for n in range(20)]
    missed = range(6, 12)
    frames = [[] if n in missed else [face(x)] for n, x in enumerate(way)]
    for number, boxes in enumerate(film(frames, reach=0.0)):
        assert covers(boxes, face(way[number]).box, slack=0.5), number


def test_weak_detections_only_continue_a_track():
    frames = [[face(300, weak=True)], [face(300)], [face(303, weak=True)], [face(50, 400, weak=True)]]
    out = film(frames, reach=0.0)
    assert out[0] == ()
    (followed,) = out[2]
    assert (followed.evidence, followed.track, followed.score) == (Evidence.DETECTED, 1, 0.06)
    assert covers(out[2], face(303).box)
    assert [box.evidence for box in out[3]] == [Evidence.TRACKED]
    assert not covers(out[3], face(50, 400).box)


def test_a_weak_detection_with_an_outline_masks_no_less_than_none():
    """Of a plate only a half is seen, and weakly: its outline alone would leave the other half bare."""
    plate = Detection(target=Target.LICENCE_PLATE, score=0.9, box=(100, 80, 200, 110), outline=OUTLINE)
    half = {"box": (100, 80, 150, 110), "outline": ((100, 80), (150, 80), (150, 110), (100, 110))}
    weak = plate.model_copy(update={**half, "score": 0.06, "evidence": Evidence.WEAK})
    out = film([[plate]] * 4 + [[weak]], reach=0.0)
    (sure,), (continued,) = out[3:]
    assert sure.outline == OUTLINE
    masked = around(continued, Masking(shape=Shape.OUTLINE, dilation=0), *SIZE)
    assert masked is not None
    assert masked.inside is None
    assert covers([continued], plate.box, slack=1.0)


def test_weak_detections_lead_back_beyond_the_reach():
    """Someone comes nearer: weak for half a second, then certain."""
    frames = [[face(100 + 6 * n, weak=n < 15)] if n > 2 else [] for n in range(20)]
    for number, boxes in enumerate(film(frames, reach=0.1)[3:15], 3):
        assert covers(boxes, face(100 + 6 * number).box), number
        assert {box.evidence for box in boxes} == {Evidence.LOOKAHEAD}


def test_two_that_cross_stay_masked():
    def both(n: int) -> list[Detection]:
        return [face(100 + 10 * n, 100), face(400 - 10 * n, 110)]

    hidden = range(12, 18)  # the one behind is not found
    out = film([both(n)[: 1 if n in hidden else 2] for n in range(31)])
    for number, boxes in enumerate(out):
        for shown in both(number):
            assert covers(boxes, shown.box, slack=1.0), number
    assert len({box.track for boxes in out for box in boxes}) <= 3


def test_a_small_one_that_moves_more_than_its_size_stays_one_track():
    plates = [[face(20 + 30 * n, side=20, target=Target.LICENCE_PLATE)] for n in range(15)]
    plates[7] = []
    out = film(plates)
    assert {box.track for boxes in out for box in boxes} == {1}
    assert covers(out[7], face(20 + 30 * 7, side=20).box)


def test_targets_are_followed_apart():
    out = film([[face(100), face(100, target=Target.PERSON)], [face(100)]], reach=0.0)
    assert [(b.target, b.evidence) for b in out[1]] == [
        (Target.FACE, Evidence.DETECTED),
        (Target.PERSON, Evidence.TRACKED),
    ]


def test_boxes_of_two_detectors_are_one_track_and_both_are_masked():
    found = [face(100), face(104, side=44)]
    out = film([found, found, []], reach=0.0)
    assert [b.box for b in out[1]] == [d.box for d in found]
    assert {b.track for b in out[1]} == {1}
    assert len(out[2]) == 1
    assert covers(out[2], (100, 100, 148, 144))


def test_a_cut_changes_nothing_before_it_and_keeps_the_masks_where_they_are():
    timeline = Timeline(1.0, 1.0)
    timeline.append(0.0, SIZE, [face(100)])
    timeline.append(0.04, SIZE, [])
    timeline.cut()
    timeline.append(0.08, SIZE, [face(300)])
    out = [timeline.pop() for _ in range(3)]
    assert [[box.track for box in boxes] for boxes in out] == [[1], [1], [2, 1]]
    assert out[2][1].box == out[1][0].box


@pytest.mark.parametrize("later", [5.0, 1e9])
def test_a_clock_that_jumps_ends_no_mask_before_its_time(later):
    """One that goes back is noticed; one that jumps ahead must be told."""
    timeline = Timeline(1.5, 1.0)  # a third of it for what was found once
    timeline.append(100.0, SIZE, [face(100)])
    timeline.append(100.2, SIZE, [])
    if later > 100:
        timeline.cut(clock=True)
    for step in (0.0, 0.2, 0.4):
        timeline.append(later + step, SIZE, [face(300)])
    assert [{b.track for b in timeline.pop()} for _ in range(5)] == [{1}, {1}, {1, 2}, {1, 2}, {2}]


def test_a_picture_of_another_size_keeps_its_masks():
    timeline = Timeline(1.0, 1.0)
    for number in range(3):
        timeline.append(number * STEP, SIZE, [face(100)])
    timeline.append(3 * STEP, (320, 240), [])
    held = [timeline.pop() for _ in range(4)][-1]
    assert covers(held, (50, 50, 70, 70))
    assert not covers(held, (100, 100, 140, 140))


def test_nothing_is_taken_back_into_pictures_of_another_size():
    timeline = Timeline(1.0, 1.0)
    timeline.append(0.0, SIZE, [])
    timeline.append(0.04, (320, 240), [])
    timeline.append(0.08, (320, 240), [face(100)])
    assert [len(timeline.pop()) for _ in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("box", [(0, 0, float("nan"), 9), (0, 0, float("inf"), 9), (5, 5, 5, 9), (-20, 0, -10, 9)])
def test_what_cannot_be_tracked_goes_through_as_it_is(box):
    odd = Detection(target=Target.FACE, score=0.5, box=box)
    out = film([[odd, face(100)], [face(100)]])
    assert len(out[0]) == 2
    assert any(found is odd for found in out[0])
    assert len(out[1]) == 1


def test_the_gate_is_wide_enough_for_a_walker_at_low_frame_rates():
    """Five frames a second, a face of 40 pixels that moves 60 between two of them."""
    assert GATE > 0
    out = film([[face(20 + 60 * n)] for n in range(8)], step=0.2)
    assert {box.track for boxes in out for box in boxes} == {1}


positions = st.tuples(st.integers(-10, 620), st.integers(-10, 460), st.integers(8, 120), st.booleans())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(positions, max_size=4), min_size=2, max_size=12),
    st.sampled_from([0.0, 0.1, 3.0]),
    st.sampled_from([0.0, 0.2, 2.0]),
)
def test_nothing_certain_is_lost_and_nothing_weak_comes_out(frames, hold, reach):
    found = [[face(x, y, side, weak) for x, y, side, weak in frame] for frame in frames]
    out = film(found, hold, reach)
    for detections, boxes in zip(found, out, strict=True):
        assert all(covers(boxes, d.box) for d in detections if d.evidence is Evidence.DETECTED)
        assert all(box.evidence is not Evidence.WEAK for box in boxes)
    later = Timeline(hold, 0.0)
    live = []
    for number, detections in enumerate(found):
        later.append(number * STEP, SIZE, detections)
        live.append(later.pop())
    for number in range(1, len(frames)):
        if hold == 3.0:  # nothing has ended yet, but what left the picture
            gone = {b.track for b in live[number - 1]} - {b.track for b in live[number]}
            assert all(edge(b.box) for b in live[number - 1] if b.track in gone)


def test_without_hold_nothing_is_held_across_a_cut_though_time_stands_still():
    timeline = Timeline(hold=0.0, reach=0.0)
    timeline.append(1.0, SIZE, [face(100)])
    timeline.pop()
    timeline.cut(clock=True)
    for _ in range(2):
        timeline.append(2.0, SIZE, [])
        assert timeline.pop() == ()


def edge(box: Box) -> bool:
    return box[0] <= 130 or box[1] <= 130 or box[2] >= SIZE[0] - 130 or box[3] >= SIZE[1] - 130


@pytest.mark.parametrize(("hits", "held"), [(1, 3), (2, 6), (3, 9), (5, 9)])
def test_what_was_found_seldom_is_held_for_less(hits, held):
    timeline = Timeline(0.9, 0.0)
    for number in range(hits):
        timeline.append(number * 0.1, SIZE, [face(100)])
    for number in range(hits, hits + 12):
        timeline.append(number * 0.1 - 0.01, SIZE, [])
    assert sum(bool(timeline.pop()) for _ in range(hits + 12)) == hits + held
