"""Frames that wait for later ones: what they gain, and that each still ends once, in order, and within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sfumato.models import images, memories
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import NoPolicy, Task
from sfumato.models.tracks import Timeline
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, Evidence, Target
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from tests.encoding import tasks_of
from tests.test_anonymize import POLICY, Scripted, face, noise

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
STEP = 0.04
BOX = (slice(24, 56), slice(24, 56))
"""Well inside of what :class:`Blinking` finds."""


class Blinking(Scripted):
    """Finds one face, but not in the pictures with these numbers; fails at those in ``failing``."""

    def __init__(self, missing: Sequence[int] = (), weak: Sequence[int] = (), failing: Sequence[int] = ()) -> None:
        super().__init__()
        self.missing, self.weak, self.failing = missing, weak, failing
        self.number = -1

    def detect(self, images_, smallest=None):  # type: ignore[no-untyped-def]
        found: list[tuple[Detection, ...]] = []
        for _ in images_:
            self.number += 1
            if self.number in self.failing:
                raise RuntimeError("out of memory")
            score = 0.1 if self.number in self.weak else 0.9
            found.append(() if self.number in self.missing else (face(8, 8, 72, 72, score=score),))
        return found


def policy(**changes: object):  # type: ignore[no-untyped-def]
    return POLICY.model_copy(update={"lookahead": 0.2, "hold": 1.0, "zones": (), **changes})


def still(
    sequence: int, policy_: object = None, epoch: int = 1, camera: str = "north", at: float | None = None, seed: int = 0
) -> Task:
    """The same picture each time, unless the seed differs: the camera stands still."""
    captured_at = STARTED + timedelta(seconds=sequence * STEP if at is None else at)
    payload = images.encode(noise(seed), 95)
    id_ = FrameId(camera, epoch, sequence)
    frame = RawFrame(id_, captured_at, TimeSource.CAMERA, 128, 96, "image/jpeg", payload)
    return Task(frame, policy() if policy_ is None else policy_)  # type: ignore[arg-type]


def engine(detector: Scripted | None = None, **limits: int) -> Engine:
    return Engine(Ensemble([detector or Blinking()]), Limits(**limits))


def anonymize(engine_: Engine, tasks: Sequence[Task]) -> list[Task]:
    """One by one, as a live camera's come; then the camera falls silent."""
    return [done for task in tasks for done in engine_.anonymize([task])] + engine_.close_idle(-1)


def sequences(tasks: Sequence[Task]) -> list[int]:
    return [task.frame.id.sequence for task in tasks]


