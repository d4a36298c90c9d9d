"""Cuts are noticed, and what goes on is let go on."""

from __future__ import annotations

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


def frame(sequence: int, epoch: int = 1) -> RawFrame:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sequence)
    return RawFrame(FrameId("north", epoch, sequence), at, TimeSource.CAMERA, 176, 144, "image/jpeg", b"")


def follow(pictures) -> list[Change | None]:  # type: ignore[no-untyped-def]
    scene = Scene()
    return [scene.follow(frame(number), picture, float(number)) for number, picture in enumerate(pictures)]


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


@pytest.mark.parametrize(("then", "time"), [(frame(1, epoch=2), 1.0), (frame(0), 1.0), (frame(1), -1.0)])
def test_what_does_not_follow_is_a_run_of_its_own(then, time):
    scene, (picture,) = Scene(), clip_pictures(1)
    assert scene.follow(frame(0), picture, 0.0) is None
    assert scene.follow(then, picture, time) is Change.RUN
    assert scene.follow(frame(2, then.id.epoch), picture, 2.0) is None


def test_the_sequence_of_units_may_go_back():
    """They are looked at in presentation order, and counted in decoding order."""
    tasks, scene = sorted(tasks_of("h264-b-frames", POLICY), key=lambda task: task.frame.unit.pts), Scene()
    changes = [scene.follow(t.frame, p, t.frame.unit.seconds) for t, p in zip(tasks, clip_pictures(40), strict=True)]
    assert set(changes) == {None}
