"""Access units to pictures: each unit ends once, and no picture comes out that rests on something missing."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.models.decoders import Decoder, Decoders
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Damaged
from sfumato.schemas.unit import H264
from tests.encoding import (
    STREAMS,
    clip_pictures,
    encode,
    keyframes,
    presented,
    raw_frame,
    reference,
    tasks_of,
    with_payload,
)
from tests.test_anonymize import POLICY

PIXELS = 10**6
EVERY = pytest.mark.parametrize("name", STREAMS)


def settle(tasks: list[Task], decoder: Decoder | None = None) -> list[Task]:
    """Feed all tasks and close; checks that each is settled exactly once."""
    decoder = decoder or Decoder(PIXELS)
    settled = [done for task in tasks for done in decoder.feed(task)] + decoder.close()
    assert sorted(map(id, settled)) == sorted(map(id, tasks))
    assert all((task.image is None) != (task.outcome is None) for task in settled)
    return settled


def assert_true(settled: list[Task], name: str) -> None:
    """Every picture that came out is what it would be in the undamaged stream."""
    expected = reference(name)
    for task in settled:
        if task.image is not None:
            assert np.array_equal(task.image, expected[task.frame.id.sequence]), task.frame.id


@EVERY
def test_every_unit_gives_its_picture_in_presentation_order(name):
    settled = settle(tasks_of(name, POLICY))
    assert len([task for task in settled if task.image is not None]) == 40
    assert list(presented(settled)) == sorted(presented(settled))
    assert_true(settled, name)


def test_without_reordering_nothing_is_held_back():
    decoder = Decoder(PIXELS)
    for task in tasks_of("h264", POLICY):
        assert decoder.feed(task) == [task]


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_after_a_missing_unit_nothing_is_shown_before_the_next_keyframe(name, seed):
    draw = random.Random(seed)
    tasks = tasks_of(name, POLICY)
    missing = {task.frame.id.sequence for task in tasks[1:] if draw.random() < 0.05} | {13}
    settled = settle([task for task in tasks if task.frame.id.sequence not in missing])
    assert_true(settled, name)
    keys = keyframes(name)
    for task in settled:
        sequence = task.frame.id.sequence
        begun = max(key for key in keys if key <= sequence)
        if any(begun < gone <= sequence for gone in missing):
            assert task.image is None
            assert (task.outcome, task.reason) in (
                (Outcome.FULLY_MASKED, Reason.DAMAGED),
                (Outcome.DROPPED, Reason.NO_KEYFRAME),
            )
    assert any(task.reason is Reason.DAMAGED for task in settled)


def test_leading_pictures_of_an_open_group_are_not_shown_after_a_gap():
    """They are sent after the keyframe, shown before it and predicted from what was lost."""
    tasks = tasks_of("h264-open-gop", POLICY)
    _, key = keyframes("h264-open-gop")[:2]
    settled = settle([task for task in tasks if task.frame.id.sequence != key - 2])
    at = next(task.frame.unit.pts for task in tasks if task.frame.id.sequence == key)
    leading = [t for t in settled if t.frame.id.sequence > key and t.frame.unit.pts < at]
    assert leading
    assert {task.reason for task in leading} == {Reason.DAMAGED}
    assert [t.image is not None for t in settled if t.frame.unit.pts >= at] == [True] * len(range(at, 40))
    assert_true(settled, "h264-open-gop")


@pytest.mark.parametrize("name", ["h264", "h264-b-frames", "h264-open-gop", "h265-hashed"])
@pytest.mark.parametrize("seed", range(6))
def test_what_a_damaged_unit_may_have_spoilt_is_not_shown(name, seed):
    """Units cut in half, as H.264's decoder notices, or with bits flipped, as H.265's does by the camera's hashes."""
    draw = random.Random(seed)
    tasks = tasks_of(name, POLICY)
    for number in draw.sample(range(1, 40), 3):
        payload = bytearray(tasks[number].frame.payload)
        middle = len(payload) // 2
        if name == "h265-hashed":
            payload[middle] ^= 1 << draw.randrange(8)
        tasks[number] = with_payload(tasks[number], bytes(payload if name == "h265-hashed" else payload[:middle]))
    settled = settle(tasks)
    assert_true(settled, name)
    assert {task.reason for task in settled} & {Reason.UNDECODABLE, Reason.DAMAGED}
    assert any(task.image is not None for task in settled)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_to_a_stream_each_unit_is_settled_once(data):
    name = data.draw(st.sampled_from(sorted(STREAMS)))
    tasks: list[Task] = []
    for task in tasks_of(name, POLICY):
        fate = data.draw(st.sampled_from(["whole"] * 12 + ["missing", "cut", "flipped", "twice", "empty", "lying"]))
        payload = task.frame.payload
        if fate == "cut":
            payload = payload[: data.draw(st.integers(0, len(payload)))]
        elif fate == "flipped":
            place = data.draw(st.integers(0, len(payload) - 1))
            payload = (
                payload[:place] + bytes([payload[place] ^ 1 << data.draw(st.integers(0, 7))]) + payload[place + 1 :]
            )
        elif fate == "empty":
            payload = b""
        changed = with_payload(task, payload)
        if fate == "lying":
            unit = replace(changed.frame.unit, keyframe=not changed.frame.unit.keyframe)
            changed = Task(replace(changed.frame, unit=unit), task.policy, task.origin)
        tasks += [changed] * (fate != "missing")
        if fate == "twice":
            tasks.append(with_payload(task, payload))
    settle(tasks)


