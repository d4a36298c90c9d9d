"""The set of frames that `sfumato verify` counts with."""

from __future__ import annotations

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
    inside = {(e, n) for e in range(3) for n in range(41) if found.between(e, n)}
    assert each(found.gaps()) == inside - plain
    assert plain <= inside
