"""Who is who: a person is followed as long as there is no doubt, and nobody else is ever taken for them."""

from __future__ import annotations

import random

import pytest

from sfumato.models import boxes
from sfumato.models.subject import Moment, SubjectError, follow, parts
from sfumato.models.tracks import Timeline
from sfumato.schemas.detection import Detection, Evidence, Target

BODY = (100.0, 100.0, 200.0, 400.0)
FACE = (130.0, 110.0, 170.0, 160.0)
ELSEWHERE = (400.0, 100.0, 500.0, 400.0)
STEP = 0.1
BEGAN = 1_700_000_000.0
"""As cameras' clocks say it: a second has no more than seven digits then."""


def seen(target: str, box: tuple, track: int, evidence: Evidence = Evidence.DETECTED) -> Detection:
    return Detection(target=Target(target), score=0.9, box=box, track=track, evidence=evidence)


def person(box: tuple, track: int, **keys) -> Detection:
    return seen("person", box, track, **keys)


def face(box: tuple, track: int, **keys) -> Detection:
    return seen("face", box, track, **keys)


def moved(box: tuple, by: float) -> tuple:
    return box[0] + by, box[1], box[2] + by, box[3]


def clip(*pictures: list[Detection], runs: tuple[int, ...] = (), step: float = STEP) -> list[Moment]:
    return [Moment(n * step, runs[n] if runs else 0, tuple(found)) for n, found in enumerate(pictures)]


def shown(moments: list[Moment], chosen: int, box: tuple) -> list[bool]:
    return [place.certain for place in follow(moments, chosen, box)]


ME = [person(BODY, 1), face(FACE, 2)]


def test_a_person_is_followed_both_ways_with_their_face_and_nobody_elses():
    other = [person(ELSEWHERE, 3), face(moved(FACE, 300), 4)]
    walk = [[person(moved(BODY, 5 * n), 1), face(moved(FACE, 5 * n), 2), *other] for n in range(20)]
    for box in (moved(BODY, 50), moved(FACE, 50)):
        places = follow(clip(*walk), 10, box)
        assert [{d.track for d in place.own} for place in places] == [{1, 2}] * 20


def test_the_box_of_a_part_of_the_body_chooses_the_body():
    assert all(shown(clip(ME, ME), 0, (100.0, 100.0, 200.0, 220.0)))


@pytest.mark.parametrize(("box", "why"), [((0, 0, 50, 50), "no person or face"), ((99, 99, 201, 401), "two people")])
def test_a_choice_that_is_nobody_or_two_is_refused(box, why):
    two = [person(BODY, 1), person(moved(BODY, 10), 2)]
    with pytest.raises(SubjectError, match=why):
        follow(clip(two), 0, box)


def test_what_was_only_predicted_cannot_be_chosen():
    with pytest.raises(SubjectError, match="no person or face"):
        follow(clip([person(BODY, 1, evidence=Evidence.TRACKED)]), 0, BODY)


def test_somebody_too_close_in_the_chosen_frame_is_refused():
    with pytest.raises(SubjectError, match="too close"):
        follow(clip([person(BODY, 1), person(moved(BODY, 45), 2)]), 0, BODY)


@pytest.mark.parametrize("evidence", [Evidence.DETECTED, Evidence.TRACKED, Evidence.LOOKAHEAD])
def test_after_two_cross_nobody_is_the_person_any_more(evidence):
    crossing = [*ME, person(moved(BODY, 45), 3, evidence=evidence)]
    assert shown(clip(ME, ME, crossing, ME, ME), 0, BODY) == [True, True, False, False, False]
    assert shown(clip(ME, ME, crossing, ME, ME), 4, BODY) == [False, False, False, True, True]


def test_a_light_touch_is_no_doubt():
    touching = [*ME, person(moved(BODY, 80), 3)]
    assert shown(clip(ME, touching, ME), 0, BODY) == [True] * 3


