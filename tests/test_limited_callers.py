"""A caller limited to some cameras, and one that is not somebody else: what is another's is not there, anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from sfumato.agents import policies
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import AUDIT
from tests.calling import bearer, secret
from tests.test_api_audit import event
from tests.test_bridge import Bridge, frame, picture
from tests.test_policy import named

SCOPES = set(Scope) - {Scope.USAGE_READ, Scope.KEYS_READ, Scope.KEYS_WRITE}
"""All but an administrator's."""
CAMERAS = ("north-1", "north-2", "south")
MINE = ["north-1", "north-2"]


@pytest.fixture
def bridge(topics: Settings) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        policies.publish(topics, [named(name, 1) for name in (*CAMERAS, "*")])
        bridge.publish(*(frame(camera, 0) for camera in CAMERAS))
        for number, camera in enumerate((*CAMERAS, None)):
            bridge.send(AUDIT, event(number, camera).to_message())
        bridge.wait_until(lambda: set(CAMERAS) <= set(bridge.shown()))
        bridge.wait_until(lambda: bridge.app.state.standing.ready)
        known = bridge.app.state.standing.policies
        bridge.wait_until(lambda: known.look(lambda register: len(register.in_force)) == 4)
        yield bridge


@pytest.fixture
def limited(bridge: Bridge, topics: Settings) -> Iterator[httpx.Client]:
    key = secret(topics, *sorted(SCOPES), cameras=["north-*"])
    with httpx.Client(base_url=f"http://{bridge.address}", timeout=40, headers=bearer(key)) as client:
        yield client


@pytest.fixture
def everyone(bridge: Bridge) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{bridge.address}", timeout=40, headers=bearer(bridge.key)) as client:
        yield client


def said(answer: httpx.Response) -> tuple[int, str]:
    """What the caller learns."""
    return answer.status_code, answer.json()["detail"]


def test_other_cameras_are_nowhere(limited, everyone):
    def seen(client: httpx.Client, path: str, name: str) -> list[str | None]:
        return sorted((each[name] for each in client.get(path).json()["items"]), key=str)

    assert seen(everyone, "/v1/cameras", "id") == [*CAMERAS]
    assert seen(limited, "/v1/cameras", "id") == MINE
    assert said(limited.get("/v1/cameras/south")) == said(limited.get("/v1/cameras/nowhere"))
    lift = {"json": {"note": "looked at it"}}
    refused = [limited.post(f"/v1/cameras/{name}:lift-suspension", **lift) for name in ("south", "nowhere")]
    assert said(refused[0]) == said(refused[1])
    assert refused[0].status_code == 403

    assert seen(everyone, "/v1/policies", "camera") == ["*", *CAMERAS]
    assert seen(limited, "/v1/policies", "camera") == MINE
    for path in ("", "/versions", "/versions/1"):
        foreign, nowhere = (limited.get(f"/v1/policies/{name}{path}") for name in ("south", "nowhere"))
        assert said(foreign) == said(nowhere)
        assert foreign.status_code == 404
        assert limited.get(f"/v1/policies/*{path}").status_code == 404
    wanted = named("south", 2).model_dump(mode="json")
    refused = [
        limited.put("/v1/policies/south", json=wanted, headers={"If-Match": "*"}),
        limited.delete("/v1/policies/south", headers={"If-Match": "*"}),
        limited.post("/v1/policies:validate", json=wanted),
    ]
    assert [answer.status_code for answer in refused] == [403, 403, 403]
    assert everyone.get("/v1/policies/south").json()["version"] == 1

    assert seen(everyone, "/v1/audit", "camera") == [None, *CAMERAS]
    assert seen(limited, "/v1/audit", "camera") == MINE
    assert limited.get("/v1/audit?camera=south").json() == limited.get("/v1/audit?camera=nowhere").json()
    exported = limited.get("/v1/audit:export").text
    assert ("north-1" in exported, "south" in exported, len(exported.splitlines())) == (True, False, 2)


def test_what_others_made_is_not_there(limited, everyone):
    tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    length = {"Upload-Length": str(len(picture()))}
    upload = everyone.post("/v1/uploads", headers={**tus, **length}, content=picture()).headers["location"]
    for method in ("GET", "HEAD", "PATCH", "DELETE"):
        assert limited.request(method, upload, headers={**tus, "Upload-Offset": "0"}).status_code == 404, method

    wanted = {"files": [{"upload": upload.rpartition("/")[2]}], "purpose": "tests"}
    stolen = limited.post("/v1/jobs", json=wanted)
    unknown = limited.post("/v1/jobs", json={**wanted, "files": [{"upload": "0" * 32}]})
    assert said(stolen) == said(unknown)
    assert stolen.status_code == 422
    job = everyone.post("/v1/jobs", json={**wanted, "policy": {"name": "south"}}).json()["id"]
    for method, path in (
        ("GET", ""),
        ("GET", "/report"),
        ("GET", "/events"),
        ("GET", "/files/0/content"),
        ("HEAD", "/files/0/content"),
        ("POST", ":cancel"),
        ("DELETE", ""),
    ):
        assert limited.request(method, f"/v1/jobs/{job}{path}").status_code == 404, (method, path)
    assert everyone.get(f"/v1/jobs/{job}/files/{2**64}/content").status_code == 422
    assert limited.get("/v1/jobs").json() == {"items": [], "next": None}
    assert everyone.get(f"/v1/jobs/{job}").json()["state"] == "queued"

    kind = {"Content-Type": "image/jpeg", "Accept": "application/json"}
    masked = everyone.post("/v1/images:anonymize", content=picture(), headers=kind).json()["picture"]
    assert (everyone.get(masked).status_code, limited.get(masked).status_code) == (200, 404)


def test_policies_of_other_cameras_mask_nothing(limited):
    tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    length = {"Upload-Length": str(len(picture()))}
    upload = limited.post("/v1/uploads", headers={**tus, **length}, content=picture()).headers["location"]
    files = [{"upload": upload.rpartition("/")[2]}]
    answers = [
        limited.post("/v1/jobs", json={"files": files, "purpose": "tests", "policy": {"name": name}})
        for name in ("south", "nowhere")
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert said(answers[0])[1].replace("south", "nowhere") == said(answers[1])[1]
    kind = {"Content-Type": "image/jpeg"}
    answers = [
        limited.post(f"/v1/images:anonymize?policy={name}", content=picture(), headers=kind)
        for name in ("south", "nowhere")
    ]
    # "*" would apply to `nowhere`, were it the caller's camera.
    assert [answer.status_code for answer in answers] == [422, 422]
    assert said(answers[0]) == said(answers[1])


def test_usage_is_ones_own(limited, everyone):
    limited.get("/v1/cameras")
    (day,) = limited.get("/v1/usage").json()["items"]
    assert day["caller"] == limited.get("/v1/session").json()["caller"]
    other = everyone.get("/v1/session").json()["caller"]
    for of in ("*", other, "key:nobody"):
        assert limited.get("/v1/usage", params={"of": of}).status_code == 403