def test_joining_in_mid_group_shows_nothing_before_a_keyframe():
    settled = settle(tasks_of("h264-b-frames", POLICY)[4:])
    key = keyframes("h264-b-frames")[1]
    early = [task for task in settled if task.frame.id.sequence < key]
    assert {(task.outcome, task.reason) for task in early} == {(Outcome.DROPPED, Reason.NO_KEYFRAME)}
    assert len([task for task in settled if task.image is not None]) >= 40 - key - 3
    assert_true(settled, "h264-b-frames")


@pytest.mark.parametrize("name", ["h264-open-gop", "h265-b-frames"])
def test_joining_at_an_open_group_leaves_out_its_leading_pictures(name):
    """A worker that takes over never shows as damaged what the one before it has brought to its end."""
    key = keyframes(name)[1]
    settled = settle(tasks_of(name, POLICY)[key:])
    assert {task.reason for task in settled} == {None, Reason.NO_KEYFRAME}
    assert len([task for task in settled if task.image is None]) <= 3
    assert_true(settled, name)


def test_a_stream_read_again_begins_at_its_keyframe():
    """A rebalance gives the same units once more, from the middle of a group on."""
    decoder = Decoder(PIXELS)
    first, again = tasks_of("h264-b-frames", POLICY)[:25], tasks_of("h264-b-frames", POLICY)[12:]
    settled = [done for task in first + again for done in decoder.feed(task)] + decoder.close()
    assert len(settled) == len(first) + len(again)
    assert_true(settled, "h264-b-frames")
    repeated = [task for task in settled if any(task is other for other in again)]
    assert [t.reason for t in repeated if t.frame.id.sequence < 20] == [Reason.NO_KEYFRAME] * 8


def test_a_new_epoch_needs_a_keyframe_of_its_own():
    decoder = Decoder(PIXELS)
    old = tasks_of("h264-b-frames", POLICY)[:15]
    new = [Task(replace(t.frame, id=t.frame.id._replace(epoch=2)), POLICY) for t in tasks_of("h264", POLICY)[3:]]
    settled = [done for task in old + new for done in decoder.feed(task)] + decoder.close()
    assert {task.frame.id for task in settled} == {task.frame.id for task in old + new}
    assert [task.reason for task in settled if task.frame.id.epoch == 2][:7] == [Reason.NO_KEYFRAME] * 7
    assert sum(task.image is not None for task in settled) == 15 + 30


def test_parameters_and_size_may_change_in_the_middle():
    small = encode(clip_pictures(12), H264, {"g": "6", "bf": "2"})
    large = encode(clip_pictures(12, 352, 288), H264, {"g": "6", "bf": "0", "preset": "ultrafast"})
    units = [*small, *((payload, replace(unit, pts=unit.pts + 12)) for payload, unit in large)]
    tasks = [Task(raw_frame(n, payload, unit, H264), POLICY) for n, (payload, unit) in enumerate(units)]
    settled = settle(tasks)
    assert [task.image.shape for task in settled] == [(144, 176, 3)] * 12 + [(288, 352, 3)] * 12
    assert list(presented(settled)) == list(range(24))


def test_a_picture_larger_than_allowed_is_never_allocated():
    settled = settle(tasks_of("h264", POLICY)[:3], Decoder(max_pixels=100 * 100))
    assert {(task.outcome, task.reason) for task in settled} == {
        (Outcome.DROPPED, Reason.UNDECODABLE),
        (Outcome.DROPPED, Reason.NO_KEYFRAME),
    }


def test_damaged_pictures_are_dropped_where_the_policy_says_so():
    policy = POLICY.model_copy(update={"damaged": Damaged.DROP})
    settled = settle([task for task in tasks_of("h264", policy) if task.frame.id.sequence != 12])
    assert {task.outcome for task in settled if task.reason is Reason.DAMAGED} == {Outcome.DROPPED}


def test_a_picture_nobody_will_look_at_is_not_converted():
    tasks = tasks_of("h264", NoPolicy(Reason.NO_POLICY))[:3]
    decoder = Decoder(PIXELS)
    settled = [done for task in tasks for done in decoder.feed(task)]
    assert settled == tasks
    assert all(task.image is None and task.outcome is None for task in settled)


def test_rotated_pictures_come_out_upright():
    (upright,) = settle(tasks_of("h264", POLICY)[:1])
    (task,) = tasks_of("h264", POLICY)[:1]
    turned = Task(replace(task.frame, unit=replace(task.frame.unit, rotation=90)), POLICY)
    assert np.array_equal(settle([turned])[0].image, np.rot90(upright.image))


def test_only_so_many_decoders_are_kept():
    decoders = Decoders(2, PIXELS)
    for camera in ("a", "b"):
        decoders.decode(tasks_of("h264-b-frames", POLICY, camera=camera)[:5])
    refused = decoders.decode(tasks_of("h264-b-frames", POLICY, camera="c")[:5])
    assert [(task.outcome, task.reason) for task in refused] == [(Outcome.FULLY_MASKED, Reason.TOO_MANY_CAMERAS)] * 5
    assert {task.frame.id.camera for task in decoders.close("a")} == {"a"}
    assert decoders.close("a") == []
    decoders.decode(tasks_of("h264-b-frames", POLICY, camera="c")[:5])
    decoders.decode(tasks_of("h264-b-frames", POLICY, camera="b")[5:6])
    assert set(decoders.idle(-1)) == {"b", "c"}
    assert decoders.idle(60) == []
