"""Which pictures are looked at, and what is masked in those that are not; items made ahead."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.models import boxes
from sfumato.models.ahead import ahead
from sfumato.models.looking import Sight, Watcher, between, step
from sfumato.schemas.detection import Detection, Evidence, Target
from sfumato.schemas.outcome import Reason


def sight(*found: tuple[float, float, float, float], evidence: Evidence = Evidence.DETECTED) -> Sight:
    return Sight(tuple(Detection(target=Target.FACE, score=0.8, box=box, evidence=evidence) for box in found))


def watch(truth: Sequence[Sight], step: int, batch: int = 3) -> tuple[list[Sight], list[int]]:
    seen: list[int] = []

    def look(numbers: Sequence[int]) -> list[Sight]:
        seen.extend(numbers)
        return [truth[number] for number in numbers]

    watched = list(Watcher(look, step, batch).watch(range(len(truth))))
    assert [number for number, _ in watched] == list(range(len(truth)))
    assert len(seen) == len(set(seen))
    return [found for _, found in watched], sorted(seen)


def test_the_step_follows_the_rate():
    assert [step(rate) for rate in (5, 10, 15, 25, 29.97, 50, 60)] == [1, 1, 1, 3, 3, 6, 7]


def test_where_all_stand_still_only_every_step_is_looked_at():
    found, seen = watch([sight((10, 10, 30, 30))] * 20, 4)
    assert seen == [0, 3, 7, 11, 15, 19]
    assert all(len(one.detections) == 1 for one in found)
    assert [one.looked for one in found].count(True) == len(seen)


def test_between_two_places_both_are_masked():
    joined = between(sight((10, 10, 30, 30)), sight((14, 10, 34, 30)))
    assert joined is not None
    (detection,) = joined.detections
    assert detection.box == (10, 10, 34, 30)
    assert detection.evidence is Evidence.TRACKED


@pytest.mark.parametrize(
    "other",
    [sight(), sight((60, 10, 80, 30)), Sight((), Reason.DETECTOR_ERROR), sight((10, 10, 30, 30), (50, 50, 70, 70))],
)
def test_what_differs_is_looked_at_in_between(other):
    assert between(sight((10, 10, 30, 30)), other) is None
    assert between(other, sight((10, 10, 30, 30))) is None
    _, seen = watch([sight((10, 10, 30, 30))] * 8 + [other] * 8, 4)
    assert {7, 8, 9} <= set(seen)


def test_weak_boxes_alone_need_no_second_look():
    joined = between(sight((10, 10, 30, 30), evidence=Evidence.WEAK), sight())
    assert joined is not None
    assert [detection.evidence for detection in joined.detections] == [Evidence.WEAK]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(4, 30), st.integers(0, 60), st.integers(-6, 6)), max_size=4),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_what_is_in_view_for_a_step_is_masked_throughout(objects, step, batch):
    """Objects that move evenly: in each picture, at least nine tenths of each lie under some box."""
    length = 40

    def at(number: int) -> list[tuple[float, float, float, float]]:
        return [
            (x + v * number, 100.0 * row, x + v * number + 40.0, 100.0 * row + 40.0)
            for row, (start, shown, x, v) in enumerate(objects)
            if start <= number < start + max(shown, step)
        ]

    found, _ = watch([sight(*at(number)) for number in range(length)], step, batch)
    for number in range(length):
        for box in at(number):
            assert max(boxes.share(box, d.box) for d in found[number].detections) > 0.9


def test_items_made_ahead_come_in_order_and_errors_with_them():
    def made():
        yield 1
        yield 2
        raise ValueError("no third")

    items = ahead(made(), 1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(items)


def test_closing_ends_the_thread_and_what_it_reads():
    closed = threading.Event()

    def made():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = ahead(made(), 2)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
