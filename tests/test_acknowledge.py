"""What may be committed: nothing that a worker would have to read again, and nothing out of order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents import acknowledge
from sfumato.agents.acknowledge import Acknowledger
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.audit import Origin
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import H264, RawUnit
from tests.encoding import RATE, raw_frame

DAY = 86_400.0


def origin(offset: int, partition: int = 0) -> Origin:
    return Origin(topic="frames.raw", partition=partition, offset=offset)


def task(camera: str, kind: str, offset: int) -> Task:
    """``kind``: K for a keyframe, P for a unit that needs those before it, L for one that is shown before the keyframe
    it follows and needs the group before that, S for a still."""
    frame = raw_frame(0, b"", RawUnit(offset - 1000 * (kind == "L"), RATE, kind == "K"), H264, camera)
    if kind == "S":
        frame = replace(frame, unit=None, content_type="image/jpeg")
    return Task(frame, NoPolicy(Reason.NO_POLICY))


class Partition:
    """One partition and what was committed of it: events are their own offsets."""

    def __init__(self, idle: float = DAY, longest: float = DAY) -> None:
        self.acknowledger = Acknowledger(idle, longest)
        self.committed = 0
        self.read = 0

    def take(self, *events: tuple[str, str]) -> None:
        for camera, kind in events:
            frame = task(camera, kind, self.read) if kind != "?" else None
            self.acknowledger.take(self.read, origin(self.read), frame)
            self.read += 1

    def end(self, *offsets: int) -> int:
        """End the frames at these offsets; returns the offset then committed."""
        for offset in offsets:
            self.acknowledger.end(origin(offset))
        for event in self.acknowledger.releasable():
            assert event == self.committed, "out of order"
            self.committed += 1
        return self.committed


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds."""
    clock = [1000.0]
    monkeypatch.setattr(acknowledge.time, "monotonic", lambda: clock[0])
    return clock


def test_stills_are_released_in_order():
    partition = Partition()
    partition.take(("a", "S"), ("b", "S"), ("a", "S"), ("", "?"))
    assert partition.end(1, 2) == 0
    assert partition.end(0) == 3
    assert partition.end(3) == 4


def test_the_lowest_current_group_holds_all_back():
    partition = Partition()
    partition.take(("a", "K"), ("b", "K"), ("b", "P"), ("b", "K"), ("b", "P"), ("c", "S"), ("a", "P"))
    assert partition.end(*range(7)) == 0  # a's group is not over
    partition.take(("a", "K"), ("a", "P"))
    assert partition.end(7, 8) == 3  # now b's holds
    partition.take(("b", "K"), ("b", "P"))
    assert partition.end(9, 10) == 7


def test_a_group_is_over_once_nothing_can_refer_to_it():
    """Pictures that follow the next keyframe and are shown before it are predicted from the group before."""
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"), ("a", "K"))
    assert partition.end(0, 1, 2) == 0
    partition.take(("a", "L"))
    assert partition.end(3) == 0
    partition.take(("a", "L"), ("a", "P"))
    assert partition.end(5) == 0  # a leading picture has not ended
    assert partition.end(4) == 2


def test_a_frame_that_has_not_ended_holds_back_its_group():
    """A decoder may give the last picture of a group after the next keyframe was read."""
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"), ("a", "P"), ("a", "K"), ("a", "P"))
    assert partition.end(0, 1, 3, 4) == 0
    assert partition.end(2) == 3


def test_a_silent_camera_is_let_go_after_a_time(now):
    partition = Partition(idle=10)
    partition.take(("silent", "K"), ("silent", "P"), ("b", "K"))
    assert partition.end(0, 1, 2) == 0
    now[0] += 9
    partition.take(("b", "P"))
    assert partition.end(3) == 0
    now[0] += 2
    assert partition.end() == 2
    now[0] += 20
    assert partition.end() == 4