def masked(task: Task) -> bool:
    assert task.outcome is Outcome.MASKED
    assert task.output is not None
    image = images.decode(task.output, "image/jpeg", max_pixels=10**6).astype(int)
    return bool(abs(image[BOX] - 128).max() < 16)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds."""
    clock = [1000.0]
    monkeypatch.setattr(memories.time, "monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize("missing", [[10], [10, 11, 12], [0], [0, 1, 2, 3, 4]])
def test_a_face_that_was_missed_is_masked_all_the_same(missing):
    done = anonymize(engine(Blinking(missing)), [still(n) for n in range(20)])
    assert sequences(done) == list(range(20))
    assert all(masked(task) for task in done)
    evidence = {sequence: {d.evidence for d in done[sequence].detections} for sequence in missing}
    assert all(kinds == {Evidence.LOOKAHEAD if 0 in missing else Evidence.TRACKED} for kinds in evidence.values())


def test_without_lookahead_and_hold_a_face_that_is_missed_is_seen():
    bare = policy(lookahead=0.0, hold=0.0)
    done = anonymize(engine(Blinking([0, 10])), [still(n, bare) for n in range(20)])
    assert [n for n, task in enumerate(done) if not masked(task)] == [0, 10]


def test_without_lookahead_frames_come_back_at_once():
    eager, immediate = engine(), policy(lookahead=0.0)
    for number in range(5):
        assert sequences(eager.anonymize([still(number, immediate)])) == [number]
        assert eager.due() is None


def test_a_frame_waits_for_those_taken_within_the_lookahead(now):
    waiting = engine()
    came = [sequences(waiting.anonymize([still(number)])) for number in range(8)]
    assert came == [[], [], [], [], [], [0], [1], [2]]
    assert sequences(waiting.close_idle(-1)) == [3, 4, 5, 6, 7]
    assert waiting.due() is None


def test_a_frame_of_a_slow_camera_waits_no_longer_than_the_lookahead(now):
    waiting = engine()
    assert waiting.anonymize([still(0)]) == []
    assert waiting.due() == pytest.approx(1000.2)
    now[0] = 1000.1
    assert waiting.anonymize([]) == []
    now[0] = 1000.21
    assert sequences(waiting.anonymize([])) == [0]
    assert waiting.due() is None


def test_a_camera_whose_delay_varies_is_given_more_time(now):
    waiting = engine()
    waiting.anonymize([still(0)])
    now[0] += 0.04 + 0.5
    waiting.anonymize([still(1)])
    assert waiting.due() == pytest.approx(1000 + 0.2 + 0.5), "the first one too"
    now[0] += 0.04 + 60
    assert sequences(waiting.anonymize([still(2)])) == [0, 1]
    assert waiting.due() == pytest.approx(now[0] + 0.2 + memories.MOST_PATIENCE)


def test_video_with_b_frames_comes_back_in_presentation_order_and_none_is_missed():
    tasks = tasks_of("h264-b-frames", policy())
    done = anonymize(engine(Blinking([0, 7, 8, 20])), tasks)
    assert len(done) == 40
    shown = [task.frame.unit.seconds for task in done]  # type: ignore[union-attr]
    assert shown == sorted(shown)
    assert all(masked(task) for task in done)


def test_frames_without_a_picture_keep_their_place():
    tasks = [still(n) for n in range(10)]
    for number, payload in ((2, b"junk"), (5, b"")):
        tasks[number] = Task(replace(tasks[number].frame, payload=payload), tasks[number].policy)
    tasks[7] = still(7, NoPolicy(Reason.NO_POLICY))
    done = anonymize(engine(), tasks)
    assert sequences(done) == list(range(10))
    assert [task.reason for task in done if task.reason] == [Reason.UNDECODABLE, Reason.EMPTY, Reason.NO_POLICY]


def test_cameras_do_not_wait_for_one_another(now):
    waiting = engine()
    waiting.anonymize([still(0, camera="slow")])
    for number in range(6):
        came = waiting.anonymize([still(number, camera="fast")])
    assert sequences(came) == [0]
    assert {task.frame.id.camera for task in came} == {"fast"}


def test_a_detector_that_fails_once_ends_no_track():
    done = anonymize(engine(Blinking(missing=[11], failing=[10])), [still(n) for n in range(20)])
    assert [task.reason for task in done] == [None] * 10 + [Reason.DETECTOR_ERROR] + [None] * 9
    assert masked(done[11])


def test_weak_detections_mask_where_they_continue_a_track():
    done = anonymize(engine(Blinking(weak=[0, 1, 2, 10, 11])), [still(n) for n in range(20)])
    assert all(masked(task) for task in done)
    assert all(d.evidence is not Evidence.WEAK for task in done for d in task.detections)
    assert not any(d.detections for d in anonymize(engine(Blinking(weak=range(20))), [still(n) for n in range(20)]))


# What ends the waiting


@pytest.mark.parametrize("at", [0.2, 1e6])
def test_another_epoch_brings_what_waits_to_its_end_in_order(now, at):
    waiting = engine(Blinking(missing=range(3, 20)))
    waiting.anonymize([still(n) for n in range(3)])
    came = waiting.anonymize([still(0, epoch=2, at=at)])
    assert [task.frame.id.epoch for task in came] == [1, 1, 1]
    (new,) = waiting.close_idle(-1)
    assert {d.evidence for d in new.detections} == {Evidence.TRACKED}, "nobody knows what lies between"


@pytest.mark.parametrize(("sequence", "at"), [(1, None), (9, -3600.0)])
def test_frames_read_again_and_times_that_go_back_begin_anew(now, sequence, at):
    waiting = engine(Blinking(missing=range(3, 20)))
    waiting.anonymize([still(n) for n in range(3)])
    assert sequences(waiting.anonymize([still(sequence, at=at)])) == [0, 1, 2]
    assert waiting.due() == pytest.approx(now[0] + 0.2), "its delay is another one now"
    (new,) = waiting.close_idle(-1)
    assert {d.evidence for d in new.detections} == {Evidence.TRACKED}


@pytest.mark.parametrize("source", [TimeSource.ARRIVAL, TimeSource.CAMERA])
def test_masks_outlive_a_clock_that_is_set_ahead(now, source):
    """The camera's clock instead of arrivals, or the camera's own set by NTP: either by more than masks are held."""
    live = engine(Blinking(missing=range(5, 40)))
    tasks = [still(n, policy(lookahead=0.0), at=n * STEP + (1.5 if n > 4 else 0.0)) for n in range(40)]
    for task in tasks[:5]:
        task.frame = replace(task.frame, time_source=source)
    done = [live.anonymize([task])[0] for task in tasks]
    assert all(masked(task) for task in done[:25]), "for a second less what a single frame may take"
    assert not done[-1].detections, "not for ever"


def test_a_change_of_policy_lets_go_what_waits_and_keeps_the_tracks(now):
    waiting = engine(Blinking(missing=[3]))
    waiting.anonymize([still(n) for n in range(3)])
    came = waiting.anonymize([still(3, policy(version=4))])
    assert [task.policy.version for task in came] == [3, 3, 3]  # type: ignore[union-attr]
    (new,) = waiting.close_idle(-1)
    assert masked(new)


def test_a_target_that_the_policy_no_longer_names_is_not_masked():
    detector = Blinking()
    detector.targets = frozenset({Target.FACE, Target.PERSON})
    waiting = engine(detector)
    waiting.anonymize([still(n) for n in range(3)])
    waiting.anonymize([still(3, policy(version=4, targets={Target.PERSON: POLICY.targets[Target.FACE]}))])
    (new,) = waiting.close_idle(-1)
    assert (new.outcome, new.detections) == (Outcome.MASKED, ())


def test_a_cut_keeps_masks_for_their_time_and_masks_nothing_before_it():
    """The face is found in each scene; in the second one only from its third picture on."""
    tasks = [still(n, seed=0 if n < 10 else 1) for n in range(20)]
    detector = Blinking(missing=[*range(5, 10), 10, 11])
    done = anonymize(engine(detector), tasks)
    tracks = [{d.track for d in task.detections} for task in done]
    assert tracks[9] == {1}, "not changed by what came after the cut"
    assert all(1 in numbers for numbers in tracks[10:20]), "held on"
    assert all(2 in numbers for numbers in tracks[10:20]), "looked ahead, as far as the cut"


# Bounds


def test_too_much_that_waits_leaves_fully_masked_and_in_order(now):
    picture = 96 * 128 * 3
    bounded = engine(held_bytes=3 * picture + 3 * 60_000)
    tasks = [still(n, policy(lookahead=2.0)) for n in range(8)]
    done = anonymize(bounded, tasks)
    assert sequences(done) == list(range(8))
    reasons = [task.reason for task in done]
    kept = reasons.count(None)
    assert 0 < kept < 8
    assert reasons == [Reason.TOO_MUCH_HELD] * (8 - kept) + [None] * kept
    assert all(np.ptp(images.decode(t.output, "image/jpeg", max_pixels=10**6)) <= 1 for t in done if t.reason)  # type: ignore[arg-type]


def test_the_bound_is_shared_and_the_oldest_leave_first(now):
    picture = 96 * 128 * 3
    bounded = engine(held_bytes=3 * picture + 3 * 60_000)
    came: list[Task] = []
    for number in range(4):
        for camera in ("a", "b"):
            now[0] += 0.001
            came += bounded.anonymize([still(number, policy(lookahead=2.0), camera=camera)])
    assert {task.reason for task in came} == {Reason.TOO_MUCH_HELD}
    for camera in ("a", "b"):
        own = sequences([task for task in came if task.frame.id.camera == camera])
        assert own == list(range(len(own)))
        assert own


def test_tracking_that_fails_is_fully_masked_for_as_long_as_masks_are_held(monkeypatch, now):
    append: Callable[..., None] = Timeline.append

    def fail_once(self, time, size, detections):  # type: ignore[no-untyped-def]
        append(self, time, size, detections)
        if round((time - STARTED.timestamp()) / STEP) == 6:
            raise ValueError("tracks")

    monkeypatch.setattr(Timeline, "append", fail_once)
    forgetful, done = engine(), []
    for number in range(40):
        done += forgetful.anonymize([still(number, policy(hold=0.41))])
        now[0] += STEP
    done += forgetful.close_idle(-1)
    assert sequences(done) == list(range(40))
    failed = [n for n, task in enumerate(done) if task.reason is Reason.TRACKING_ERROR]
    assert failed == list(range(1, 17)), "those that waited, and those for which a mask could be missing"
    assert all(masked(task) for n, task in enumerate(done) if n not in failed)


def test_more_boxes_than_can_be_trusted_are_a_full_mask():
    def many(pictures):  # type: ignore[no-untyped-def]
        return [tuple(face(i % 25 * 5, i // 25 * 4, i % 25 * 5 + 4, i // 25 * 4 + 3) for i in range(501))] * len(
            pictures
        )

    done = anonymize(engine(Scripted(many)), [still(n) for n in range(3)])
    assert {task.reason for task in done} == {Reason.TOO_MANY_DETECTIONS}