def test_a_second_face_in_the_body_is_somebody_else():
    behind = [*ME, face((150.0, 150.0, 190.0, 200.0), 5)]
    assert shown(clip(ME, behind, ME), 0, BODY) == [True, False, False]
    own_track_again = [person(BODY, 1), face(FACE, 2), face((172.0, 110.0, 198.0, 150.0), 6)]
    assert (
        shown(clip(ME, [person(BODY, 1), face((172.0, 110.0, 198.0, 150.0), 6)], own_track_again), 0, BODY)[2] is False
    )


def test_a_lost_track_is_not_shown_and_after_a_long_gap_not_believed():
    gone: list[Detection] = []
    held = [person(BODY, 1, evidence=Evidence.TRACKED)]
    assert shown(clip(ME, gone, held, ME), 0, BODY) == [True, False, False, True]
    assert shown(clip(ME, *[held] * 6, ME), 0, BODY) == [True] + [False] * 7


def test_a_box_that_jumps_or_grows_is_somebody_else():
    far = [person(moved(BODY, 60), 1)]
    assert shown(clip(ME, far, far), 0, BODY) == [True, False, False]
    both_of_us = [person((100.0, 100.0, 380.0, 400.0), 1)]
    assert shown(clip(ME, both_of_us), 0, BODY) == [True, False]
    near = [person(moved(BODY, 60), 1)]
    assert shown(clip(ME, near, near, step=0.5), 0, BODY) == [True] * 3  # half a second later that is a walk
    assert shown(clip(ME, ME, step=0.6), 0, BODY) == [True, False]


def test_while_a_person_is_hidden_whoever_is_close_may_take_their_place():
    hidden = [person(BODY, 1, evidence=Evidence.TRACKED), person(moved(BODY, 20), 3)]
    assert shown(clip(ME, hidden, ME), 0, BODY) == [True, False, False]
    passer_by, far_away = person(moved(BODY, 150), 3), person(moved(BODY, 400), 3)
    for other, believed in ((passer_by, False), (far_away, True)):
        pictures = [[*ME, other], [person(BODY, 1, evidence=Evidence.TRACKED), other], [*ME, other]]
        assert shown(clip(*pictures), 0, BODY) == [True, False, believed]
        assert shown(clip([*ME, other], [*ME, other], step=0.2), 0, BODY) == [True, believed]
    missed_until_then = clip(ME, ME, [*ME, passer_by], step=0.2)
    assert shown(missed_until_then, 0, BODY) == [True, False, False]


def test_somebody_who_covers_the_person_and_is_gone_at_once_may_be_in_their_place():
    covering = [person(BODY, 1), person(moved(BODY, 55), 3)]
    assert shown(clip(covering, covering), 0, BODY) == [True, True]
    assert shown(clip(covering, [person(moved(BODY, 20), 1)]), 0, BODY) == [True, False]
    assert shown(clip([person(BODY, 1)], covering), 0, BODY) == [True, False]


def meeting(chance: random.Random, rate: int, faces: bool) -> tuple[list[Moment], list[tuple], list[bool]]:
    """Two people who meet and pass, or turn back; whoever is behind is not found while they are covered. Their tracks
    are the tracker's. Returns both bodies picture by picture, and whether the first one was found."""
    pictures, first, gap = max(6, 3 * rate), 100.0, chance.uniform(65, 220)
    second, height, hides, in_front = (
        first + gap,
        chance.uniform(-8, 8),
        chance.uniform(0.15, 0.9),
        chance.random() < 0.5,
    )
    speeds = [chance.uniform(0, 200), chance.uniform(-250, 0)]
    turns = [chance.randrange(2, 2 * pictures) for _ in speeds]
    timeline, times, truth, found = Timeline(1.0, reach=0.0), [], [], []
    for number in range(pictures):
        bodies = (first, 50.0, first + 60, 230.0), (second, 50.0 + height, second + 60, 230.0 + height)
        seen = [boxes.cover(*bodies) < hides or front for front in (in_front, not in_front)]
        shapes = [(Target.PERSON, body) for body, there in zip(bodies, seen, strict=True) if there]
        shapes += [(Target.FACE, head(body)) for _, body in shapes] if faces else []
        times.append(BEGAN + number / rate)
        timeline.append(times[-1], (640, 360), [Detection(target=t, score=0.9, box=b) for t, b in shapes])
        truth.append(bodies)
        found.append(seen[0])
        ways = [speed if number < turn else -speed for speed, turn in zip(speeds, turns, strict=True)]
        first, second = first + ways[0] / rate, second + ways[1] / rate
    return [Moment(time, 0, timeline.pop()) for time in times], truth, found


