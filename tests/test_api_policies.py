"""Policies and cameras over the API, on real brokers: conditions, versions, the floor, and whose cameras they are."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents import policies, suspensions
from sfumato.agents.settings import Settings
from sfumato.schemas.policy import covers
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import SUSPENSIONS
from tests.calling import bearer, secret
from tests.test_bridge import Bridge, frame
from tests.test_policy import named

NEW = {"If-None-Match": "*"}
FLOOR = 'targets = ["face"]\n'


@pytest.fixture
def bridge(topics: Settings, tmp_path) -> Iterator[Bridge]:
    (tmp_path / "floor.toml").write_text(FLOOR)
    with Bridge(topics.model_copy(update={"policy_floor": tmp_path / "floor.toml"})) as bridge:
        bridge.wait_until(lambda: bridge.app.state.standing.ready)
        yield bridge


def call(bridge: Bridge, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=f"http://{bridge.address}/v1", timeout=30, headers=bearer(key or bridge.key))


def document(name: str, version: int, **changes: object) -> dict[str, object]:
    return {**named(name, version).model_dump(mode="json"), **changes}


def test_a_policy_is_set_changed_and_withdrawn(bridge, topics):
    with call(bridge) as api:
        assert api.get("/policies").json() == {"items": [], "next": None}
        assert api.put("/policies/north", json=document("north", 1)).status_code == 428
        made = api.put("/policies/north", json=document("north", 1), headers=NEW)
        assert (made.status_code, made.json()) == (201, document("north", 1))
        assert policies.load(topics).in_force["north"].policy == named("north", 1)
        shown = api.get("/policies/north")
        assert (shown.headers["etag"], shown.json()) == (made.headers["etag"], document("north", 1))
        assert api.get("/policies/north", headers={"If-None-Match": shown.headers["etag"]}).status_code == 304
        assert api.put("/policies/north", json=document("north", 2), headers=NEW).status_code == 412
        known = {"If-Match": shown.headers["etag"]}
        same = api.put("/policies/north", json=document("north", 1, purpose="other"), headers=known)
        assert (same.status_code, same.json()["type"]) == (409, "urn:sfumato:problem:version-used")
        assert "raise it to 2" in same.json()["detail"]
        changed = api.put("/policies/north", json=document("north", 2, purpose="other"), headers=known)
        assert changed.status_code == 200
        assert api.put("/policies/north", json=document("north", 3), headers=known).status_code == 412
        assert api.delete("/policies/north").status_code == 428
        assert api.delete("/policies/north", headers=known).status_code == 412
        assert api.delete("/policies/north", headers={"If-Match": changed.headers["etag"]}).status_code == 204
        assert api.get("/policies/north").status_code == 404
        versions = api.get("/policies/north/versions").json()["items"]
        assert [(each["version"], each["in_force"], each["valid"]) for each in versions] == [
            (1, False, True),
            (2, False, True),
        ]
        assert api.get("/policies/north/versions/2").json()["purpose"] == "other"
        assert api.get("/policies/north/versions/9").status_code == 404
        assert api.put("/policies/north", json=document("north", 2), headers=NEW).status_code == 409


def test_what_is_below_the_floor_or_elsewhere_is_refused(bridge, topics):
    weak = document("north", 1, targets={"person": {}})
    with call(bridge) as api:
        for refused in (
            api.put("/policies/north", json=weak, headers=NEW),
            api.post("/policies:validate", json=weak),
        ):
            assert refused.status_code == 422
            (fault,) = refused.json()["errors"]
            assert (fault["field"], fault["pointer"]) == ("targets.face", "/targets/face")
        moved = api.put("/policies/south", json=document("north", 1), headers=NEW)
        assert (moved.status_code, moved.json()["errors"][0]["field"]) == (422, "camera")
        checked = api.post("/policies:validate", json=document("north", 1, targets={"face": {"mask": "blur"}}))
        assert checked.status_code == 200
        assert "blur" in checked.json()["warnings"][0]
        assert policies.load(topics).in_force == {}


def test_a_policy_that_is_not_valid_any_more_is_shown_as_such_and_can_be_replaced(bridge, topics):
    policies.publish(topics, [named("north", 1, targets={"person": {}})])  # below the floor, by another way
    bridge.wait_until(lambda: bridge.get("/v1/policies").json()["items"] != [])
    with call(bridge) as api:
        (item,) = api.get("/policies").json()["items"]
        assert (item["camera"], item["reason"]) == ("north", "invalid_policy")
        shown = api.get("/policies/north")
        assert shown.status_code == 409
        fixed = api.put("/policies/north", json=document("north", 2), headers={"If-Match": shown.headers["etag"]})
        assert fixed.status_code == 200


def test_pages_and_formats(bridge):
    with call(bridge) as api:
        names = ["*", "east", "north-*", "west"]
        for name in names:
            path = f"/policies/{name}"
            assert api.put(path, json=document(name, 1), headers=NEW).status_code == 201
        seen, cursor = [], None
        while cursor is not None or not seen:
            page = api.get("/policies", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
            seen += [item["camera"] for item in page["items"]]
            cursor = page["next"]
        assert seen == names
        assert api.get("/policies", params={"cursor": "zz"}).status_code == 400
        xml = api.get("/policies/east", headers={"Accept": "application/xml"})
        body = xml.content.replace(b"<version>1<", b"<version>2<")
        headers = {"If-Match": xml.headers["etag"], "Content-Type": "application/xml"}
        assert api.put("/policies/east", content=body, headers=headers).json()["version"] == 2


def test_callers_touch_policies_of_their_own_cameras_alone(bridge, topics):
    policies.publish(topics, [named("*", 1), named("north-1", 1)])
    with call(bridge, secret(topics, cameras=["north-*"])) as api:
        bridge.wait_until(lambda: len(bridge.get("/v1/policies").json()["items"]) == 2)
        assert [item["camera"] for item in api.get("/policies").json()["items"]] == ["north-1"]
        assert api.get("/policies/*").status_code == 404
        assert api.get("/policies/*/versions").status_code == 404
        for name in ("*", "n*", "south"):
            assert api.put(f"/policies/{name}", json=document(name, 2), headers=NEW).status_code == 403
            assert api.post("/policies:validate", json=document(name, 2)).status_code == 403
            assert api.delete(f"/policies/{name}", headers={"If-Match": "*"}).status_code == 403
        assert api.put("/policies/north-2*", json=document("north-2*", 1), headers=NEW).status_code == 201
    with call(bridge, secret(topics, Scope.POLICIES_READ)) as api:
        assert api.put("/policies/x", json=document("x", 1), headers=NEW).status_code == 403


NAMES = st.text("ab*?", min_size=1, max_size=5)


@given(pattern=NAMES, name=NAMES, camera=st.text("ab", min_size=1, max_size=6))
def test_a_pattern_that_covers_a_name_matches_all_that_it_matches(pattern, name, camera):
    if covers([pattern], name) and fnmatchcase(camera, name):
        assert fnmatchcase(camera, pattern)
    if not set(name) & set("*?"):
        assert covers([pattern], name) == fnmatchcase(name, pattern)


def test_a_camera_shows_its_policy_and_a_person_lifts_its_suspension(bridge, topics):
    policies.publish(topics, [named("n*", 3)])
    bridge.publish(frame("north", 0))
    bridge.wait_until(lambda: "north" in bridge.shown())
    bridge.wait_until(lambda: bridge.shown()["north"]["policy"]["name"] == "n*")
    with call(bridge) as api:
        shown = api.get("/cameras/north").json()
        assert shown["policy"] == {"name": "n*", "version": 3, "schedule": None, "reason": None}
        assert (shown["frame"], shown["suspension"]) == ("north/1/0", None)
        note = {"note": "looked at every find"}
        assert api.post("/cameras/north:lift-suspension", json=note).status_code == 409
        bridge.send(SUSPENSIONS, suspensions.suspend("north", "leaks", 5).to_message())
        bridge.wait_until(lambda: api.get("/cameras/north").json()["suspension"] is not None)
        assert api.get("/cameras/north").json()["policy"]["reason"] == "suspended"
        with call(bridge, secret(topics, cameras=["south"])) as other:
            assert other.post("/cameras/north:lift-suspension", json=note).status_code == 403
            assert other.get("/cameras/north").status_code == 404
        assert api.post("/cameras/north:lift-suspension", json={"note": ""}).status_code == 422
        once = {"Idempotency-Key": "k1"}
        lifted = api.post("/cameras/north:lift-suspension", json=note, headers=once)
        assert lifted.status_code == 200
        again = api.post("/cameras/north:lift-suspension", json=note, headers=once)
        assert (again.status_code, again.json()) == (200, lifted.json())
        assert (lifted.json()["state"], lifted.json()["note"]) == ("lifted", note["note"])
        assert lifted.json()["by"].startswith("key:")
        assert api.get("/cameras/north").json()["suspension"]["state"] == "lifted"
        assert not suspensions.read(topics).suspended("north")


def test_the_old_name_of_the_snapshot_says_that_it_goes(bridge):
    bridge.publish(frame("north", 0))
    bridge.wait_until(lambda: "north" in bridge.shown())
    old, new = bridge.get("/v1/cameras/north/snapshot"), bridge.get("/v1/cameras/north/snapshot.jpg")
    assert old.content == new.content
    assert old.headers["link"] == '</v1/cameras/north/snapshot.jpg>; rel="successor-version"'
    assert {"deprecation", "sunset"} <= set(old.headers)
    assert "deprecation" not in new.headers


def test_without_topics_the_policies_are_unavailable(settings):
    with Bridge(settings, until="/healthz") as bridge:
        answer = bridge.get("/v1/policies")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert bridge.get("/v1/cameras").status_code == 200
