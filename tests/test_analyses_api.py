"""``POST /v1/analyses``: measures of faces, the residual of masks, and no template anywhere."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.settings import Settings, load
from sfumato.models import analysis, images, recogniser
from sfumato.models.detectors import DetectorOptions, make
from sfumato.models.recogniser import Recogniser
from sfumato.schemas.analysis import Analysis
from tests.serving import Api

BOX = (400.0, 300.0, 500.0, 430.0)
"""Of a face that is drawn by nobody: what the pose is computed in."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    list(fetch_weights(load(), *recogniser.WEIGHTS))
    with Api(Settings(state_dir=tmp_path_factory.mktemp("state"))) as api:
        yield api


@pytest.fixture(scope="module")
def portrait(pictures: list[bytes]) -> np.ndarray:
    """The man of the clip, large enough for a recogniser."""
    face = images.decode(pictures[0], "image/jpeg", max_pixels=10**6)
    return images.resize(face, 704, 576)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, ::-1]).save(file, "PNG")
    return file.getvalue()


def analyse(
    client: httpx.Client, image: np.ndarray, masked: np.ndarray | None = None, query: str = ""
) -> httpx.Response:
    if masked is None:
        return client.post(f"/v1/analyses{query}", content=png(image), headers={"Content-Type": "image/png"})
    parts = {"image": ("a.png", png(image), "image/png"), "masked": ("b.png", png(masked), "image/png")}
    return client.post(f"/v1/analyses{query}", files=parts)


def first(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    return answer.json()["faces"][0]


def test_a_frontal_face_is_usable_and_a_blurred_small_or_covered_one_is_not(api, portrait):
    face = first(analyse(api.client, portrait))
    measures = face["measures"]
    assert measures["usable_by_recogniser"]
    assert (measures["hindrances"], measures["occlusion"], face["residual"]) == ([], 0.0, None)
    assert 0.2 < measures["eye_distance"] / measures["width"] < 0.7
    assert abs(measures["pose"]["roll"]) < 25
    blurred = first(analyse(api.client, cv2.GaussianBlur(portrait, (0, 0), 22)))["measures"]
    assert blurred["hindrances"] == ["blurred"]
    assert not blurred["usable_by_recogniser"]
    small = np.full((600, 600, 3), 90, np.uint8)
    small[200:236, 200:244] = images.resize(portrait, 44, 36)
    assert "too_small" in first(analyse(api.client, small))["measures"]["hindrances"]


def test_a_mirrored_face_turns_and_leans_the_other_way(api, portrait):
    leaning = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((350, 270), -15, 1), (704, 576))
    upright, leant, mirrored = (
        first(analyse(api.client, picture))["measures"]["pose"]
        for picture in (portrait, leaning, np.ascontiguousarray(leaning[:, ::-1]))
    )
    assert leant["roll"] - upright["roll"] == pytest.approx(15, abs=5)
    assert mirrored["roll"] == pytest.approx(-leant["roll"], abs=5)
    assert mirrored["yaw"] == pytest.approx(-leant["yaw"], abs=10)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (30, 0, 0), (-20, 10, 5), (0, -25, 0), (5, 5, -40)])
def test_a_known_pose_is_found_again(yaw, pitch, roll):
    """The average face turned by known angles and projected."""
    x, y, z = (np.radians(angle) for angle in (-pitch, -yaw, roll))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turned = analysis.MODEL @ (about_z @ about_y @ about_x).T
    far = analysis.FAR * 130
    points = turned[:, :2] * 10 * far / (far + turned[:, 2:] * 10) + (450, 365)
    pose = analysis.pose(points, BOX)
    if not roll:
        assert (pose.yaw, pose.pitch) == pytest.approx((yaw, pitch), abs=3)
    assert pose.roll == pytest.approx(roll, abs=5)


