"""CenterFace on real pictures, and its refusal of a weight that is not the pinned one."""

import av
import numpy as np
import pytest
from clips import clip

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, weights
from sfumato.models.detectors import DetectorError, DetectorOptions
from sfumato.models.weights import WEIGHTS, WeightError


@pytest.fixture(scope="module")
def detector():
    folder = load().weights_dir
    fetch(WEIGHTS["centerface"], folder)
    return detectors.make("centerface", DetectorOptions(threads=1, weights_dir=folder))


@pytest.fixture(scope="module")
def portrait():
    """A man's face fills the middle of this 176x144 frame."""
    with av.open(str(clip("carphone"))) as container:
        return next(container.decode(video=0)).to_ndarray(format="bgr24")


def test_finds_the_face_where_it_is(detector, portrait):
    (best, *_) = sorted(detector.detect([portrait])[0], key=lambda d: -d.score)
    assert best.score > 0.8
    x0, y0, x1, y1 = best.box
    assert (x0 + x1) / 2 == pytest.approx(87, abs=10)
    assert (y0 + y1) / 2 == pytest.approx(67, abs=10)
    assert 35 < x1 - x0 < 65


def test_a_batch_of_different_sizes_keeps_its_order_and_pixels(detector, portrait):
    pasted = np.full((400, 500, 3), 90, np.uint8)
    pasted[200:344, 300:476] = portrait
    empty = np.full((64, 96, 3), 90, np.uint8)
    small, large, none = ([d for d in found if d.score > 0.5] for found in detector.detect([portrait, pasted, empty]))
    assert none == []
    assert np.subtract(large[0].box, small[0].box) == pytest.approx([300, 200, 300, 200], abs=4)


def test_large_pictures_are_shrunk_and_boxes_scaled_back(portrait):
    detector = detectors.make("centerface", DetectorOptions(threads=1, long_side=176, weights_dir=load().weights_dir))
    large = portrait.repeat(4, axis=0).repeat(4, axis=1)
    box = max(detector.detect([large])[0], key=lambda d: d.score).box
    assert (box[0] + box[2]) / 2 == pytest.approx(4 * 87, abs=40)


def test_an_unknown_detector_lists_the_known_ones():
    with pytest.raises(DetectorError, match="unknown detector 'yolov99'; one of: centerface"):
        detectors.make("yolov99", DetectorOptions())


def test_a_weight_is_refused_when_absent_altered_or_unknown(tmp_path):
    with pytest.raises(WeightError, match="run `sfumato weights`"):
        weights.locate("centerface", tmp_path)
    path = WEIGHTS["centerface"].path(tmp_path)
    original = fetch(WEIGHTS["centerface"], load().weights_dir).read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(WeightError, match="SHA-256 differs"):
        weights.locate("centerface", tmp_path)
    with pytest.raises(WeightError, match="one of: centerface"):
        weights.locate("yolov99", tmp_path)
