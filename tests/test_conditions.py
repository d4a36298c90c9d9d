"""ETags and conditions, deprecation, and Idempotency-Key, through an app of their own."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from sfumato.agents.access.gate import Gate
from sfumato.agents.access.keys import Keys
from sfumato.agents.access.limits import Limits, Underway
from sfumato.agents.access.usage import Usage
from sfumato.agents.database import Database
from sfumato.agents.settings import Settings
from sfumato.agents.web import conditions, problems
from sfumato.agents.web.deprecation import deprecated
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.idempotency import LARGEST, Answer, Idempotent
from sfumato.schemas.part import Part
from tests.calling import bearer, secret


class Thing(Part):
    name: str


@pytest.fixture
def app(tmp_path):
    settings = Settings(state_dir=tmp_path)
    router = APIRouter(route_class=Negotiated)
    app = FastAPI()
    app.state.things = {}
    app.state.made = []
    app.state.go = threading.Event()
    app.state.go.set()
    app.state.began = threading.Event()
    app.state.database = Database(settings)
    app.state.database.migrate()
    app.state.keys = Keys(app.state.database)
    app.state.limits = Limits(settings)
    app.state.usage = Usage(app.state.database)
    app.state.underway = Underway(settings.caller_connections)
    app.add_middleware(Gate)
    app.state.secret = secret(settings)
    app.state.other = secret(settings)

    @router.get("/things/{id}", response_model=Thing)
    def get(id: str, request: Request, response: Response) -> object:
        headers = {"ETag": conditions.etag(request, app.state.things[id])}
        if conditions.unchanged(request, app.state.things[id]):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return Thing(name=app.state.things[id])

    @router.put("/things/{id}")
    def put(id: str, thing: Thing, request: Request) -> Thing:
        conditions.permit_change(request, app.state.things.get(id))
        app.state.things[id] = thing.name
        return thing

    @router.post("/things", status_code=201)
    def post(thing: Thing, response: Response, _: Idempotent = None) -> Thing:
        app.state.began.set()
        assert app.state.go.wait(20)
        if thing.name == "bad":
            raise HTTPException(409, "name: is taken")
        app.state.made.append(thing.name)
        response.headers["Location"] = f"/things/{len(app.state.made)}"
        return thing

    @router.get("/alias/{id}")
    @deprecated(since=date(2026, 1, 1), sunset=date(2027, 1, 1), successor="/things/{id}")
    def alias(id: str) -> Thing:
        return Thing(name=id)

    app.include_router(router)
    problems.add_handlers(app)
    yield app
    app.state.database.close()


@pytest.fixture
def client(app):
    return TestClient(app, headers=bearer(app.state.secret))


def test_changes_want_a_condition_that_holds(client):
    assert client.put("/things/a", json={"name": "x"}).status_code == 428
    assert client.put("/things/a", json={"name": "x"}, headers={"If-Match": "*"}).status_code == 412
    assert client.put("/things/a", json={"name": "x"}, headers={"If-None-Match": "*"}).status_code == 200
    assert client.put("/things/a", json={"name": "y"}, headers={"If-None-Match": "*"}).status_code == 412
    old = client.get("/things/a").headers["etag"]
    assert client.put("/things/a", json={"name": "y"}, headers={"If-Match": f"W/{old}"}).status_code == 412
    assert client.put("/things/a", json={"name": "y"}, headers={"If-Match": f'"zz.json", {old}'}).status_code == 200
    assert client.put("/things/a", json={"name": "z"}, headers={"If-Match": old}).status_code == 412
    assert client.get("/things/a").json() == {"name": "y"}


def test_etags_differ_by_format_and_hold_in_any(client):
    client.put("/things/a", json={"name": "x"}, headers={"If-None-Match": "*"})
    as_json, as_xml = (client.get("/things/a", headers={"Accept": f"application/{kind}"}) for kind in ("json", "xml"))
    assert as_json.headers["etag"] != as_xml.headers["etag"]
    same = client.get("/things/a", headers={"If-None-Match": f"W/{as_xml.headers['etag']}"})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["etag"] == as_json.headers["etag"]
    assert client.get("/things/a", headers={"If-None-Match": '"other"'}).status_code == 200
    headers = {"If-Match": as_xml.headers["etag"]}
    assert client.put("/things/a", json={"name": "y"}, headers=headers).status_code == 200


def test_a_deprecated_path_says_since_when_until_when_and_what_instead(app, client):
    answer = client.get("/alias/a")
    assert answer.headers["deprecation"] == "@1767225600"
    assert answer.headers["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
    assert answer.headers["link"] == '</things/a>; rel="successor-version"'
    assert app.openapi()["paths"]["/alias/{id}"]["get"]["deprecated"] is True
    assert "deprecation" not in client.put("/things/a", json={"name": "x"}).headers


def test_the_same_key_and_body_create_once(app, client):
    first = client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k1"})
    again = client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": '"k1"'})
    assert app.state.made == ["x"]
    assert (again.status_code, again.json(), again.headers["location"]) == (201, {"name": "x"}, "/things/1")
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    xml = client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k1", "Accept": "application/xml"})
    assert "<name>x</name>" in xml.text
    other = client.post("/things", json={"name": "y"}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:sfumato:problem:idempotency-key-reused")
    client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k2"})
    client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k1", **bearer(app.state.other)})
    client.post("/things", json={"name": "x"})
    assert len(app.state.made) == 4


def test_errors_and_refused_bodies_are_not_kept(app, client):
    key = {"Idempotency-Key": "k1"}
    assert client.post("/things", json={"name": "bad"}, headers=key).status_code == 409
    assert client.post("/things", json={"nome": "x"}, headers=key).status_code == 422
    assert client.post("/things", json={"name": "good"}, headers=key).status_code == 201
    assert client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "a b"}).status_code == 422
    assert client.post("/things", json={"name": "x"}, headers=key | {"Authorization": ""}).status_code == 401


def test_a_large_answer_is_not_kept(app, client):
    for _ in range(2):
        answer = client.post("/things", json={"name": "x" * LARGEST}, headers={"Idempotency-Key": "k1"})
        assert answer.status_code == 201
    assert len(app.state.made) == 2


def test_while_the_first_is_under_way_the_second_is_told_to_wait(app, client):
    app.state.go.clear()
    answers = []
    send = lambda: answers.append(client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k1"}))  # noqa: E731
    first = threading.Thread(target=send)
    first.start()
    assert app.state.began.wait(20)
    send()
    assert (answers[0].status_code, answers[0].headers["retry-after"]) == (409, "1")
    app.state.go.set()
    first.join(20)
    send()
    assert [answer.status_code for answer in answers] == [409, 201, 201]
    assert app.state.made == ["x"]


def test_what_has_expired_is_deleted(app, client):
    client.post("/things", json={"name": "x"}, headers={"Idempotency-Key": "k1"})
    with app.state.database.begin() as session:
        session.scalars(select(Answer)).one().expires_at = datetime.now(UTC) - timedelta(seconds=1)
    client.post("/things", json={"name": "y"}, headers={"Idempotency-Key": "k2"})
    with app.state.database.begin() as session:
        assert [answer.key for answer in session.scalars(select(Answer))] == ["k2"]
