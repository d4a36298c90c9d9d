"""What moves in front of a camera that stands still; the background is a real picture with a sensor's noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.motion import FADE, MOST_BOXES, WARM_UP_FRAMES, WARM_UP_SECONDS, Motion, regions
from sfumato.models.task import Task
from sfumato.schemas.detection import Detection, Evidence, Target
from sfumato.schemas.masking import Masking
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.unit import H264
from tests.encoding import clip_pictures, encode, raw_frame
from tests.test_anonymize import POLICY, Scripted

RATE = 10.0
WARM = int(WARM_UP_SECONDS * RATE)
MASKING = Masking()
Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]


def background(seed: int, shift: int = 0, light: float = 1.0) -> Picture:
    (picture,) = clip_pictures(1, 352, 288)
    noisy = np.roll(picture, shift, axis=1) * light + np.random.default_rng(seed).normal(0, 2, picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def with_person(picture: Picture, box: Box) -> Picture:
    """Someone seen from afar, in a yellow coat: who has the colour of the background is not found."""
    x0, y0, x1, y1 = box
    picture[y0:y1, x0:x1] = (40, 200, 230)
    return picture


def learnt(motion: Motion, frames: Iterable[Picture] | None = None) -> Motion:
    for number, picture in enumerate(frames or (background(n) for n in range(WARM))):
        assert motion.detect(picture, number / RATE, MASKING) is None
    return motion


def covered(found: Iterable[Detection], box: Box) -> float:
    """The share of the box that is covered."""
    seen = np.zeros((288, 352), bool)
    for detection in found:
        x0, y0, x1, y1 = (round(side) for side in detection.box)
        seen[y0:y1, x0:x1] = True
    return float(seen[box[1] : box[3], box[0] : box[2]].mean())


def share(found: Iterable[Detection]) -> float:
    return covered(found, (0, 0, 352, 288))


@pytest.mark.parametrize(("height", "width"), [(10, 4), (24, 9), (80, 30)])
def test_people_of_ten_pixels_and_more_are_found_and_little_else(height, width):
    motion = learnt(Motion())
    for number in range(WARM, WARM + 60, 3):
        x = 20 + 4 * (number - WARM)
        box = (x, 150, x + width, 150 + height)
        found = motion.detect(with_person(background(number), box), number / RATE, MASKING)
        assert found is not None
        assert covered(found, box) == 1.0
        assert share(found) < 0.01 + 6 * (height + 10) * (width + 20) / (352 * 288)


def test_where_nothing_moves_nothing_is_found():
    motion = learnt(Motion())
    found = [motion.detect(background(n), n / RATE, MASKING) for n in range(WARM, WARM + 50)]
    assert sum(bool(boxes) for boxes in found) <= 2


@pytest.mark.parametrize("rate", [1.0, 10.0, 50.0])
def test_until_the_background_is_known_nothing_is_answered(rate):
    """For both so many seconds and so many frames."""
    motion, unknown = Motion(), 0
    while motion.detect(background(unknown), unknown / rate, MASKING) is None:
        unknown += 1
    assert unknown == max(WARM_UP_FRAMES, WARM_UP_SECONDS * rate)


def test_who_stops_is_masked_until_the_stated_time():
    motion, box = learnt(Motion()), (100, 150, 120, 200)
    last = 0
    for second in range(1, int(2 * FADE)):
        found = motion.detect(with_person(background(second), box), WARM_UP_SECONDS + second, MASKING)
        assert found is not None
        if covered(found, box) == 1.0:
            last = second
    assert 0.8 * FADE < last < 1.3 * FADE


@pytest.mark.parametrize("changed", [{"shift": 60}, {"light": 0.4}])
def test_a_camera_that_moved_and_a_light_that_was_switched_are_learnt_anew(changed):
    motion = learnt(Motion())
    after = [motion.detect(background(n, **changed), n / RATE, MASKING) for n in range(WARM, 3 * WARM)]
    assert after[:WARM] == [None] * WARM
    box = (100, 150, 104, 160)
    found = motion.detect(with_person(background(0, **changed), box), 3 * WARM / RATE, MASKING)
    assert found is not None
    assert covered(found, box) == 1.0


def test_another_size_and_a_time_that_goes_back_are_learnt_anew():
    motion = learnt(Motion())
    assert motion.detect(background(0), WARM / RATE, MASKING) is not None
    assert motion.detect(cv2.resize(background(0), (176, 144)), WARM / RATE + 1, MASKING) is None
    motion = learnt(Motion())
    again = [motion.detect(background(n), n / RATE - 1000, MASKING) for n in range(WARM + 1)]
    assert [found is None for found in again] == [True] * WARM + [False]


def test_the_number_of_boxes_is_bounded_and_they_cover_all():
    draw = np.random.default_rng(2)
    for density in (0.001, 0.02, 0.2):
        moving = np.where(draw.random((230, 307)) < density, 255, 0).astype(np.uint8)
        moving = cv2.dilate(moving, np.ones((3, 3), np.uint8))
        found = regions(moving)
        assert 0 < len(found) <= MOST_BOXES
        for x0, y0, x1, y1 in found:
            moving[y0:y1, x0:x1] = 0
        assert np.count_nonzero(moving) == 0


def test_specks_are_left_out():
    moving = np.zeros((100, 100), np.uint8)
    moving[20, 20:23] = 255
    assert regions(moving) == []


def test_a_long_thin_thing_is_not_a_box_of_the_whole_picture():
    moving = np.zeros((200, 200), np.uint8)
    cv2.line(moving, (5, 5), (195, 195), 255, 3)
    found = regions(moving)
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in found) < 0.2 * moving.size


def test_a_policy_for_motion_fully_masks_while_it_learns_and_then_what_moves():
    """Through the engine, from access units to masked pictures; no detector of the ensemble looks."""
    targets = {Target.MOTION: Masking(dilation=0.0)}
    policy = POLICY.model_copy(update={"targets": targets, "zones": (), "hold": 0.5})
    ways = {n: (10 + 3 * (n - 130), 40, 18 + 3 * (n - 130), 60) for n in range(130, 170)}
    pictures = []
    for number in range(170):
        picture = background(number)[::2, ::2].copy()
        pictures.append(with_person(picture, ways[number]) if number in ways else picture)
    units = encode(pictures, H264, {"preset": "ultrafast", "qp": "18", "g": "50", "bf": "0"})
    tasks = [Task(raw_frame(n, payload, unit, H264), policy) for n, (payload, unit) in enumerate(units)]
    engine = Engine(Ensemble([Scripted(_not_asked)]), Limits())
    done = [*engine.anonymize(tasks), *engine.close_idle(-1)]
    warm = int(WARM_UP_SECONDS * 25)
    assert [task.frame.id.sequence for task in done] == list(range(170))
    assert {task.reason for task in done[:warm]} == {Reason.LEARNING_BACKGROUND}
    assert {(task.outcome, task.reason) for task in done[warm:]} == {(Outcome.MASKED, None)}
    for number, box in ways.items():
        seen = np.zeros((144, 176), bool)
        for detection in done[number].detections:
            x0, y0, x1, y1 = (round(side) for side in detection.box)
            seen[y0:y1, x0:x1] = True
        assert seen[box[1] : box[3], box[0] : box[2]].all(), number
    assert Evidence.LOOKAHEAD in {detection.evidence for task in done[125:130] for detection in task.detections}


def test_another_run_of_the_camera_is_learnt_anew():
    """It may have been turned meanwhile, a little."""
    targets = {Target.MOTION: Masking()}
    policy = POLICY.model_copy(update={"targets": targets, "lookahead": 0.0})
    units = encode([background(n)[::2, ::2] for n in range(130)], H264, {"preset": "ultrafast", "g": "10", "bf": "0"})
    engine = Engine(Ensemble([Scripted(_not_asked)]), Limits())
    reasons = []
    for epoch in (1, 2):
        later = [(payload, replace(unit, pts=unit.pts + 1000 * epoch)) for payload, unit in units]
        tasks = [Task(raw_frame(n, p, u, H264, epoch=epoch), policy) for n, (p, u) in enumerate(later)]
        reasons.append([task.reason for task in engine.anonymize(tasks)])
    assert reasons[0][-1] is None
    assert set(reasons[1][:100]) == {Reason.LEARNING_BACKGROUND}


def _not_asked(pictures):  # type: ignore[no-untyped-def]
    raise AssertionError("no detector is asked")