def test_hidden_parts_count_and_so_do_those_outside(portrait):
    detector = make("centerface", DetectorOptions(threads=1, weights_dir=load().weights_dir))
    box = max(detector.detect([portrait])[0], key=lambda found: found.score).box
    points = detector.points(portrait, box)
    assert analysis.occlusion(portrait, points, box) == 0
    eyes, lips = points[:2, 1].mean(), points[3:, 1].mean()
    assert eyes < points[2, 1] < lips
    assert points[0, 0] < points[1, 0]
    covered = portrait.copy()
    covered[round((points[2, 1] + lips) / 2) - 8 :] = 90  # a scarf over the mouth
    assert analysis.occlusion(covered, points, box) == pytest.approx(0.4)
    cut = portrait[: round(points[2, 1])]  # the mouth lies outside
    assert analysis.occlusion(cut, points, box) >= 0.4


def test_the_residual_of_a_solid_mask_is_none_and_that_of_no_mask_is_all(api, portrait):
    asked = {"Content-Type": "image/png", "Accept": "application/json"}
    for query, recognised in (("targets=face", False), ("targets=text", True)):
        masked = api.client.post(f"/v1/images:anonymize?{query}", content=png(portrait), headers=asked).json()
        residual = first(analyse(api.client, portrait, query=f"?masked={masked['id']}"))["residual"]
        assert residual["before"] < 0.3
        assert residual["recognised"] is recognised
        assert (residual["after"] < residual["threshold"]) is recognised
        sent = images.decode_file(api.client.get(masked["picture"]).content, "image/png", max_pixels=10**6)
        assert first(analyse(api.client, portrait, sent))["residual"] == residual


def test_two_pictures_are_not_compared(api, portrait):
    """Else the call would say whether they show the same person."""
    other = np.roll(portrait, 60, axis=1)
    other[:40] = 0
    answer = analyse(api.client, portrait, other)
    assert (answer.status_code, "two pictures are not compared" in answer.text) == (422, True)
    assert analyse(api.client, portrait, portrait[:-2]).status_code == 422
    assert analyse(api.client, portrait, query="?masked=unknown").status_code == 422
    with api.caller() as stranger:
        headers = {"Content-Type": "image/png", "Accept": "application/json"}
        mine = api.client.post("/v1/images:anonymize?targets=face", content=png(portrait), headers=headers).json()
        assert analyse(stranger, portrait, query=f"?masked={mine['id']}").status_code == 422


def test_no_template_leaves_memory(api, portrait, caplog, monkeypatch):
    """What the recogniser made is looked for in the answer, the log and all files."""
    templates = []
    template = Recogniser.template

    def watched(self, *arguments):
        templates.append(template(self, *arguments))
        return templates[-1]

    monkeypatch.setattr(Recogniser, "template", watched)
    caplog.set_level(logging.DEBUG)
    answer = analyse(api.client, portrait, portrait)
    assert len(templates) == 3
    numbers = {f"{abs(value):.4f}" for made in templates for value in made if abs(value) > 0.02}
    assert len(numbers) > 100
    seen = answer.text + caplog.text + "".join(answer.headers.values())
    assert [number for number in numbers if number in seen] == []
    kept = b"".join(file.read_bytes() for file in Path(api.settings.state_dir).rglob("*") if file.is_file())
    for made in templates:
        assert made.tobytes()[:64] not in kept
        assert made.astype(np.float32).tobytes()[:64] not in kept

    def lists(value: object) -> Iterator[list[object]]:
        if isinstance(value, list):
            yield value
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from lists(part)

    assert all(len(found) < 16 for found in lists(json.loads(answer.text)))
    Analysis.model_validate_json(answer.text)  # which forbids other fields


def test_without_the_extra_the_residual_is_refused_and_the_rest_works(tmp_path, portrait, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with Api(Settings(state_dir=tmp_path)) as api:
        answer = analyse(api.client, portrait, portrait)
        assert (answer.status_code, ".[attack]" in answer.text) == (501, True)
        assert analyse(api.client, portrait).status_code == 200
