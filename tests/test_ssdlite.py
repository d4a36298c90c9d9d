"""The person detector on real pictures: whole, small, and on the seams of its tiles."""

from __future__ import annotations

from itertools import islice

import av
import numpy as np
import pytest
from clips import clip

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images, ssdlite, tiles
from sfumato.models.detectors import DetectorError, DetectorOptions
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.masking import Masking

BOX = (362, 45, 499, 215)
"""Where frame 80 of the clip shows a man from head to foot."""
MARGIN = 24
HIGH = 110
"""Of the man pasted into a street of 750, where the tiles show whom is higher than 90, in pixels."""


@pytest.fixture(scope="module")
def detector():
    fetch(WEIGHTS["ssdlite"], load().weights_dir)
    return detectors.make("ssdlite", DetectorOptions(threads=1, weights_dir=load().weights_dir))


@pytest.fixture(scope="module")
def street():
    with av.open(str(clip("bikes"))) as container:
        return next(islice(container.decode(video=0), 80, None)).to_ndarray(format="bgr24")


@pytest.fixture(scope="module")
def man(street):
    """Cut out with a margin and shrunk to HIGH pixels from head to foot."""
    x0, y0, x1, y1 = BOX
    part = street[y0 - MARGIN : y1 + MARGIN, x0 - MARGIN : x1 + MARGIN]
    scale = HIGH / (y1 - y0)
    return images.resize(part, round(part.shape[1] * scale), round(part.shape[0] * scale))


def pasted(man, x, y, width=1000, height=750):
    """A grey street with the man's middle at x, y, and his box."""
    canvas = np.full((height, width, 3), 128, np.uint8)
    h, w = man.shape[:2]
    left, top = min(max(0, x - w // 2), width - w), min(max(0, y - h // 2), height - h)
    canvas[top : top + h, left : left + w] = man
    margin = round(MARGIN * HIGH / (BOX[3] - BOX[1]))
    return canvas, (left + margin, top + margin, left + w - margin, top + h - margin)


def covered(box, found, threshold):
    """Share of the box's area under the detections, grown as a policy's default has it."""
    mask = np.zeros((round(box[3] - box[1]), round(box[2] - box[0])), bool)
    for d in found:
        if d.score >= threshold:
            dx, dy = ((d.box[i + 2] - d.box[i]) * Masking().dilation for i in (0, 1))
            grown = np.add(d.box, (-dx, -dy, dx, dy))
            x0, y0, x1, y1 = (max(0, round(v)) for v in np.subtract(grown, box[:2] * 2))
            mask[y0:y1, x0:x1] = True
    return mask.mean()


def test_finds_the_man_where_he_is(detector, street):
    tiled, (best, *_) = detector.detect([street, street], [None, 4096])
    assert covered(BOX, tiled, detector.threshold.at(0)) > 0.9
    assert best.score > 0.5
    assert best.target == "person"
    assert best.box == pytest.approx(BOX, abs=15)


def test_a_man_on_any_seam_of_the_tiles_is_covered(detector, man):
    parts = [view.part for view in ssdlite.views(1000, 750, None)][1:]
    xs = sorted({x for x0, _, x1, _ in parts for x in (x0, x1)} - {0, 1000})
    ys = sorted({y for _, y0, _, y1 in parts for y in (y0, y1)} - {0, 750})
    assert len(xs) == len(ys) == 2
    for x in xs:
        for y in ys:
            picture, box = pasted(man, x, y)
            (found,) = detector.detect([picture])
            assert covered(box, found, detector.threshold.at(0)) > 0.75, (x, y)


def test_the_smallest_person_asked_for_chooses_the_tiles(detector, man):
    small = images.resize(man, man.shape[1] // 2, man.shape[0] // 2)
    canvas = np.full((750, 1000, 3), 128, np.uint8)
    h, w = small.shape[:2]
    canvas[300 : 300 + h, 450 : 450 + w] = small
    box = (450 + w / 4, 300 + h / 4, 450 + w * 3 / 4, 300 + h * 3 / 4)
    coarse, fine = detector.detect([canvas, canvas], [400, 40])
    assert covered(box, coarse, 0.3) < 0.5
    assert covered(box, fine, 0.3) > 0.75


def test_more_views_the_smaller_the_person_asked_for():
    counts = [len(list(ssdlite.views(1920, 1080, smallest))) for smallest in (400, 120, 60, 40)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert (len(list(ssdlite.views(1280, 720, 60))), counts[2]) == (17, 46)  # docs/detectors.md
    assert min(len(list(ssdlite.views(1920, 1080, 48))), len(list(ssdlite.views(1280, 720, 32)))) > tiles.MOST_VIEWS
    assert counts[-1] > 9


def test_an_empty_street_has_nobody(detector):
    (found,) = detector.detect([np.full((480, 640, 3), 128, np.uint8)])
    assert [d for d in found if d.score >= detector.threshold.at(0)] == []


def test_onnxruntime_cannot_run_it(detector):
    options = DetectorOptions(provider="onnxruntime", weights_dir=load().weights_dir)
    with pytest.raises(DetectorError, match="leave that detector out of SFUMATO_DETECTORS"):
        detectors.make("ssdlite", options)
