"""Cuts are noticed, and what goes on is let go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import av
import cv2
import numpy as np
import pytest
from clips import clip

from sfumato.models.scene import Change, Scene
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from tests.encoding import clip_pictures, tasks_of
from tests.test_anonymize import POLICY

HOLD = 1.0


def frame(sequence: int, epoch: int = 1, clock: TimeSource = TimeSource.CAMERA) -> RawFrame:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sequence)
    return RawFrame(FrameId("north", epoch, sequence), at, clock, 176, 144, "image/jpeg", b"")


def follow(pictures) -> list[Change | None]:  # type: ignore[no-untyped-def]
    scene = Scene()
    return [scene.follow(frame(number), picture, float(number), HOLD) for number, picture in enumerate(pictures)]


def test_the_cuts_of_a_film_and_nothing_else():
    with av.open(str(clip("bikes"))) as container:
        changes = follow(picture.to_ndarray(format="bgr24") for picture in container.decode(video=0))
    assert [number for number, change in enumerate(changes) if change] == [30, 76, 137, 187, 242]
    assert set(changes) == {None, Change.CUT}


def test_one_scene_goes_on_though_its_light_changes():
    pictures = clip_pictures(30)
    darker = [np.rint(picture * (1 - number / 40)).astype(np.uint8) for number, picture in enumerate(pictures)]
    assert set(follow([*darker, pictures[-1]])) == {None}


def test_noise_in_the_dark_is_no_scene():
    draw = np.random.default_rng(1)
    assert set(follow(draw.integers(0, 12, (144, 176, 3), dtype=np.uint8) for _ in range(20))) == {None}


def test_a_camera_that_is_turned_shows_another_scene():
    (picture,) = clip_pictures(1)
    assert follow([picture, np.roll(picture, 80, axis=1)])[1] is Change.CUT


def test_another_size_is_told_from_a_cut():
    first, second = clip_pictures(2)
    assert follow([first, cv2.resize(second, (352, 288))])[1] is Change.SIZE


@pytest.mark.parametrize(
    ("then", "time"),
    [
        (frame(1, epoch=2), 1.0),
        (frame(0), 1.0),
        (frame(1), -1.0),
        (frame(1, clock=TimeSource.ARRIVAL), 1.0),
    ],
)
def test_what_does_not_follow_is_a_run_of_its_own(then, time):
    scene, (picture,) = Scene(), clip_pictures(1)
    assert scene.follow(frame(0), picture, 0.0, HOLD) is None
    assert scene.follow(then, picture, time, HOLD) is Change.RUN
    assert scene.follow(frame(2, then.id.epoch, then.time_source), picture, 2.0, HOLD) is None


@pytest.mark.parametrize(
    ("times", "sequence", "change"),
    [
        ([0.0, 0.04, 0.08, 1.58], 3, Change.CLOCK),
        ([0.0, 0.04, 0.08, 1.58], 4, None),  # one is missing: it was taken between
        ([0.0, 0.04, 0.08, 0.9], 3, None),  # within the hold, what moves is followed on
        ([0.0, 2.0, 4.0, 6.5], 3, None),  # a slow camera
        ([0.0, 2.0, 4.0, 15.0], 3, Change.CLOCK),
        ([0.0, 60.0], 1, None),  # nobody knows how slow
    ],
)
def test_a_gap_that_is_none_of_the_cameras_may_be_a_clock_set_ahead(times, sequence, change):
    scene, (picture,) = Scene(), clip_pictures(1)
    for number, time in enumerate(times[:-1]):
        assert scene.follow(frame(number), picture, time, HOLD) is None
    assert scene.follow(frame(sequence), picture, times[-1], HOLD) is change


def test_units_keep_their_own_time():
    """The source of their time of capture changes some 5 s after a connection; what counts is their pts."""
    first, second = tasks_of("h264", POLICY)[:2]
    scene, (one, two) = Scene(), clip_pictures(2)
    assert scene.follow(replace(first.frame, time_source=TimeSource.ARRIVAL), one, 0.0, HOLD) is None
    assert scene.follow(replace(second.frame, time_source=TimeSource.CAMERA), two, 0.04, HOLD) is None


def test_the_sequence_of_units_may_go_back():
    """They are looked at in presentation order, and counted in decoding order."""
    tasks, scene = sorted(tasks_of("h264-b-frames", POLICY), key=lambda task: task.frame.unit.pts), Scene()
    changes = [
        scene.follow(t.frame, p, t.frame.unit.seconds, HOLD) for t, p in zip(tasks, clip_pictures(40), strict=True)
    ]
    assert set(changes) == {None}
