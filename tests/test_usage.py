"""Usage by day, and daily quotas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from sfumato.agents.access import callers
from sfumato.agents.access.usage import Usage
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import client, websocket
from tests.test_bridge import frame


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path) as made:
        yield made


def make(app: FastAPI, *scopes: Scope, **options: object):  # type: ignore[no-untyped-def]
    return app.state.keys.create("test", scopes, purpose="tests", **options)


def test_requests_and_their_bytes_are_counted_by_caller(app):
    mine, theirs = make(app, Scope.CAMERAS_READ), make(app, Scope.CAMERAS_READ, Scope.USAGE_READ)
    app.state.live.put(frame("north", 0))
    caller = client(app, mine.secret)
    sizes = [len(caller.get("/v1/cameras/north/snapshot.jpg").content) for _ in range(3)]
    with websocket(caller, "/v1/cameras/north/live") as socket:
        sizes.append(len(socket.receive_bytes()))
    app.state.usage.add(f"key:{mine.key.id}", frames=5)
    (row,) = caller.get("/v1/usage").json()["items"]
    assert row == {
        "caller": f"key:{mine.key.id}",
        "day": str(datetime.now(UTC).date()),
        "requests": 4,
        "frames": 5,
        "bytes_in": 0,
        "bytes_out": sum(sizes),
    }
    assert caller.get("/v1/usage", params={"of": "*"}).status_code == 403
    assert caller.get("/v1/usage", params={"of": f"key:{theirs.key.id}"}).status_code == 403
    seer = client(app, theirs.secret)
    assert seer.get("/v1/usage").json()["items"] == []
    assert {item["caller"] for item in seer.get("/v1/usage", params={"of": "*"}).json()["items"]} == {
        f"key:{mine.key.id}",
        f"key:{theirs.key.id}",
    }


def test_days_and_pages(app):
    usage = app.state.usage
    new = make(app, Scope.USAGE_READ)
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
    usage._waiting = {(caller, day): usage._waiting.get((caller, day)) or _one() for caller in "ab" for day in days}
    usage.flush()
    seer = client(app, new.secret)
    seen, cursor = [], None
    while True:
        query = {"of": "*", "from": "2026-01-02", "to": "2026-01-04", "limit": 4}
        page = seer.get("/v1/usage", params=query | ({"cursor": cursor} if cursor else {})).json()
        seen += [(item["day"], item["caller"]) for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [(f"2026-01-0{n}", caller) for n in (2, 3, 4) for caller in "ab"]
    for wrong, status in (({"from": "yesterday"}, 422), ({"cursor": "2026-13-99/x"}, 400), ({"limit": 0}, 422)):
        assert seer.get("/v1/usage", params=wrong).status_code == status, wrong


def _one():  # type: ignore[no-untyped-def]
    from sfumato.agents.access.usage import Counts

    return Counts(requests=1)


def test_two_processes_add_to_one_row(app):
    one, other = Usage(app.state.database), Usage(app.state.database)
    for _ in range(3):
        one.add("x", requests=1, bytes_in=2)
        other.add("x", requests=1, bytes_out=3)
        one.flush()
        other.flush()
    (row,) = one.between(date.min, date.max, "x")
    assert (row.requests, row.bytes_in, row.bytes_out) == (6, 6, 9)
    one.close()
    other.close()


def test_a_spent_quota_of_bytes_refuses_until_midnight_but_shows_the_usage(app):
    new = make(app, Scope.CAMERAS_READ, bytes_a_day=1000)
    app.state.live.put(frame("north", 0))
    caller = client(app, new.secret)
    statuses = [caller.get("/v1/cameras/north/snapshot.jpg").status_code for _ in range(10)]
    assert statuses[0] == 200
    assert statuses == sorted(statuses)
    assert statuses[-1] == 429
    refused = caller.get("/v1/cameras")
    assert refused.status_code == 429
    assert "bytes_a_day" in refused.json()["detail"]
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert caller.get("/v1/usage").status_code == 200
    assert client(app, make(app, Scope.CAMERAS_READ).secret).get("/v1/cameras").status_code == 200


def test_a_quota_of_frames_counts_what_waits_and_what_is_written(app):
    new = make(app, frames_a_day=3)
    caller = callers.of_key(new.key)
    usage = app.state.usage
    for step in range(3):
        usage.check(caller)
        usage.add(caller.id, frames=1)
        if step == 1:
            usage.flush()
    for _ in range(2):
        with pytest.raises(HTTPException) as spent:
            usage.check(caller)
        assert spent.value.status_code == 429
        usage.flush()


def test_what_could_not_be_written_is_kept(app, monkeypatch):
    usage = app.state.usage
    usage.add("x", requests=1)
    with monkeypatch.context() as broken:
        broken.setattr("sfumato.agents.access.usage._store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            usage.flush()
    assert usage.between(date.min, date.max, "x")[0].requests == 1
