"""The plate and text detectors on plates and lettering drawn onto real video, and on labelled photographs where there
are some."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, scales
from sfumato.models.detectors import DetectorOptions, Provider
from sfumato.models.ensemble import Ensemble
from sfumato.models.ppocr import like_a_plate
from sfumato.models.tiles import TooManyViews
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Target
from sfumato.schemas.policy import Policy
from tests.lettering import hidden, paste, plate, street

LABELS = Path(__file__).resolve().parents[2] / "shared" / "eval" / "labels.json"


def make(name, **options):
    folder = load().weights_dir
    for weight in detectors.needs(name):
        fetch(WEIGHTS[weight], folder)
    return detectors.make(name, DetectorOptions(threads=1, weights_dir=folder, **options))


@pytest.fixture(scope="module")
def clp():
    return make("clp")


@pytest.fixture(scope="module")
def ppocr():
    return make("ppocr")


def plates(detector, picture, smallest=None):
    (found,) = detector.detect([picture], [smallest])
    return tuple(
        d for d in found if d.target is Target.LICENCE_PLATE and d.score >= detector.threshold.at(d.box[3] - d.box[1])
    )


def texts(detector, picture, smallest=None):
    (found,) = detector.detect([picture], [smallest])
    return tuple(d for d in found if d.target is Target.TEXT and d.score >= detector.threshold.at(d.box[3] - d.box[1]))


@pytest.mark.parametrize(("height", "angle"), [(24, 0), (24, -20), (40, 15), (80, 0), (160, 15)])
def test_clp_finds_plates_of_every_size_and_their_corners(clp, height, angle):
    picture = street()
    corners = paste(picture, plate(), (640, 270), height, angle)
    found = plates(clp, picture)
    assert hidden(found, corners, picture.shape) > 0.75
    assert hidden(found, corners, picture.shape, outlines=True) > 0.65


@pytest.mark.parametrize(("height", "angle"), [(12, 0), (16, 35), (40, -20), (80, 35), (160, 0)])
def test_ppocr_finds_plates_as_text_and_turns_with_them(ppocr, height, angle):
    picture = street()
    corners = paste(picture, plate(), (640, 270), height, angle)
    for found in (texts(ppocr, picture), plates(ppocr, picture)):
        assert hidden(found, corners, picture.shape) > 0.9
        assert hidden(found, corners, picture.shape, outlines=True) > 0.75  # the characters, not the plate's rim


def test_text_that_is_no_plate_is_only_text(ppocr):
    picture = street()
    upright = paste(picture, plate("BAKERY"), (640, 270), 40, 90)
    assert hidden(texts(ppocr, picture), upright, picture.shape) > 0.75
    assert hidden(plates(ppocr, picture), upright, picture.shape) == 0


@pytest.mark.parametrize("name", ["clp", "ppocr"])
def test_small_plates_need_smallest_and_large_ones_stay_found(name):
    detector = make(name, long_side=320)
    picture = np.full((720, 1280, 3), 110, np.uint8)
    small = paste(picture, plate(height=110), (200, 100), {"clp": 16, "ppocr": 8}[name])
    large = paste(picture, plate("DE L 9941"), (640, 500), 150)
    assert hidden(plates(detector, picture), small, picture.shape) == 0
    found = plates(detector, picture, smallest={"clp": 12, "ppocr": 6}[name])
    assert hidden(found, small, picture.shape) > 0.75
    assert hidden(found, large, picture.shape) > 0.75


@pytest.mark.parametrize("name", ["clp", "ppocr"])
def test_a_batch_keeps_its_order_and_each_picture_its_own_size(name, request):
    detector = request.getfixturevalue(name)
    wide, narrow, empty = street(), street(640), np.full((200, 300, 3), 90, np.uint8)
    there = [paste(wide, plate(), (900, 400), 60), paste(narrow, plate(), (200, 100), 40)]
    batch = [narrow, empty, wide]
    found = detector.detect(batch, [None, 12, 24])
    assert [len(f) > 0 for f in found] == [True, False, True]
    assert hidden(found[0], there[1], narrow.shape) > 0.75
    assert hidden(found[2], there[0], wide.shape) > 0.75
    assert [detector.detect([p], [s])[0] for p, s in zip(batch, [None, 12, 24], strict=True)] == found


@pytest.mark.parametrize("name", ["clp", "ppocr"])
@pytest.mark.parametrize("shape", [(16, 16), (17, 300), (300, 17), (1, 1)])
def test_pictures_of_any_shape_are_looked_at(name, shape, request):
    detector = request.getfixturevalue(name)
    (found,) = detector.detect([np.full((*shape, 3), 120, np.uint8)], [8])
    assert found == ()


@pytest.mark.parametrize("name", ["clp", "ppocr"])
def test_a_plate_at_the_edge_stays_inside_of_the_picture(name, request):
    detector = request.getfixturevalue(name)
    picture = street()
    height, width = picture.shape[:2]
    corners = paste(picture, plate(), (90, height - 25), 50)
    found = detector.detect([picture])[0]
    assert hidden(found, corners, picture.shape) > 0.75
    points = np.array([point for d in found for point in (d.box[:2], d.box[2:], *d.outline)])
    assert (points >= 0).all()
    assert (points <= (width, height)).all()


def test_a_picture_too_large_for_one_pass_is_cut_into_tiles_that_lose_nothing(clp, monkeypatch):
    picture = street()
    centres = [(x, y) for x in (200, 620, 1050) for y in (90, 270, 450)]
    corners = [paste(picture, plate(), centre, 30) for centre in centres]
    monkeypatch.setattr(scales, "LONGEST", 640)
    seen = [(view.width, view.height) for view in scales.views(picture, 2.0)]
    assert len(seen) > 6
    assert max(max(size) for size in seen) <= 640
    found = plates(clp, picture, smallest=8)
    assert [hidden(found, corner, picture.shape) > 0.75 for corner in corners] == [True] * 9


def test_what_would_take_too_many_views_is_refused(clp):
    with pytest.raises(TooManyViews):
        clp.detect([np.zeros((4000, 6000, 3), np.uint8)], [4])


@pytest.mark.parametrize(
    ("sides", "angle", "is_plate"),
    [
        ((200, 45), 0, True),
        ((90, 60), 0, True),
        ((200, 45), 40, True),
        ((200, 45), 60, False),
        ((60, 58), 0, False),
        ((500, 40), 0, False),
        ((900, 300), 0, False),
    ],
)
def test_the_shape_of_a_plate(sides, angle, is_plate):
    corners = cv2.boxPoints(((500, 300), sides, angle)).astype(np.float64)
    assert like_a_plate(corners, 1000) is is_plate
    assert like_a_plate(corners[[2, 3, 0, 1]], 1000) is is_plate


def policy(**targets):
    return Policy.model_validate(
        {
            "camera": "north",
            "version": 1,
            "controller": "c",
            "purpose": "p",
            "lawful_basis": "public_task",
            "dpia": "d",
            "retention_hours": 1,
            "targets": targets,
        }
    )


def test_text_is_a_second_opinion_on_plates_only_where_the_policy_names_it(clp, ppocr):
    both = Ensemble([clp, ppocr])
    assert [r.name for r in both.records(policy(licence_plate={}))] == ["clp"]
    assert [r.name for r in both.records(policy(licence_plate={"detectors": ["clp", "ppocr"]}))] == ["clp", "ppocr"]
    assert [r.name for r in both.records(policy(licence_plate={}, text={}))] == ["clp", "ppocr"]
    picture = street()
    paste(picture, plate(), (640, 270), 60)
    (found,) = both.detect([picture], [policy(text={})])
    assert {d.target for d in found} == {Target.TEXT}
    alone = Ensemble([ppocr])
    assert "name ppocr in its detectors" in alone.missing(policy(licence_plate={}))
    assert alone.missing(policy(licence_plate={"detectors": ["ppocr"]})) is None


@pytest.mark.skipif(not LABELS.is_file(), reason="no labelled photographs beside this repository (../shared/eval)")
@pytest.mark.parametrize(("name", "exposed"), [("clp", 0.05), ("ppocr", 0.05)])
def test_few_labelled_plates_stay_exposed(name, exposed):
    detector = make(name, provider=Provider.ONNXRUNTIME)  # it need not compile for every size of photograph
    labels = json.loads(LABELS.read_text())["images"]
    bare = []
    for file, entry in labels.items():
        boxes = [o["box"] for o in entry["objects"] if o["class"] == Target.LICENCE_PLATE]
        if boxes:
            picture = cv2.imread(str(LABELS.parent / "images" / file))
            found = plates(detector, picture)
            for x0, y0, x1, y1 in boxes:
                corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
                bare.append(hidden(found, corners, picture.shape) < 0.75)
    assert len(bare) >= 50
    assert np.mean(bare) <= exposed