def test_a_silent_camera_still_holds_back_what_has_not_ended(now):
    partition = Partition(idle=10)
    partition.take(("a", "K"), ("a", "P"), ("a", "P"))
    now[0] += 11
    assert partition.end(0, 1) == 2
    assert partition.end(2) == 3


def test_while_the_broker_is_out_of_reach_no_camera_is_silent(now):
    partition = Partition(idle=10, longest=20)
    since = [0.0]
    partition.acknowledger._since = lambda: since[0]
    partition.take(("a", "K"), ("a", "P"))
    assert partition.end(0, 1) == 0
    now[0] += 60
    since[0] = now[0]  # it has come back
    assert partition.end() == 0
    now[0] += 9
    assert partition.end() == 0
    now[0] += 2
    assert partition.end() == 2


def test_a_group_without_end_is_let_go_after_a_time(now):
    partition = Partition(longest=20)
    partition.take(("a", "K"))
    for _ in range(5):
        now[0] += 5
        partition.take(("a", "P"))
    assert partition.end(0, 1, 2, 3, 4) == 5  # 5 has not ended
    assert partition.end(5) == 6
    partition.take(("a", "K"), ("a", "P"))
    assert partition.end(6, 7) == 6  # a new group holds again


def test_a_camera_that_turns_to_stills_holds_back_no_group():
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"), ("a", "S"))
    assert partition.end(0, 1, 2) == 3


def test_a_partition_read_again_begins_anew():
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"), ("a", "K"), ("a", "P"))
    partition.end(0, 1, 2)
    assert partition.committed == 2
    partition.read = 2  # a rebalance: read from what was committed
    partition.take(("a", "K"), ("a", "P"))
    assert partition.end(3) == 2
    partition.take(("a", "K"), ("a", "P"))
    assert partition.end(2, 4) == 4


def test_after_a_hang_nothing_is_held_back():
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"), ("b", "K"), ("b", "P"))
    assert partition.end(0, 1, 2) == 0
    partition.acknowledger.abandon_gops()
    assert partition.end(3) == 4
    assert partition.acknowledger.held == 0


def test_a_revoked_partition_is_forgotten():
    partition = Partition()
    partition.take(("a", "K"), ("a", "P"))
    partition.acknowledger.clear()
    assert partition.end(0, 1) == 0
    assert partition.acknowledger.held == 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_committed_the_next_worker_can_decode_what_is_left(data):
    """Each camera's first frame without an outcome has its keyframe at or after the committed offset."""
    events = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("KPPPLS")), min_size=1, max_size=60))
    partition = Partition()
    waiting: dict[str, list[int]] = {}
    ended: set[int] = set()
    for offset, (camera, kind) in enumerate(events):
        partition.take((camera, kind))
        waiting.setdefault(camera, []).append(offset)
        for finishing in data.draw(st.lists(st.sampled_from(sorted(waiting)), max_size=3)):
            if waiting[finishing]:  # decoders reorder a little
                place = data.draw(st.integers(0, min(2, len(waiting[finishing]) - 1)))
                done = waiting[finishing].pop(place)
                ended.add(done)
                partition.end(done)
        for other in waiting:
            own = [(n, kind) for n, (c, kind) in enumerate(events[: offset + 1]) if c == other]
            left = next(((n, kind) for n, kind in own if n not in ended), (offset + 1, "L"))  # what may come next
            assert needed(own, *left) >= partition.committed


def needed(own: list[tuple[int, str]], offset: int, kind: str) -> float:
    """The offset of the keyframe that a camera's unit at an offset is decoded from; its own where there is none."""
    if kind in "KS":
        return offset
    before = [(n, k) for n, k in own if n < offset]
    stills = [n for n, k in before if k == "S"]
    keys = [n for n, k in before if k == "K" and n > max(stills, default=-1)]
    if not keys:
        return offset
    leading = kind == "L" and all(k == "L" for n, k in before if n > keys[-1])
    return keys[-2] if leading and len(keys) > 1 else keys[-1]
