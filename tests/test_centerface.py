"""CenterFace on real pictures, and its refusal of a weight that is not the pinned one."""

import av
import numpy as np
import pytest
from clips import clip
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import centerface, detectors, images, tiles, weights
from sfumato.models.boxes import overlap, share
from sfumato.models.centerface import CenterFace
from sfumato.models.detectors import DetectorError, DetectorOptions
from sfumato.models.ensemble import Ensemble
from sfumato.models.tiles import TooManyViews
from sfumato.models.weights import WEIGHTS, WeightError
from sfumato.schemas.detection import DetectorName, Evidence, Target
from sfumato.schemas.masking import Masking
from tests.test_anonymize import POLICY, Scripted, face, noise


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


def framed(portrait, height, x, y, width=1600, depth=1200):
    """A grey picture with the portrait around x, y, shrunk until the face is so high, and the face's middle."""
    scale = height / 60
    small = images.resize(portrait, round(176 * scale), round(144 * scale))
    canvas = np.full((depth, width, 3), 128, np.uint8)
    h, w = small.shape[:2]
    left = min(max(0, round(x - 87 * scale)), width - w)
    top = min(max(0, round(y - 67 * scale)), depth - h)
    canvas[top : top + h, left : left + w] = small
    return canvas, (left + 87 * scale, top + 67 * scale)


def finds(found, middle, threshold):
    return any(
        d.score >= threshold and d.box[0] < middle[0] < d.box[2] and d.box[1] < middle[1] < d.box[3] for d in found
    )


def test_the_smallest_face_asked_for_chooses_the_input_size(detector, portrait, monkeypatch):
    sizes = []
    find = detector._find
    monkeypatch.setattr(detector, "_find", lambda pixels: sizes.append(pixels.shape[:2]) or find(pixels))
    picture, middle = framed(portrait, 8, 200, 150, 400, 300)
    coarse, fine = detector.detect([picture, picture], [32, 8])
    assert sizes == [(150, 200), (600, 800)]
    assert not finds(coarse, middle, detector.threshold.at(0))
    assert finds(fine, middle, detector.threshold.at(0))


def test_a_face_on_any_seam_of_the_tiles_is_found(detector, portrait):
    parts = [view.part for view in centerface.views(1600, 1200, 1.0)][1:]
    assert len(parts) > 3
    for x in sorted({x for x0, _, x1, _ in parts for x in (x0, x1)}):
        for y in sorted({y for _, y0, _, y1 in parts for y in (y0, y1)}):
            picture, middle = framed(portrait, 22, x, y)
            (found,) = detector.detect([picture], [16])
            assert finds(found, middle, detector.threshold.at(0)), (x, y)


def test_a_face_larger_than_the_overlap_is_found_in_the_whole(detector, portrait):
    """Cut by every tile."""
    picture, middle = framed(portrait, 480, 800, 600)
    (found,) = detector.detect([picture], [16])
    best = max(found, key=lambda d: d.score)
    assert finds([best], middle, 0.5)
    assert best.box[3] - best.box[1] > 300


def test_a_face_too_small_for_the_picture_is_refused(detector):
    with pytest.raises(TooManyViews):
        detector.detect([np.zeros((2160, 3840, 3), np.uint8)], [4])


def test_pictures_side_by_side_are_answered_in_order(detector, portrait):
    options = DetectorOptions(threads=1, streams=3, weights_dir=load().weights_dir)
    pictures = [images.resize(portrait, side, side) for side in (300, 64, 200, 400)] + [np.zeros_like(portrait)]
    smallest = [None, 16, None, 24, None]
    together = detectors.make("centerface", options).detect(pictures, smallest)
    assert together == detector.detect(pictures, smallest)
    assert len({len(found) for found in together}) > 1
    with pytest.raises(TooManyViews):
        detectors.make("centerface", options).detect([portrait, np.zeros((2160, 3840, 3), np.uint8)], [None, 4])


