"""Subject requests over the API, without a broker: what is asked, who may see and do what, and what the answers are."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from sfumato.agents import metrics
from sfumato.agents.files.uploads import fill
from sfumato.agents.footage import stores
from sfumato.agents.search import SearchError
from sfumato.agents.settings import Settings
from sfumato.agents.subjects import picking
from sfumato.agents.subjects.picking import NoFrameError, PickError, check
from sfumato.agents.subjects.requests import GoneError, Requests
from sfumato.schemas.scope import Scope
from tests.calling import app, client
from tests.requesting import CHOICE, Listener, clip, draft
from tests.test_api_audit import event

PLACE = "/v1/subject-requests"
APPROVAL = {"verdict": "approve", "note": "looked at it"}


class Api:
    """The API with a listener in place of Kafka. ``picked``: what is taken to be clicked on."""

    def __init__(self, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.listener = Listener()
        state = app.state
        self.requests = Requests(state.settings, state.database, state.uploads, self.listener)  # type: ignore[arg-type]
        state.subject_requests = self.requests
        self.picked: Any = CHOICE
        monkeypatch.setattr(picking, "pick", self._pick)

    def _pick(self, *_: object) -> Any:
        if isinstance(self.picked, Exception):
            raise self.picked
        return self.picked

    def caller(self, *scopes: Scope, cameras: tuple[str, ...] = ("*",), made_by: str = "console") -> TestClient:
        keys = self.app.state.keys
        new = keys.create(
            "test", scopes or tuple(Scope), cameras=cameras, purpose="tests", rate=10_000, made_by=made_by
        )
        made = client(self.app, new.secret)
        made.key = f"key:{new.key.id}"  # type: ignore[attr-defined]
        return made

    def ready(self, place: str, data: bytes) -> None:
        """A worker makes the clip."""
        claim = self.requests.claim("worker")
        assert claim is not None
        uploads = self.app.state.uploads
        upload = uploads.create("subject-request:x", None).id
        self.requests.adopt(claim, upload)
        fill(uploads, upload, [data])
        uploads.complete(upload)
        made = clip(claim.request).model_copy(update={"bytes": len(data)})
        self.requests.made(claim, made)


@pytest.fixture
def api(tmp_path, monkeypatch) -> Iterator[Api]:
    with app(tmp_path, subject_approvals=1) as made:
        yield Api(made, monkeypatch)


def wanted(**changes: Any) -> dict[str, Any]:
    return draft(**changes).model_dump(mode="json", exclude_none=True)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> bytes:
    from tests import films

    path = films.write(tmp_path_factory.mktemp("film") / "clip.mp4", [films.scene(n) for n in range(3)])
    return path.read_bytes()


def deliveries() -> dict[str, float]:
    (family,) = metrics.SUBJECT_DELIVERIES.collect()
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


def test_a_request_from_the_click_to_the_clip(api, film):
    metrics.SUBJECT_DELIVERIES.clear()
    asks, approves = api.caller(), api.caller()
    made = asks.post(PLACE, json=wanted(), headers={"Idempotency-Key": "one"})
    assert (made.status_code, made.json()["state"], made.json()["target"]) == (201, "pending", "face")
    assert asks.post(PLACE, json=wanted(), headers={"Idempotency-Key": "one"}).status_code == 422, "another body"
    place = made.headers["location"]
    got = asks.get(place)
    assert asks.get(place, headers={"If-None-Match": got.headers["etag"]}).status_code == 304
    assert asks.get(f"{place}/content").status_code == 409
    assert asks.post(f"{place}/approvals", json=APPROVAL).status_code == 403
    decided = approves.post(f"{place}/approvals", json=APPROVAL)
    assert (decided.status_code, decided.json()["state"]) == (200, "approved")
    assert decided.json()["approvals"][0]["by"] == approves.key
    assert asks.get(place, headers={"If-None-Match": got.headers["etag"]}).status_code == 200
    api.ready(place, film)
    assert approves.get(f"{place}/content").status_code == 403
    assert asks.head(f"{place}/content").headers["content-length"] == str(len(film))
    whole, part = asks.get(f"{place}/content"), asks.get(f"{place}/content", headers={"Range": "bytes=5-9"})
    assert (whole.content, part.content, part.status_code) == (film, film[5:10], 206)
    assert part.headers["content-range"] == f"bytes 5-9/{len(film)}"
    assert whole.headers["cache-control"] == "no-store"
    assert asks.get(f"{place}/content", headers={"Range": f"bytes={len(film)}-"}).status_code == 416
    assert [d.range for d in api.listener.heard if d.act == "delivered"] == [
        f"0-{len(film) - 1}/{len(film)}",
        f"5-9/{len(film)}",
    ]
    for kind in ("application/xml", "application/x-protobuf"):
        assert asks.get(place, headers={"Accept": kind}).headers["content-type"].startswith(kind)
    assert approves.delete(place).status_code == 403
    assert asks.delete(place).status_code == 204
    assert asks.delete(place).status_code == 409
    assert asks.get(f"{place}/content").status_code == 409
    assert deliveries() == {"not_ready": 2, "forbidden": 1, "delivered": 2}


def test_nothing_is_delivered_that_is_not_recorded(api, film):
    metrics.SUBJECT_DELIVERIES.clear()
    asks = api.caller()
    place = asks.post(PLACE, json=wanted()).headers["location"]
    api.caller().post(f"{place}/approvals", json=APPROVAL)
    api.ready(place, film)
    api.listener.deaf = True
    answer = asks.get(f"{place}/content")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert film[:20] not in answer.content
    assert deliveries() == {"not_recorded": 1}
    for call in (lambda: asks.post(PLACE, json=wanted()), lambda: asks.delete(place)):
        assert call().status_code == 503


def test_a_key_that_the_requester_made_does_not_approve(api):
    asks = api.caller()
    place = asks.post(PLACE, json=wanted()).headers["location"]
    assert api.caller(made_by=asks.key).post(f"{place}/approvals", json=APPROVAL).status_code == 403
    assert api.caller().post(f"{place}/approvals", json=APPROVAL).json()["state"] == "approved"


def test_other_cameras_requests_are_not_there(api):
    asks, elsewhere = api.caller(), api.caller(cameras=("south-*",))
    place = asks.post(PLACE, json=wanted()).headers["location"]
    assert elsewhere.get(PLACE).json()["items"] == []
    for answer in (
        elsewhere.get(place),
        elsewhere.get(f"{place}/content"),
        elsewhere.delete(place),
        elsewhere.post(f"{place}/approvals", json=APPROVAL),
        elsewhere.post(PLACE, json=wanted()),
    ):
        assert answer.status_code == 404
    assert api.listener.acts == ["requested"]


def test_pages(api):
    asks = api.caller()
    places = [asks.post(PLACE, json=wanted()).json()["id"] for _ in range(3)]
    first = asks.get(f"{PLACE}?limit=2").json()
    rest = asks.get(PLACE, params={"limit": 2, "cursor": first["next"]}).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == places[::-1]
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("changes", "picked", "status", "said"),
    [
        ({"until": 90}, CHOICE, 422, "has not come yet"),
        ({"since": -540}, CHOICE, 422, "ask for a shorter clip"),
        ({"since": 10}, CHOICE, 422, "since"),
        ({}, PickError("point: no face or person was found there; give a box"), 422, "give a box"),
        ({}, NoFrameError("epoch, sequence: no audit event"), 404, "no audit event"),
        ({}, GoneError("the footage was shredded at noon", datetime.now(UTC)), 410, "shredded at noon"),
        ({}, SearchError("no broker"), 503, "no broker"),
    ],
)
def test_what_cannot_be_asked_for_is_answered_with_the_field_or_the_date(api, changes, picked, status, said):
    api.picked = picked
    body = wanted()
    at = datetime.fromisoformat(body["captured_at"])  # a minute ago
    body |= {name: (at + timedelta(seconds=by)).isoformat() for name, by in changes.items()}
    answer = api.caller().post(PLACE, json=body)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
    assert api.listener.heard == []


def test_the_moment_of_capture_is_the_frames_and_not_the_requesters_choice(tmp_path, monkeypatch):
    """By it schedules say what may be seen."""
    settings, now = Settings(state_dir=tmp_path), datetime.now(UTC)
    asked = draft(point=None, box={"left": 1, "top": 1, "right": 30, "bottom": 30})
    audited = event(5, "north", captured_at=asked.captured_at, audited_at=now)

    found = SimpleNamespace(pages=lambda _: iter([[audited]]))
    monkeypatch.setattr(picking, "Search", lambda *_: nullcontext(found))
    assert picking.pick(settings, asked).box.right == 30
    later = asked.model_copy(update={"captured_at": asked.captured_at + timedelta(seconds=1)})
    with pytest.raises(PickError, match="captured_at"):
        picking.pick(settings, later)


def test_moments_at_the_edges_of_the_calendar_are_refused(api):
    spans = [
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:01:00+14:00"),
        ("1999-12-31T23:59:59Z", "2000-01-01T00:00:59Z"),
    ]
    for since, until in (*spans, ("9999-12-31T23:58:59-14:00", "9999-12-31T23:59:59-14:00")):
        answer = api.caller().post(PLACE, json=wanted() | {"since": since, "captured_at": until, "until": until})
        assert answer.status_code == 422, answer.text
        assert ("since" in answer.text) or ("until" in answer.text)
    assert api.listener.heard == []


def test_footage_that_is_known_to_be_gone_is_said_to_be_with_the_date(tmp_path):
    settings = Settings(state_dir=tmp_path, raw_retention_minutes=60)
    now = datetime.now(UTC)
    check(settings, "north", now, event(1, "north", audited_at=now))
    with pytest.raises(GoneError, match="kept for 60 minutes") as gone:
        check(settings, "north", now, event(1, "north", audited_at=now - timedelta(minutes=61)))
    assert gone.value.at == now - timedelta(minutes=1)
    keys = stores.make(settings)
    keys.make("north", stores.hour_of(now))
    check(settings, "north", now, event(1, "north", audited_at=now))
    keys.shred("north", now + timedelta(hours=2))
    with pytest.raises(GoneError, match="shredded at"):
        check(settings, "north", now, event(1, "north", audited_at=now))
    check(settings, "south", now, event(1, "south", audited_at=now))


def test_looking_whether_footage_is_there_leaves_no_connection_behind(tmp_path):
    settings, now = Settings(state_dir=tmp_path, keys_store="database"), datetime.now(UTC)
    with closing(stores.make(settings)) as store:
        store.make("north", stores.hour_of(now))
        store.shred("north", now + timedelta(hours=2))
    for _ in range(3):
        with pytest.raises(GoneError):
            check(settings, "north", now, event(1, "north", audited_at=now))
    gc.disable()  # which might hide it
    try:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(GoneError):
            check(settings, "north", now, event(1, "north", audited_at=now))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
