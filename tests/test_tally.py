"""The set of frames that `sfumato verify` counts with."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.evidence.tally import Frames
from sfumato.schemas.segment import Run


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 9))))
def test_runs_make_the_set_of_their_frames(runs: list[tuple[int, int, int]]) -> None:
    given_runs = [Run(epoch=epoch, first=first, last=first + length) for epoch, first, length in runs]
    found = Frames(given_runs).runs()
    assert {(r.epoch, n) for r in found for n in range(r.first, r.last + 1)} == {
        (r.epoch, n) for r in given_runs for n in range(r.first, r.last + 1)
    }
    assert all(a.epoch < b.epoch or (a.epoch == b.epoch and a.last + 1 < b.first) for a, b in pairwise(found))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40))),
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 9)),
)
def test_frames_are_a_set(frames: list[tuple[int, int]], run: tuple[int, int, int]) -> None:
    found, plain = Frames(), set()
    for frame in frames:
        assert found.add(*frame) == (frame not in plain)
        plain.add(frame)

    def each(runs: Iterable[Run]) -> set[tuple[int, int]]:
        return {(run.epoch, n) for run in runs for n in range(run.first, run.last + 1)}

    assert each(found.runs()) == plain
    assert each(Frames(found.runs()[::-1]).runs()) == plain
    assert all(found.has(*frame) for frame in plain)
    epoch, first, length = run
    wanted = Run(epoch=epoch, first=first, last=first + length)
    assert each(found.absent(wanted)) == each([wanted]) - plain
    lasts = {e: max(n for each, n in plain if each == e) for e, _ in plain}
    assert each(found.gaps()) | each(found.before()) == {(e, n) for e in lasts for n in range(lasts[e])} - plain
    firsts = {e: min(n for each, n in plain if each == e) for e, _ in plain}
    assert each(found.before()) == {(e, n) for e in firsts for n in range(firsts[e])}


def test_gaps_are_compared_without_going_through_all_runs_for_each() -> None:
    """What is between 250 and 1,000 isolated frames costs as much for each: counted in lines of Python."""

    def lines(count: int) -> int:
        seen, stated, counted = Frames(), Frames(), 0
        for number in range(count):
            seen.add(1, 2 * number)
            stated.add(1, 2 * number + 1)

        def trace(*_: object) -> object:
            nonlocal counted
            counted += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            found = [part for gap in seen.gaps() for part in stated.absent(gap)]
        finally:
            sys.settrace(before)
        assert found == []
        return counted

    assert lines(1000) < 5 * lines(250)