def head(body: tuple) -> tuple:
    return body[0] + 18, body[1] + 6, body[0] + 42, body[1] + 38


def others_shown(moments: list[Moment], truth: list[tuple], chosen: int) -> list[int]:
    """The pictures in which a box of the other's is taken for the person's; [] where the choice is refused."""
    try:
        places = follow(moments, chosen, truth[chosen][0])
    except SubjectError:
        return []
    assert places[chosen].certain
    wrong = []
    for number, (place, bodies) in enumerate(zip(places, truth, strict=True)):
        for own in place.own:
            mine, theirs = bodies if own.target is Target.PERSON else map(head, bodies)
            if boxes.overlap(own.box, theirs) > boxes.overlap(own.box, mine):
                wrong.append(number)
    return wrong


@pytest.mark.parametrize("faces", [False, True])
@pytest.mark.parametrize(("rates", "scenes"), [((1, 2, 3, 5), 60), ((8, 10, 12, 15, 25), 20)])
def test_of_two_who_meet_the_other_is_never_taken_for_the_person(rates, scenes, faces):
    chance = random.Random(1)
    for _ in range(scenes):
        for rate in rates:
            moments, truth, found = meeting(chance, rate, faces)
            for chosen in (0, len(moments) // 2, len(moments) - 1):
                if found[chosen]:
                    assert others_shown(moments, truth, chosen) == [], (rate, chosen)


def test_a_cut_ends_it():
    assert shown(clip(ME, ME, ME, runs=(0, 0, 1)), 0, BODY) == [True, True, False]


def test_a_face_that_leaves_the_body_and_one_that_enters_it_are_doubts():
    slowly = [[person(BODY, 1), face(moved(FACE, 12 * n), 2)] for n in range(6)]
    assert shown(clip(*slowly), 0, BODY) == [True, True, True, True, False, False]
    other = [[person(BODY, 1), face(moved(FACE, 60 - 12 * n), 2)] for n in range(6)]
    assert shown(clip(*other), 0, BODY) == [True, False, False, False, False, False]


def test_the_face_goes_on_where_the_body_is_lost():
    alone = [face(FACE, 2)]
    assert shown(clip(ME, *[alone] * 9), 0, BODY) == [True] * 10


def test_parts_of_the_body_are_the_persons_where_they_always_lie_in_it():
    lower = person((105.0, 250.0, 195.0, 400.0), 11)
    astray = person((150.0, 100.0, 320.0, 400.0), 12)
    places = follow(clip(ME, ME), 0, BODY)
    masked = ([lower, astray, *ME], [lower, *ME])
    assert parts(zip(masked, places, strict=True)) == {11, 1, 2}
    strayed = ([lower, *ME], [person(moved(lower.box, 60), 11), *ME])
    assert parts(zip(strayed, places, strict=True)) == {1, 2}


def test_text_in_the_face_is_none_and_text_on_the_body_stays_masked():
    places = follow(clip(ME, ME), 0, BODY)
    in_face, on_body = seen("text", (140.0, 120.0, 150.0, 126.0), 21), seen("text", (130.0, 220.0, 160.0, 230.0), 22)
    masked = ([*ME, in_face, on_body], [*ME, in_face])
    assert parts(zip(masked, places, strict=True)) == {1, 2, 21}
