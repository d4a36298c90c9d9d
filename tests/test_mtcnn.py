"""MTCNN on real pictures: the face of a film, small and at the border, and nothing where there is nothing."""

import av
import numpy as np
import pytest
from clips import clip

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images
from sfumato.models.detectors import DetectorOptions
from sfumato.models.mtcnn import BATCH, NETWORKS, _cut
from sfumato.models.weights import WEIGHTS


@pytest.fixture(scope="module")
def detector():
    folder = load().weights_dir
    for name in NETWORKS:
        fetch(WEIGHTS[name], folder)
    return detectors.make("mtcnn", DetectorOptions(threads=1, weights_dir=folder))


@pytest.fixture(scope="module")
def portrait():
    """A man's face fills the middle of this 176x144 frame."""
    with av.open(str(clip("carphone"))) as container:
        return next(container.decode(video=0)).to_ndarray(format="bgr24")


def best(detector, picture, smallest=None):
    return max(detector.detect([picture], [smallest])[0], key=lambda found: found.score)


def test_finds_the_face_where_it_is_also_enlarged_and_shrunk(detector, portrait):
    for factor, smallest in ((1.0, None), (3.0, None), (0.4, 12)):
        size = round(176 * factor), round(144 * factor)
        found = best(detector, images.resize(portrait, *size), smallest)
        assert found.score > 0.9
        x0, y0, x1, y1 = np.array(found.box) / factor
        assert (x0 + x1) / 2 == pytest.approx(87, abs=10)
        assert (y0 + y1) / 2 == pytest.approx(67, abs=12)
        assert 35 < x1 - x0 < 70


def test_a_face_that_the_border_cuts_is_found_inside_the_picture(detector, portrait):
    cut = np.ascontiguousarray(portrait[:, 70:])
    x0, _, x1, _ = best(detector, cut).box
    assert x0 == pytest.approx(0, abs=8)
    assert x1 - x0 < 70


def test_a_batch_keeps_its_order_and_an_empty_picture_has_no_face(detector, portrait):
    empty, crowd = np.full((64, 96, 3), 90, np.uint8), np.tile(portrait, (3, 4, 1))
    none, many, one = detector.detect([empty, crowd, portrait])
    assert none == ()
    assert sum(found.score > 0.9 for found in many) >= 12
    assert sum(found.score > 0.9 for found in one) == 1
    assert detector.detect([np.zeros((8, 8, 3), np.uint8)]) == [()]


def test_more_proposals_than_one_batch_are_all_judged(detector):
    noisy = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert BATCH < 100
    assert all(found.score < 0.9 for found in detector.detect([noisy])[0])


def test_beyond_the_picture_is_black():
    white = np.full((10, 10, 3), 255, np.uint8)
    whole = _cut(white, np.array([-10.0, -10.0, 10.0, 10.0]), 20)
    assert whole[:10].max() == whole[:, :10].max() == 0
    assert whole[10:, 10:].min() == 255
    assert _cut(white, np.array([50.0, 50.0, 60.0, 60.0]), 8).max() == 0
