"""The second look's rule: which detector looks, what counts as a leak, and that masks do not."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.models.detectors import Threshold
from sfumato.models.inspector import Inspector
from sfumato.models.tiles import TooManyViews
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.policy import Policy
from tests.test_anonymize import POLICY, face

CENTERFACE, ULTRALYTICS = DetectorName.CENTERFACE, DetectorName.ULTRALYTICS
PICTURE = np.zeros((100, 200, 3), np.uint8)


class Scripted:
    """A detector that sees what the test says, and remembers for which size it was asked."""

    threshold = Threshold(0.1)
    weights_sha256 = "d" * 64

    def __init__(self, name, *seen, targets=(Target.FACE,)):
        self.name = name
        self.targets = frozenset(targets)
        self.asked = []
        self._seen = seen

    def detect(self, pictures, smallest=None):
        self.asked.append(list(smallest))
        return [self._seen for _ in pictures]


def policy(**changes):
    return Policy.model_validate({**POLICY.model_dump(), "zones": [], **changes})


def masking(**changes):
    return policy(targets={"face": {"mask": "mosaic", **changes}})


def leaks(*seen, masked=(), under=None, **options):
    inspector = Inspector([Scripted(CENTERFACE, *seen)], ["centerface"], **options)
    return [sighting.detection.box for sighting in inspector.inspect(PICTURE, tuple(masked), under or policy())]


def test_another_detector_looks_as_the_policy_asks_and_the_one_that_masked_at_a_larger_scale():
    first, second = Scripted(CENTERFACE), Scripted(ULTRALYTICS)

    def planned(masked_by, under):
        return [(look.detector, look.smallest) for look in Inspector([first, second], masked_by).looks(under)]

    assert planned(["centerface"], masking(smallest=30)) == [(first, 12), (second, 30)]
    named = masking(detectors=["ultralytics"])  # the policy says which one masked
    assert planned(["centerface", "ultralytics"], named) == [(first, None), (second, 12)]


def test_what_two_detectors_see_at_one_place_is_one_leak():
    first = Scripted(CENTERFACE, face(10, 10, 40, 50), face(100, 10, 140, 60))
    second = Scripted(ULTRALYTICS, face(12, 8, 44, 52), face(150, 60, 190, 110))
    found = Inspector([first, second], ["centerface"]).inspect(PICTURE, (), masking())
    assert [sighting.detection.box[0] for sighting in found] == [10, 100, 150]


@pytest.mark.parametrize(("asked", "then"), [(None, 12), (100, 12), (16, 8), (4, 4)])
def test_the_same_detector_looks_for_smaller_objects(asked, then):
    only = Scripted(CENTERFACE)
    Inspector([only], ["centerface"]).inspect(PICTURE, (), masking(smallest=asked))
    assert only.asked == [[then]]


def test_objects_too_small_for_the_picture_are_looked_for_at_the_next_size():
    class Bounded(Scripted):
        def detect(self, pictures, smallest=None):
            if smallest[0] < 20:
                raise TooManyViews("65 views of one picture")
            return super().detect(pictures, smallest)

    only = Bounded(CENTERFACE, face(10, 10, 30, 40))
    (sighting,) = Inspector([only], ["centerface"]).inspect(PICTURE, (), masking())
    assert sighting.look.smallest == 24
    only.detect = lambda pictures, smallest: (_ for _ in ()).throw(TooManyViews("never"))
    with pytest.raises(TooManyViews):
        Inspector([only], ["centerface"]).inspect(PICTURE, (), masking())


def test_a_target_that_nobody_sees_is_named():
    under = policy(targets={"face": {}, "licence_plate": {}})
    inspector = Inspector([Scripted(CENTERFACE)], ["centerface"])
    assert inspector.unseen(under) == {Target.LICENCE_PLATE}
    assert [look.targets for look in inspector.looks(under)] == [{Target.FACE}]


def test_two_targets_of_one_detector_are_one_inference_where_the_scale_is_the_same():
    both = (Target.FACE, Target.PERSON)
    seen = (face(0, 0, 20, 20), Detection(target=Target.PERSON, score=0.9, box=(50, 0, 80, 90)))
    only = Scripted(CENTERFACE, *seen, targets=both)
    inspector = Inspector([only], ["centerface"])
    found = inspector.inspect(PICTURE, (), policy(targets={"face": {}, "person": {}}))
    assert [(sighting.detection.target, sighting.index) for sighting in found] == [(both[0], 0), (both[1], 1)]
    assert only.asked == [[12], [50]]
    inspector.inspect(PICTURE, (), policy(targets={"face": {"smallest": 8}, "person": {"smallest": 8}}))
    assert only.asked[2:] == [[4]]


def test_indexes_run_on_over_the_looks_of_one_detector():
    """Or two finds of a frame would have the same identity, and one of them would not be counted."""
    targets = (Target.FACE, Target.PERSON)
    only = Scripted(CENTERFACE, face(0, 0, 20, 20), Detection(target=targets[1], score=0.9, box=(50, 0, 80, 90)))
    only.targets = frozenset(targets)
    under = policy(targets={"face": {"smallest": 8}, "person": {}})
    found = Inspector([only], ["centerface"]).inspect(PICTURE, (), under)
    assert [sighting.index for sighting in found] == [0, 1]


def test_what_is_not_masked_and_scored_as_certain_is_a_leak():
    seen = face(10, 10, 30, 40)
    assert leaks(seen) == [seen.box]
    assert leaks(face(10, 10, 30, 40, score=0.49)) == []
    assert leaks(Detection(target=Target.PERSON, score=0.9, box=(10, 10, 30, 40))) == []  # the policy asks for faces


def test_what_was_masked_is_no_leak():
    seen = face(10, 10, 30, 40)
    assert leaks(seen, masked=[seen]) == []
    assert leaks(seen, masked=[face(100, 10, 130, 40)]) == [seen.box]


@pytest.mark.parametrize(("right", "leak"), [(16, True), (23, False)])
def test_half_of_the_box_must_be_masked(right, leak):
    """A box of 20 by 20 pixels from 10 on, masked up to ``right``."""
    assert bool(leaks(face(10, 10, 30, 30), masked=[face(0, 0, right, 60)])) is leak


def test_the_mask_counts_as_it_was_drawn():
    """Grown by the policy's dilation, and in its shape: an ellipse leaves the corners of its box bare."""
    seen = face(50, 50, 58, 58)
    beside = face(20, 40, 48, 70)
    assert leaks(seen, masked=[beside]) == [seen.box]
    assert leaks(seen, masked=[beside], under=masking(dilation=1.0)) == []
    corner = face(0, 0, 12, 12)
    around = face(0, 0, 100, 100)
    assert leaks(corner, masked=[around], under=masking(dilation=0)) == []
    assert leaks(corner, masked=[around], under=masking(dilation=0, shape="ellipse")) == [corner.box]


def test_zones_that_are_always_masked_cover():
    zone = {"name": "door", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    seen = face(10, 10, 30, 40), face(150, 10, 170, 40)
    assert leaks(*seen, under=policy(zones=[zone])) == [seen[1].box]


def test_zones_that_spare_the_target_are_nothing_to_be_masked():
    zone = {"name": "poster", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], "rule": "never_mask"}
    seen = face(10, 10, 30, 40)
    assert leaks(seen, under=policy(zones=[{**zone, "spares": ["face"]}])) == []
    assert leaks(seen, under=policy(zones=[zone])) == [seen.box]  # spares motion alone: a face is masked there


def test_boxes_of_targets_that_the_policy_does_not_name_cover_nothing():
    seen = face(10, 10, 30, 40)
    person = Detection(target=Target.PERSON, score=0.9, box=(0, 0, 90, 90))
    assert leaks(seen, masked=[person]) == [seen.box]


def test_a_box_at_the_pictures_edge():
    assert leaks(face(-5, -5, 20, 20), face(190, 90, 230, 140)) != []
    assert leaks(face(300, 300, 320, 320)) == []  # outside: nothing to be seen there
