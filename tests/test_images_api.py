"""``POST /v1/images:anonymize`` and ``/v1/detections`` over real HTTP: real pictures, and bodies that mean harm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from sfumato.agents import policies, rules
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.settings import Settings, load
from sfumato.models import images, recogniser, still
from sfumato.models.regions import regions
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import Scope
from tests.calling import bearer, secret
from tests.hostile import SECRET, encoded, hostile
from tests.serving import Api
from tests.test_bridge import Bridge
from tests.test_credentials import reader

POLICY = {
    "camera": "press",
    "version": 7,
    "controller": "City of Delft",
    "purpose": "Publication",
    "lawful_basis": "public_task",
    "dpia": "DPIA-1",
    "retention_hours": 24,
    "targets": {"face": {"mask": "solid"}},
    "zones": [{"name": "window", "polygon": [[0.0, 0.0], [0.25, 0.0], [0.25, 0.25], [0.0, 0.25]]}],
}
NIGHT = {"name": "night", "from": "22:00", "to": "06:00", "full_mask": True}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    list(fetch_weights(load()))
    folder = tmp_path_factory.mktemp("state")
    with Api(Settings(state_dir=folder, max_pixels=1_000_000, image_bytes=3_000_000)) as api:
        yield api


@pytest.fixture(scope="module")
def face(pictures: list[bytes]) -> np.ndarray:
    return images.decode(pictures[0], "image/jpeg", max_pixels=10**6)


def anonymize(
    client: httpx.Client,
    payload: bytes,
    kind: str = "image/jpeg",
    query: str = "targets=face&credentials=false",
    **headers: str,
) -> httpx.Response:
    named = {"Content-Type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/v1/images:anonymize?{query}", content=payload, headers=named)


def problem(answer: httpx.Response) -> str:
    assert answer.headers["content-type"].startswith("application/problem+"), answer.text
    return str(answer.json()["detail"])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_comes_back_masked_in_its_format_as_sfumato_mask_makes_it(api, face, kind):
    payload = encoded(face, kind.upper())
    answer = anonymize(api.client, payload, f"image/{kind}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"image/{kind}"
    assert (answer.headers["sfumato-outcome"], answer.headers["sfumato-objects"]) == ("masked", "1")
    assert "sfumato-policy-version" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    policy = rules.chosen(load(), None, "face", None).policy
    alike = still.mask(payload, rules.load(load(), policy), policy, max_pixels=10**6, quality=90)
    assert answer.content == alike.payload
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["content-digest"] == f"sha-256=:{digest}:"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_carries_a_signed_statement_of_what_was_done(api, face, kind):
    answer = anonymize(api.client, encoded(face, kind.upper()), f"image/{kind}", "targets=face")
    with reader(f"image/{kind}", answer.content) as read:
        assert read.get_validation_state() == "Valid"
        assert '"org.sfumato.redaction"' in read.json()
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["content-digest"] == f"sha-256=:{digest}:"


def test_what_lies_outside_the_masks_stays_and_what_lies_inside_is_gone(api, face):
    """Property of PNG, which keeps every pixel: the mask's pixels do not depend on what was there."""
    policy = rules.chosen(load(), None, "face", None).policy
    ensemble = rules.load(load(), policy)

    @given(seed=st.integers(0, 2**32 - 1), noise=st.integers(0, 12))
    @examples(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(seed: int, noise: int) -> None:
        random = np.random.default_rng(seed)
        picture = np.clip(face + random.integers(-noise, noise + 1, face.shape), 0, 255).astype(np.uint8)
        shown = images.decode(
            anonymize(api.client, encoded(picture), "image/png").content, "image/png", max_pixels=10**6
        )
        found = [d for d in ensemble.detect([picture], [policy])[0] if d.evidence == "detected"]
        inside = np.zeros(picture.shape[:2], bool)
        for region in regions(tuple(found), policy, picture.shape[1], picture.shape[0])[0]:
            x0, y0, x1, y1 = region.box
            inside[y0:y1, x0:x1] |= region.pixels
        assert inside[48:76, 68:108].all()
        assert np.all(shown[inside] == images.GREY)
        assert np.array_equal(shown[~inside], picture[~inside])

    holds()


def test_accept_chooses_the_picture_or_the_resource_with_its_url(api, face):
    payload = encoded(face)
    for accept in ("*/*", "image/*", "image/png;q=0.9, image/jpeg", "image/png, application/json;q=0.5"):
        assert anonymize(api.client, payload, "image/png", Accept=accept).headers["content-type"] == "image/png"
    refused = anonymize(api.client, payload, "image/png", Accept="image/jpeg")
    assert refused.status_code == 406
    assert "image/png, application/json" in problem(refused)
    told = anonymize(api.client, payload, "image/png", Accept="application/json").json()
    (object,) = told["objects"]
    assert (told["outcome"], told["reason"], told["width"], told["height"]) == ("masked", None, 176, 144)
    assert (object["target"], told["policy"]) == ("face", None)
    assert object["relative"]["left"] == pytest.approx(object["box"]["left"] / 176, abs=1e-4)
    assert [detector["name"] for detector in told["detectors"]] == ["centerface"]
    document = ElementTree.fromstring(anonymize(api.client, payload, "image/png", Accept="application/xml").text)
    assert document.findtext("{*}outcome") == "masked"
    protobuf = anonymize(api.client, payload, "image/png", Accept="application/x-protobuf")
    assert b"centerface" in protobuf.content
    picture = api.client.get(told["picture"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert hashlib.sha256(picture.content).hexdigest() == told["sha256"]
    assert len(picture.content) == told["size"]
    with api.caller() as other:
        assert other.get(told["picture"]).status_code == 404
    assert api.client.get("/v1/images/nonsense").status_code == 404


def test_a_form_carries_a_policy(api, face):
    parts = {
        "image": ("a.png", encoded(face), "image/png"),
        "policy": ("p.json", json.dumps(POLICY), "application/json"),
    }
    answer = api.client.post("/v1/images:anonymize", files=parts)
    assert answer.headers["sfumato-policy-version"] == "7"
    shown = images.decode(answer.content, "image/png", max_pixels=10**6)
    assert np.all(shown[:30, :40] == images.GREY)  # the zone
    by_header = anonymize(api.client, encoded(face), "image/png", "", Sfumato_Policy=json.dumps(POLICY))
    assert np.array_equal(images.decode(by_header.content, "image/png", max_pixels=10**6), shown)
    told = api.client.post("/v1/images:anonymize", files=parts, headers={"Accept": "application/json"}).json()
    assert (told["policy"], told["policy_version"]) == ("press", 7)


@pytest.mark.parametrize(
    ("query", "policy", "named"),
    [
        ("targets=faces", None, "one or more of face, licence_plate, person"),
        ("targets=motion", None, "targets.motion: one picture shows no motion"),
        ("targets=vehicle", None, "targets.vehicle: no detector here looks for it"),
        ("mask=pixelate", None, "mask: one of solid, noise, inpaint, mosaic, blur"),
        ("polcy=north", None, "polcy"),
        ("targets=face", POLICY, "leave all but one out"),
        ("", {**POLICY, "targets": {"face": {"mask": "glitter"}}}, "targets.face.mask"),
        ("", {**POLICY, "valid_until": "2020-01-01T00:00:00Z"}, "valid_until"),
        (
            "",
            {**POLICY, "schedules": [{"name": "night", "from": "22:00", "to": "06:00", "full_mask": True}]},
            "schedules",
        ),
        ("", {name: value for name, value in POLICY.items() if name != "dpia"}, "dpia: missing"),
    ],
)
def test_unknown_names_and_policies_that_do_not_hold_are_refused(api, face, query, policy, named):
    headers = {"Sfumato_Policy": json.dumps(policy)} if policy else {}
    for path in ("images:anonymize", "detections"):
        if "mask" in query and path == "detections":
            continue
        answer = api.client.post(
            f"/v1/{path}?{query}",
            content=encoded(face),
            headers={"Content-Type": "image/png"} | {name.replace("_", "-"): text for name, text in headers.items()},
        )
        assert answer.status_code == 422
        assert named in answer.text, answer.text


def test_the_sites_floor_holds(tmp_path, face):
    (tmp_path / "floor.toml").write_text('targets = ["face", "licence_plate"]\nmasks = ["solid"]\n')
    with Api(Settings(state_dir=tmp_path, policy_floor=tmp_path / "floor.toml")) as api:
        for query in ("targets=face", "mask=blur"):
            assert "floor" in problem(anonymize(api.client, encoded(face), "image/png", query))
        assert anonymize(api.client, encoded(face), "image/png", "").status_code == 200


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_policy_in_force_is_named_by_its_camera_and_only_by_who_sees_it(topics, face):
    policies.publish(topics, [Policy.model_validate({**POLICY, "camera": "north-*"})])
    with Bridge(topics) as bridge:
        bridge.wait_until(lambda: bridge.app.state.standing.ready)
        kind, path = {"Content-Type": "image/png"}, f"http://{bridge.address}/v1/images:anonymize"
        mine = kind | bearer(secret(topics, cameras=["north-*"]))
        answer = httpx.post(f"{path}?policy=north-1", content=encoded(face), headers=mine, timeout=60)
        assert (answer.status_code, answer.headers["sfumato-policy-version"]) == (200, "7")
        unknown = httpx.post(f"{path}?policy=south", content=encoded(face), headers=mine, timeout=60)
        assert (unknown.status_code, "known: north-*" in unknown.text) == (422, True)
        foreign = kind | bearer(secret(topics, cameras=["south"]))
        refused = httpx.post(f"{path}?policy=north-1", content=encoded(face), headers=foreign, timeout=60)
        assert (refused.status_code, "known: none" in refused.text) == (422, True)


def test_detections_say_what_is_where_and_who_found_it(api, face):
    answer = api.client.post(
        "/v1/detections?targets=face,text", content=encoded(face), headers={"Content-Type": "image/png"}
    )
    assert answer.status_code == 200
    told = answer.json()
    assert (told["width"], told["height"]) == (176, 144)
    (found,) = [object for object in told["objects"] if object["target"] == "face"]
    assert found["detector"] == "centerface"
    assert found["score"] > 0.8
    assert (found["box"]["left"] + found["box"]["right"]) / 2 == pytest.approx(87, abs=10)
    assert {detector["name"] for detector in told["detectors"]} == {"centerface", "ppocr"}
    assert all(len(detector["weights_sha256"]) == 64 for detector in told["detectors"])
    refused = api.client.post("/v1/detections?mask=solid", content=encoded(face), headers={"Content-Type": "image/png"})
    assert refused.status_code == 422


def test_each_resource_has_its_own_scope(tmp_path, face):
    with Api(Settings(state_dir=tmp_path), Scope.CAMERAS_READ) as api:
        for path in ("images:anonymize", "detections", "analyses"):
            answer = api.client.post(f"/v1/{path}", content=encoded(face), headers={"Content-Type": "image/png"})
            assert answer.status_code == 403
        assert api.client.get("/v1/images/x").status_code == 403
        assert httpx.post(f"http://{api.address}/v1/detections", content=b"x").status_code == 401


@pytest.mark.parametrize("path", ["images:anonymize", "detections", "analyses"])
def test_bodies_that_mean_harm_are_refused_without_telling_what_they_hold(api, face, caplog, path):
    caplog.set_level(logging.DEBUG)
    for name, (payload, kind, status) in hostile(face).items():
        answer = api.client.post(f"/v1/{path}", content=payload, headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == status, f"{name}: {answer.text}"
        assert len(problem(answer)) > 20, name
        assert SECRET.decode() not in answer.text, name
        if status == 415:
            assert "image/jpeg, image/png, image/webp" in answer.headers["accept"], name
    assert SECRET.decode() not in caplog.text
    assert api.client.post(f"/v1/{path}", content=encoded(face), headers={"Content-Type": "image/png"}).is_success


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "RGBA", "LA", "1"])
def test_every_kind_of_pixel_is_masked(api, face, mode):
    rgb = Image.fromarray(face[:, :, ::-1])
    made = (
        rgb.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    )
    file, kind = io.BytesIO(), "jpeg" if mode == "CMYK" else "png"
    made.save(file, kind)
    answer = anonymize(api.client, file.getvalue(), f"image/{kind}")
    assert (answer.status_code, answer.headers["sfumato-outcome"]) == (200, "masked")
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert shown.mode == "RGB"
    if mode != "1":
        assert answer.headers["sfumato-objects"] == "1"


def test_a_turned_picture_comes_back_upright_and_without_metadata(api, face):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, SECRET.decode()
    payload = encoded(np.ascontiguousarray(np.rot90(face)), "JPEG", exif=exif.tobytes(), quality=95)
    assert SECRET in payload
    answer = anonymize(api.client, payload)
    assert SECRET not in answer.content
    assert images.inspect(answer.content, "image/jpeg", max_pixels=10**6) == (176, 144)
    told = anonymize(api.client, payload, Accept="application/json").json()
    assert (told["width"], told["height"]) == (176, 144)
    assert 40 < told["objects"][0]["box"]["left"] < 90


def test_a_picture_too_small_to_judge_is_all_grey(api):
    payload = encoded(np.full((1, 1, 3), 200, np.uint8))
    answer = anonymize(api.client, payload, "image/png")
    assert answer.status_code == 200
    assert (answer.headers["sfumato-outcome"], answer.headers["sfumato-reason"]) == ("fully_masked", "too_small")
    assert np.all(images.decode(answer.content, "image/png", max_pixels=10) == images.GREY)
    told = anonymize(api.client, payload, "image/png", Accept="application/json").json()
    assert (told["outcome"], told["reason"], told["objects"]) == ("fully_masked", "too_small", [])


def test_each_picture_counts_as_a_frame_of_its_caller(api, face):
    with api.caller() as caller:
        kind = {"Content-Type": "image/png"}
        for path in ("images:anonymize?targets=face", "detections?targets=face", "analyses"):
            assert caller.post(f"/v1/{path}", content=encoded(face), headers=kind).is_success
        assert caller.post("/v1/detections", content=b"", headers=kind).status_code == 400
    usage = api.app.state.usage
    assert 3 in [usage.today(f"key:{key.id}").frames for key in api.app.state.keys.list()]


def test_who_hangs_up_makes_room_and_who_finds_none_is_told_when_to_come_again(tmp_path, face):
    payload = encoded(face)
    with Api(Settings(state_dir=tmp_path, image_workers=1, image_queue=1)) as api, ThreadPoolExecutor(2) as pool:
        lookers = api.app.state.lookers

        def until(taken: int) -> None:
            waited = threading.Event()
            for _ in range(600):
                if lookers._taken == taken:
                    return
                waited.wait(0.05)
            pytest.fail(f"{lookers._taken} places are taken, not {taken}")

        with lookers.turn:  # the detectors are busy
            first = pool.submit(anonymize, api.client, payload, "image/png")
            until(1)
            leaving = socket.create_connection(tuple(api.address.split(":")))
            head = {"Host": api.address, "Content-Type": "image/png", "Content-Length": len(payload)}
            head["Authorization"] = api.client.headers["authorization"]
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            leaving.sendall(f"POST /v1/images:anonymize?targets=face HTTP/1.1\r\n{lines}\r\n".encode() + payload)
            until(2)
            refused = anonymize(api.client, payload, "image/png")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            leaving.close()
            until(1)
            second = pool.submit(anonymize, api.client, payload, "image/png")
            until(2)
        assert (first.result().status_code, second.result().status_code) == (200, 200)


def test_nothing_of_a_picture_is_written(api, face):
    """Neither the raw picture nor the masked one, in whatever way it was sent."""
    payload = encoded(face) + b""
    anonymize(api.client, payload, "image/png", Accept="application/json")
    large = encoded(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))
    api.client.post("/v1/images:anonymize", files={"image": ("a.png", large, "image/png")})
    for file in Path(api.settings.state_dir).rglob("*"):
        assert file.name.startswith(("sfumato.db", "credentials.pem", "sealing.key")) or file.is_dir(), file
        if file.is_dir():
            continue
        assert payload[40:200] not in file.read_bytes()


@pytest.mark.parametrize("page", ["images.md", "analyses.md"])
def test_the_curl_lines_of_the_documents_work(api, face, page, tmp_path):
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    lines = re.findall(r"^    (curl (?:.*\\\n)*.*)$", text, re.MULTILINE)
    (tmp_path / "street.jpg").write_bytes(encoded(face, "JPEG"))
    (tmp_path / "masked.jpg").write_bytes(anonymize(api.client, encoded(face, "JPEG")).content)
    (tmp_path / "street.png").write_bytes(encoded(face))
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    list(fetch_weights(load(), *recogniser.WEIGHTS))
    key = api.client.headers["authorization"].removeprefix("Bearer ")
    environment = {**os.environ, "SFUMATO": f"http://{api.address}", "KEY": key}
    for line in lines:
        command = line.replace("curl -s", "curl -sS --fail-with-body")
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "-o " not in line:
            assert json.loads(done.stdout)["width"] == 176
    assert len(lines) >= 2
    if page == "images.md":
        for name in ("masked.jpg", "masked.png"):
            with Image.open(tmp_path / name) as shown:
                assert shown.size == (176, 144)


def test_a_missing_weight_is_no_caller_s_fault_and_its_place_is_not_told(tmp_path, face):
    with Api(Settings(state_dir=tmp_path, weights_dir=tmp_path / "none")) as api:
        answer = anonymize(api.client, encoded(face), "image/png")
        assert answer.status_code == 503
        assert str(tmp_path) not in answer.text
