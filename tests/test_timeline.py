"""Access units under the cap of a frame rate, and in times that run on: over loops, breaks and jumps."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import pytest

from sfumato.agents.units import Timeline
from tests.footage import (
    MOVING,
    Reader,
    decoded,
    film,
    losses,
    number_in,
    numbers_in,
    packets,
    units_of,
    write_video,
)

# The cap


def test_the_cap_marks_what_others_need(tmp_path: Path) -> None:
    reader = Reader(film(tmp_path / "a.mp4", "h264").as_uri(), pace="fast", fps=5)
    found = reader.pictures()
    assert [unit.discard for unit in units_of(found)] == [False, True] * 25
    assert reader.skipped == 0
    assert numbers_in(found) == MOVING[::2]


@pytest.mark.parametrize("name", ["h264 with B-frames", "h265 with an open GOP"])
def test_the_cap_leaves_out_what_no_other_needs(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / "a.ts", name)
    reader = Reader(path.as_uri(), pace="fast", fps=2)
    found = reader.pictures()
    assert reader.skipped >= 5
    assert len(found) == 50 - reader.skipped
    taken = [unit for unit in units_of(found) if not unit.discard]
    assert 10 <= len(taken) <= 11
    numbers = {packet.pts: n for n, packet in enumerate(sorted(packets(path), key=lambda packet: packet.pts))}
    assert numbers_in(found) == [MOVING[numbers[pts]] for pts in sorted(unit.pts for unit in taken)]


def test_a_loop_of_one_picture_under_the_cap(tmp_path: Path) -> None:
    reader = Reader(write_video(tmp_path / "a.mp4", 1).as_uri(), loop=True, fps=12.5, pace="fast")
    assert [unit.discard for unit in units_of(list(islice(reader, 4)))] == [False, True, False, True]


# Times that run on


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "h264"])
@pytest.mark.parametrize("name", ["h264", "h264 with B-frames", "h264 with an open GOP"])
def test_the_rounds_of_a_loop_are_one_stream(tmp_path: Path, name: str, container: str) -> None:
    path = film(tmp_path / f"a.{container}", name, MOVING[:20])
    found = list(islice(Reader(path.as_uri(), pace="fast", loop=True), 60))
    assert losses(found) == []
    frames = decoded(found, strict=container != "h264")
    assert [number_in(frame.to_ndarray(format="bgr24")) for frame in frames] == MOVING[:20] * 3
    times = sorted(unit.pts for unit in units_of(found))
    steps = {round(float((b - a) * units_of(found)[0].time_base), 2) for a, b in pairwise(times)}
    assert steps == {0.1} if container != "h264" else {0.04, 0.1} >= steps
    decode_times = [unit.pts if unit.dts is None else unit.dts for unit in units_of(found) if unit.dts is not None]
    assert all(a < b for a, b in pairwise(decode_times))


def test_another_time_base_joins_the_first() -> None:
    timeline = Timeline()
    assert timeline.place(1000, 1000, Fraction(1, 1000)).pts == 1000
    timeline.join(live=False)
    placed = timeline.place(0, 0, Fraction(1, 90_000))
    assert (placed.pts, placed.time_base) == (1040, Fraction(1, 1000))
    assert timeline.place(9000, 9000, Fraction(1, 90_000)).pts == 1140


def test_a_live_camera_that_comes_back_has_missed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sfumato.agents.units.time.monotonic", lambda: now)
    timeline = Timeline()
    assert [timeline.place(t, t, Fraction(1, 10)).pts for t in (500, 501)] == [500, 501]
    now += 7
    timeline.join(live=True)
    assert [timeline.place(t, t, Fraction(1, 10)).pts for t in (3, 4)] == [571, 572]


def test_the_time_of_what_is_dropped_passes_too() -> None:
    timeline = Timeline()
    assert [timeline.place(t, t, Fraction(1, 10)).pts for t in (0, 1)] == [0, 1]
    for time in (2, 3, 4):
        timeline.pass_over(time, time, Fraction(1, 10))
    timeline.join(live=False)
    timeline.pass_over(0, 0, Fraction(1, 10))  # before the first keyframe
    assert [timeline.place(t, t, Fraction(1, 10)).pts for t in (1, 2)] == [5, 6]


@pytest.mark.parametrize("jump", [-50_000, 2**61, -(2**61)])
def test_a_jump_in_a_streams_time_is_one_frame(jump: int) -> None:
    timeline = Timeline()
    times = [0, 100, 200, 200 + jump, 300 + jump, 400 + jump]
    placed = [timeline.place(t, t, Fraction(1, 1000)).pts for t in times]
    assert placed == [0, 100, 200, 300, 400, 500]


def test_no_time_is_given_twice() -> None:
    timeline = Timeline()
    placed = [timeline.place(t, t, Fraction(1, 1000)) for t in (0, 40, 40, 40, 80, 79)]
    assert len({unit.pts for unit in placed}) == 6
    decode_times = [unit.pts if unit.dts is None else unit.dts for unit in placed]
    assert all(a < b for a, b in pairwise(decode_times))


def test_capture_times_by_arrival_follow_the_presentation(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", "h264 with B-frames", MOVING[:15])
    found = Reader(path.as_uri()).pictures()
    assert any(unit.dts is not None for unit in units_of(found))
    by_presentation = [p.captured_at for p in sorted(found, key=lambda p: p.unit.pts)]
    assert by_presentation == sorted(by_presentation)