def test_both_providers_find_the_same_faces(detector, portrait):
    other = detectors.make(
        "centerface", DetectorOptions(threads=1, provider="onnxruntime", weights_dir=load().weights_dir)
    )
    large = images.resize(portrait, 500, 410)
    for ours, theirs in zip(detector.detect([portrait, large]), other.detect([portrait, large]), strict=True):
        ours, theirs = ([d for d in found if d.score >= 0.1] for found in (ours, theirs))
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert a.score == pytest.approx(b.score, abs=0.01)
            assert a.box == pytest.approx(b.box, abs=0.5)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_weight_is_refused_when_absent_or_altered(tmp_path, name):
    with pytest.raises(WeightError, match="run `sfumato weights`"):
        weights.locate(name, tmp_path)
    path = WEIGHTS[name].path(tmp_path)
    original = fetch(WEIGHTS[name], load().weights_dir).read_bytes()
    path.write_bytes(original)
    assert weights.locate(name, tmp_path) == path
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(WeightError, match="SHA-256 differs"):
        weights.locate(name, tmp_path)


def test_an_unknown_weight_lists_the_known_ones(tmp_path):
    with pytest.raises(WeightError, match="one of: centerface"):
        weights.locate("yolov99", tmp_path)


def test_detectors_name_weights_that_exist():
    assert set(detectors.DETECTORS) == set(DetectorName)
    assert set(detectors.needs(*detectors.DETECTORS)) <= set(WEIGHTS)
    assert detectors.needs("centerface", "ssdlite", "centerface") == ["centerface", "ssdlite"]
    with pytest.raises(DetectorError, match="unknown detector 'yolov99'"):
        detectors.needs("yolov99")


def test_the_score_asked_for_rises_with_the_height_of_the_box():
    """A large box of a low score is a false alarm; a small one may be a face."""
    policy = POLICY.model_copy(update={"targets": {Target.FACE: Masking()}})
    heights = (12, 30, 80)

    class Doubtful(Scripted):
        threshold = CenterFace.threshold

    apart = tuple(face(2 * height, 0, 2 * height + 10, height, score=0.12) for height in heights)
    detector = Doubtful(lambda pictures: [apart])
    (found,) = Ensemble([detector]).detect([noise()], [policy])
    assert [d.evidence for d in found] == [Evidence.DETECTED, Evidence.WEAK, Evidence.WEAK]


def maps(*cells, side=32):
    """The network's maps, with these in them: row, column, score, height and width of the box in pixels."""
    heat, size, offset = (np.zeros((*depth, side, side), np.float32) for depth in ((), (2,), (2,)))
    for row, column, score, height, width in cells:
        heat[row, column], size[:, row, column] = score, np.log(np.array([height, width]) / centerface.STRIDE)
    return heat, size, offset


@pytest.mark.parametrize(("shown_at", "shrunk"), [(128, 1), (256, 2)])
def test_a_face_that_counts_is_not_hidden_by_a_better_box_that_does_not(detector, monkeypatch, shown_at, shrunk):
    """Of 30 pixels and 0.16 it counts; beside it lies one of 45 pixels and 0.19, of which 0.2 is asked."""
    small, large = (16, 16, 0.16, 30 / shrunk, 30 / shrunk), (16, 16 + 1, 0.19, 45 / shrunk, 45 / shrunk)
    policy = POLICY.model_copy(update={"targets": {Target.FACE: Masking()}})
    picture = np.zeros((shown_at, shown_at, 3), np.uint8)
    monkeypatch.setattr(detector, "_long_side", shown_at // shrunk)
    for cells, heights in (([small], [30]), ([large], []), ([small, large], [30, 45])):
        monkeypatch.setattr(detector, "_find", lambda _, cells=cells: centerface._decode(*maps(*cells)))
        (found,) = Ensemble([detector]).detect([picture], [policy])
        certain = [d for d in found if d.evidence is Evidence.DETECTED]
        assert sorted(round(d.box[3] - d.box[1]) for d in certain) == heights


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[st.integers(8, 11)] * 2, st.floats(0.09, 0.22), *[st.floats(16, 70)] * 2), max_size=12))
def test_nothing_that_counts_is_left_out_but_for_what_counts(cells):
    heat, size, offset = maps(*cells)
    before = [centerface._decode(*maps(cell)) for cell in {cell[:2]: cell for cell in cells}.values()]
    boxes, scores = centerface._decode(heat, size, offset)
    threshold = CenterFace.threshold
    boxes, scores = tiles.merge(boxes, scores, np.zeros(len(boxes), bool), centerface.OVERLAP, threshold)
    kept = boxes[threshold.met(boxes, scores)].tolist()
    for box, score in before:
        if threshold.met(box.round(1), score.round(3)).all():
            (alone,) = box.tolist()
            assert any(overlap(alone, each) > 0.29 or share(alone, each) > 0.89 for each in kept)
