"""Clips in which one person alone is seen, or one more is masked: what is shown is that person's, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sfumato.models.detectors import Image, Smallest, Threshold
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import GREY
from sfumato.models.reveal import Reveal, State, Wanted, everybody
from sfumato.models.subject import SubjectError
from sfumato.models.task import Task
from sfumato.models.timetable import Timetable
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.subject_request import SubjectKind
from tests.masking import policy

SIZE = (200, 400)
"""Height and width."""
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
BODY, FACE = (40, 20, 120, 180), (60, 30, 90, 70)
OTHER, OTHERS_FACE = (240, 20, 320, 180), (260, 30, 290, 70)
PEOPLE = [("person", BODY), ("face", FACE), ("person", OTHER), ("face", OTHERS_FACE)]
PLATES = policy(licence_plate={})


def picture(number: int) -> Image:
    """The same noise each time, without a grey pixel; its first pixel says its number."""
    noise = np.random.default_rng(0).integers(0, 100, (*SIZE, 3), np.uint8)
    noise[0, 0] = number
    return noise


class Scripted:
    """A detector that finds what it was told, by the number of the picture. ``broken``: pictures at which it fails."""

    name = DetectorName.CENTERFACE
    targets = frozenset(Target) - {Target.MOTION}
    threshold = Threshold(0.1)
    weights_sha256 = "0" * 64

    def __init__(self, found: list[list[tuple]], broken: Sequence[int] = ()) -> None:
        self._found, self._broken = found, broken

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        return [self._detect(int(each[0, 0, 0])) for each in pictures]

    def _detect(self, number: int) -> tuple[Detection, ...]:
        if number in self._broken:
            raise RuntimeError("broken")
        return tuple(Detection(target=Target(t), score=(*score, 0.9)[0], box=b) for t, b, *score in self._found[number])


def frame(number: int, payload: bytes | None = None) -> RawFrame:
    data = payload if payload is not None else cv2.imencode(".png", picture(number))[1].tobytes()
    at = BEGAN + timedelta(seconds=number / 10)
    return RawFrame(FrameId("north", 1, number), at, TimeSource.CAMERA, SIZE[1], SIZE[0], "image/png", data)


def make(
    found: list[list[tuple]],
    kind: SubjectKind = SubjectKind.ACCESS,
    chosen: int = 0,
    box: tuple = BODY,
    broken: Sequence[int] = (),
    frames: list[RawFrame] | None = None,
    closed: Sequence[int] = (),
    camera_policy: Policy = PLATES,
    since: int = 0,
    policy_at: Any = None,
    tick: Any = lambda: None,
) -> dict[int, Any]:
    """The pictures of a clip, by number."""
    given = frames or [frame(number) for number in range(len(found))]
    until = BEGAN + timedelta(seconds=10)
    begins = BEGAN + timedelta(seconds=since / 10)
    wanted = Wanted(
        kind, FrameId("north", 1, chosen), box, begins, until, camera_policy, policy_at or (lambda _: camera_policy)
    )

    def source() -> Iterator[Task]:
        for each in given:
            task = Task(each, camera_policy)
            if each.id.sequence in closed:
                task.mask_fully(Reason.KEY_MISSING)
            yield task

    reveal = Reveal(Ensemble([Scripted(found, broken)]), wanted, 10**6, batch=3, tick=tick)
    return {painted.frame.id.sequence: painted for painted in reveal.pictures(source)}


def cut(box: tuple) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def is_grey(image: Image) -> bool:
    return bool((image == GREY).all())


def test_one_person_is_seen_as_they_are_and_everybody_else_is_grey():
    made = make([PEOPLE] * 5, box=FACE, chosen=2)
    for number, painted in made.items():
        assert painted.state is State.SHOWN
        original = picture(number)
        assert (painted.image[cut(BODY)] == original[cut(BODY)]).all()
        assert is_grey(painted.image[cut(OTHER)])
        assert (painted.image[:, 350:] == original[:, 350:]).all()
    assert list(made) == [0, 1, 2, 3, 4]


def test_where_two_touch_the_overlap_is_the_others():
    close = (100, 20, 180, 180)
    (painted,) = make([[("person", BODY), ("face", FACE), ("person", close)]]).values()
    assert painted.state is State.SHOWN
    assert is_grey(painted.image[20:180, 92:180]), "the other's box grows by its dilation"
    assert (painted.image[cut(FACE)] == picture(0)[cut(FACE)]).all()


@pytest.mark.parametrize("target", ["text", "licence_plate", "vehicle"])
def test_what_is_no_person_is_masked_on_the_person_too(target):
    shirt = (60, 100, 90, 120)
    wanted = policy(licence_plate={}, vehicle={})
    (painted,) = make([[*PEOPLE, (target, shirt)]], camera_policy=wanted).values()
    assert is_grey(painted.image[cut(shirt)])
    assert (painted.image[cut(FACE)] == picture(0)[cut(FACE)]).all()


def test_a_zone_stays_masked_over_the_person_and_none_is_spared():
    left = {"name": "left", "polygon": [[0, 0], [0.2, 0], [0.2, 1], [0, 1]], "rule": "always_mask", "mask": "blur"}
    spare = {
        "name": "all",
        "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]],
        "rule": "never_mask",
        "spares": ["person", "face"],
    }
    (painted,) = make([PEOPLE], camera_policy=policy([left, spare], licence_plate={})).values()
    assert is_grey(painted.image[:, :79])
    assert is_grey(painted.image[cut(OTHER)])
    assert (painted.image[30:70, 85:118] == picture(0)[30:70, 85:118]).all()


def test_in_doubt_the_person_is_masked_as_everybody():
    behind = ("face", (80, 80, 110, 120))
    made = make([PEOPLE, PEOPLE, [*PEOPLE, behind], PEOPLE])
    assert [painted.state for painted in made.values()] == [State.SHOWN, State.SHOWN, State.DOUBTFUL, State.DOUBTFUL]
    for number in (2, 3):
        assert is_grey(made[number].image[cut(BODY)])
        assert is_grey(made[number].image[cut(OTHER)])


def test_where_the_person_was_not_found_the_held_masks_stay():
    made = make([PEOPLE, [], PEOPLE])
    assert made[1].state is State.DOUBTFUL
    assert is_grey(made[1].image[cut(BODY)])
    assert is_grey(made[1].image[cut(OTHER)])
    assert made[2].state is State.SHOWN


def test_a_person_who_is_weakly_seen_is_not_shown():
    weak = [("person", BODY, 0.05), ("face", FACE, 0.05)]
    made = make([PEOPLE, weak, PEOPLE])
    assert [painted.state for painted in made.values()] == [State.SHOWN, State.DOUBTFUL, State.SHOWN]
    assert is_grey(made[1].image[cut(BODY)])


def test_a_frame_that_fails_is_grey_and_says_why():
    frames = [frame(n, b"no picture" if n == 3 else None) for n in range(6)]
    made = make([PEOPLE] * 6, broken=[2], frames=frames, closed=[4])
    after = State.DOUBTFUL  # somebody else is close enough to be in their place
    assert [painted.state for painted in made.values()] == [State.SHOWN, State.SHOWN, *[State.GREY] * 3, after]
    assert [made[n].reason for n in (2, 3, 4)] == [Reason.DETECTOR_ERROR, Reason.UNDECODABLE, Reason.KEY_MISSING]
    assert all(is_grey(made[n].image) and made[n].image.shape == (*SIZE, 3) for n in (2, 3, 4))


def test_what_another_form_of_the_policy_holds_for_is_grey_whichever_frame_is_chosen():
    hours = {"begins": BEGAN + timedelta(seconds=0.25), "ends": BEGAN + timedelta(seconds=0.45)}
    for rule, chosen, masked in (
        ({"full_mask": True}, 0, [3, 4]),
        ({"targets": {"text": {}}}, 0, [3, 4]),
        ({"targets": {"text": {}}}, 3, [0, 1, 2, 5]),
    ):
        schedule = {"name": "vigil", "event": hours, **rule}
        wanted = PLATES.model_dump(exclude_none=True, by_alias=True) | {"schedules": [schedule]}
        forms = Timetable(Policy.model_validate(wanted))
        policy = forms.at(frame(chosen).captured_at, BEGAN)
        assert isinstance(policy, Policy)
        made = make(
            [PEOPLE] * 6, chosen=chosen, camera_policy=policy, policy_at=lambda at, forms=forms: forms.at(at, BEGAN)
        )
        assert [number for number, painted in made.items() if painted.state is State.GREY] == masked
        assert all(made[number].reason is Reason.SCHEDULED and is_grey(made[number].image) for number in masked)


def test_a_mask_that_fails_is_grey(monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("sfumato.models.reveal.masks.apply", fails)
    (painted,) = make([PEOPLE]).values()
    assert (painted.state, painted.reason) == (State.GREY, Reason.MASK_ERROR)
    assert is_grey(painted.image)


def test_too_many_objects_are_not_believed():
    many = [("text", (x % 390, x // 390, x % 390 + 5, x // 390 + 5)) for x in range(0, 390 * 600, 390)]
    made = make([[*PEOPLE, *many], *[PEOPLE] * 7], chosen=7)
    assert (made[0].state, made[0].reason) == (State.GREY, Reason.TOO_MANY_DETECTIONS)


def test_frames_before_the_clip_are_looked_at_and_not_shown():
    others_gone = [("person", BODY), ("face", FACE)]
    made = make([PEOPLE, PEOPLE, PEOPLE, others_gone], chosen=3, since=3)
    assert list(made) == [3]
    assert is_grey(made[3].image[cut(OTHER)]), "held from before"


def test_a_person_who_cannot_be_told_from_others_is_refused():
    with pytest.raises(SubjectError, match="no person or face"):
        make([PEOPLE], box=(150, 0, 200, 40))
    with pytest.raises(SubjectError, match="frame"):
        make([PEOPLE, PEOPLE], broken=[0])


def test_a_worker_without_a_detector_for_everybody_makes_nothing():
    class Faces(Scripted):
        targets = frozenset({Target.FACE})

    wanted = Wanted(SubjectKind.ACCESS, FrameId("north", 1, 0), BODY, BEGAN, BEGAN, policy(face={}), lambda _: PLATES)
    with pytest.raises(SubjectError, match="not everybody could be masked: targets"):
        Reveal(Ensemble([Faces([])]), wanted, 10**6, 1)


def test_a_removed_person_is_masked_besides_what_the_policy_masks():
    plate = ("licence_plate", (340, 150, 380, 170))
    made = make([[*PEOPLE, plate]] * 2, SubjectKind.REMOVAL)
    for number, painted in made.items():
        assert painted.state is State.SHOWN
        assert is_grey(painted.image[cut(BODY)])
        assert is_grey(painted.image[cut(plate[1])])
        assert (painted.image[cut(OTHER)] == picture(number)[cut(OTHER)]).all()


def test_where_a_removed_person_is_lost_everybody_is_masked():
    without = [("person", OTHER), ("face", OTHERS_FACE)]
    made = make([PEOPLE, *[without] * 8], SubjectKind.REMOVAL)
    assert [painted.state for painted in made.values()] == [State.SHOWN, *[State.DOUBTFUL] * 8]
    assert all(is_grey(made[n].image[cut(OTHER)]) for n in range(1, 9))


def test_whoever_touches_a_removed_person_is_masked_too():
    close = (100, 20, 180, 180)
    (painted,) = make([[("person", BODY), ("face", FACE), ("person", close)]], SubjectKind.REMOVAL).values()
    assert is_grey(painted.image[cut(BODY)])
    assert is_grey(painted.image[cut(close)])


def test_the_policy_for_everybody_is_never_weaker():
    weak = policy(
        [{"name": "spare", "polygon": [[0, 0], [1, 0], [1, 1]], "rule": "never_mask"}],
        face={"mask": "blur", "shape": "ellipse", "dilation": 0.0, "feather": 0.3, "detectors": ["mtcnn"]},
        motion={"dilation": 0.5},
    )
    strict = everybody(weak.model_copy(update={"hold": 0.0}))
    assert set(strict.targets) == {Target.FACE, Target.PERSON, Target.LICENCE_PLATE, Target.TEXT, Target.MOTION}
    for masking in strict.targets.values():
        assert (masking.mask, masking.shape, masking.feather) == (MaskName.SOLID, Shape.RECTANGLE, 0)
        assert masking.detectors == ()
    assert strict.targets[Target.FACE].dilation == Masking().dilation
    assert strict.targets[Target.MOTION].dilation == 0.5
    assert (strict.zones, strict.hold) == ((), 1.0)


def test_the_work_ends_where_it_is_told_to():
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make([PEOPLE] * 3, tick=stop)


boxes = st.tuples(st.integers(0, 340), st.integers(0, 140), st.integers(8, 60), st.integers(8, 60)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@hypothesis_settings(max_examples=25, deadline=None)
@example([[], [], [("face", (0, 0, 8, 8)), ("text", (59, 30, 67, 38))]])
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["face", "person", "text"]), boxes), max_size=4), min_size=3, max_size=3
    )
)
def test_no_pixel_of_anybody_else_is_ever_seen(others):
    """Whatever else is found wherever: a pixel that is as it was lies in no other's box, unless that is in doubt with
    the person's own."""
    try:
        made = make([[("person", BODY), ("face", FACE), *found] for found in others])
    except SubjectError:
        return
    for number, painted in made.items():
        seen = (painted.image == picture(number)).all(axis=2)
        body, face = np.zeros((2, *SIZE), bool)
        body[cut(BODY)] = face[cut(FACE)] = True
        for target, box in others[number]:
            inside = np.zeros(SIZE, bool)
            inside[cut(box)] = True
            within = {"person": body, "text": face}.get(target)  # text in a face is taken for none
            part = within is not None and (inside & within).sum() >= 0.8 * inside.sum()
            assert part or not (seen & inside).any()
            assert not part or not (seen & inside & ~body).any()
