"""Which frames are looked at a second time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.sampling import ALERT, MORE, Budget, Sampler

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)


def taken(sampler, seconds, per_minute=4.0, found=None, camera="north"):
    """The seconds at which a frame is taken, of frames at these seconds."""
    chosen = []
    for second in seconds:
        at = BEGAN + timedelta(seconds=second)
        if sampler.due(camera, at, per_minute, found):
            sampler.take(camera, at, per_minute, found)
            chosen.append(second)
    return chosen


def test_a_share_of_each_camera():
    sampler = Sampler()
    assert taken(sampler, range(60)) == [0, 15, 30, 45]
    assert taken(sampler, range(60), camera="south") == [0, 15, 30, 45]
    assert taken(sampler, range(60, 120), per_minute=0) == []


def test_more_after_a_find_for_a_time():
    after = int(ALERT.total_seconds())
    seconds = range(0, after + 61)
    frames = taken(Sampler(), seconds, found=BEGAN)
    assert len([second for second in frames if second <= after]) == 40 * after // 60 + 1
    assert len([second for second in frames if second > after]) <= 5
    assert MORE == 10


def test_a_frame_that_was_due_and_not_taken_leaves_it_to_the_next():
    sampler = Sampler()
    at = BEGAN + timedelta(seconds=1)
    assert sampler.due("north", at, 4.0, None)
    assert taken(sampler, [2, 3]) == [2]


@given(st.lists(st.floats(0, 600), min_size=1, max_size=60).map(sorted), st.data())
def test_a_worker_that_begins_again_takes_what_the_one_before_took(seconds, data):
    """So that what it looked at and did not acknowledge is looked at again."""
    first = taken(Sampler(), seconds)
    begin = data.draw(st.integers(0, len(seconds) - 1))
    again = taken(Sampler(), seconds[begin:])
    assert {second for second in first if second >= seconds[begin]} <= set(again) | set(seconds[:begin])


def test_a_budget_is_spent_and_comes_back():
    now = [0.0]
    budget = Budget(0.2, lambda: now[0])
    budget.charge(1.9)
    assert budget.left
    budget.charge(1.1)  # ten seconds' worth is two
    assert not budget.left
    now[0] = 4.9
    assert not budget.left
    now[0] = 5.1
    assert budget.left
    now[0] = 1000.0
    assert budget.left
    budget.charge(2.0)  # no more than ten seconds' worth was saved
    assert not budget.left


def test_with_all_of_its_time_a_worker_leaves_out_nothing():
    now = [0.0]
    budget = Budget(1.0, lambda: now[0])
    for _ in range(100):
        now[0] += 1.0
        assert budget.left
        budget.charge(1.0)
