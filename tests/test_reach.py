"""Whether the broker is in reach, by what it answers and what comes from it."""

import pytest

from sfumato.agents import reach
from sfumato.agents.reach import Reach


@pytest.fixture
def now(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(reach.time, "monotonic", lambda: clock[0])
    return clock


def test_answers_without_records_keep_it_in_reach(now):
    polls = [0.0]
    found = Reach(lambda: polls[0], 5.0)
    for _ in range(30):
        now[0] += 1
        polls[0] += 1
        found.lasts()
    assert (found.lasts(), found.since) == (30.0, 1000.0)


def test_after_a_silence_it_begins_anew(now):
    polls = [0.0]
    found = Reach(lambda: polls[0], 5.0)
    found.lasts()
    for seconds in range(1, 31):
        now[0] += 1
        assert (found.lasts() == 0.0) == (seconds > 5)
    polls[0] = 1.0
    assert found.lasts() == 0.0
    now[0] += 2
    assert (found.lasts(), found.since) == (2.0, 1030.0)


def test_records_from_a_full_buffer_are_signs_of_life(now):
    """Nothing is fetched while the worker has enough to do."""
    found = Reach(lambda: 7.0, 5.0)
    for _ in range(10):
        now[0] += 3
        found.hear()
    assert found.lasts() == 30.0
