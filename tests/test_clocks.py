"""Whose clock is believed, the cap on frames per second, and the time of files."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.clocks import CameraClock, Cap, FileClock
from sfumato.schemas.frame import TimeSource


class ReferencePacket:
    """A packet with the side data that FFmpeg makes of an RTCP sender report."""

    time_base = 1

    def __init__(self, pts: int, wallclock: float) -> None:
        self.pts = pts
        self._content = int(wallclock * 1e6).to_bytes(8, "little", signed=True) + bytes(8)

    def has_sidedata(self, _: str) -> bool:
        return True

    def get_sidedata(self, _: str) -> bytes:
        return self._content


@pytest.mark.parametrize(
    ("skew", "source"),
    [(-9, TimeSource.CAMERA), (9, TimeSource.CAMERA), (-11, TimeSource.ARRIVAL), (11, TimeSource.ARRIVAL)]
    + [(skew, TimeSource.ARRIVAL) for skew in (-2e9, 9e11, -9e11)],
)
def test_a_cameras_clock_is_trusted_within_bounds(skew: float, source: TimeSource) -> None:
    clock, now = CameraClock(), time.time()
    clock.learn(ReferencePacket(100, now + skew))
    captured_at, said = clock.capture_time(100.0)
    expected = now + skew if source is TimeSource.CAMERA else now
    assert said is source
    assert abs(captured_at.timestamp() - expected) < 0.5


def test_before_the_first_report_the_arrival_counts() -> None:
    assert CameraClock().capture_time(5.0)[1] is TimeSource.ARRIVAL


@given(st.floats(0.5, 60), st.floats(1, 100), st.integers(0, 2**32 - 1))
def test_the_cap_is_kept_and_used(cap: float, rate: float, seed: int) -> None:
    """Frames with jitter, at any rate: over ten seconds no more than the cap, and not much less."""
    jitter = np.random.default_rng(seed).uniform(-0.2, 0.2, round(10 * rate)) / rate
    limiter = Cap(cap)
    taken = sum(limiter.admits(float(at)) for at in np.arange(round(10 * rate)) / rate + jitter)
    offered = round(10 * rate)
    assert taken <= min(offered, 10 * cap + 2)
    if rate >= 2 * cap:
        assert taken >= 0.75 * 10 * cap - 1


def test_the_cap_follows_a_jump_back() -> None:
    limiter = Cap(1)
    assert [limiter.admits(at) for at in (1000.0, 1000.5, 1001.0, 3.0, 3.5, 4.0)] == [True, False, True] * 2


def test_a_jump_in_a_files_time_is_no_pause() -> None:
    clock = FileClock(real_time=True, stopping=threading.Event())
    clock.begin_round()
    times = [clock.advance(seconds) for seconds in (0.0, 0.1, 95_000.0, 95_000.1, 2.0, None, 2.1)]
    steps = [round(b - a, 3) for a, b in pairwise(times)]
    assert times[0] == 0
    assert steps == [0.1] * 6
