"""Errors say what is wrong, where and what to do, in JSON or XML; never what was sent. Requests have ids."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import pytest
from fastapi import APIRouter, FastAPI, Query
from postgresql import postgresql
from starlette.testclient import TestClient

from sfumato.agents.web import problems
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.request_ids import FORMAT, RequestFilter, RequestIds
from sfumato.schemas.policy import Policy
from sfumato.schemas.problem import KINDS, Fault
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import client as calling

log = logging.getLogger("sfumato.tests")


@pytest.fixture
def client():
    router = APIRouter(route_class=Negotiated)

    @router.put("/policies/{id}")
    def put(id: str, policy: Policy, limit: Annotated[int, Query(ge=1)] = 1) -> Policy:
        return policy

    @router.delete("/policies/{id}")
    def delete(id: str) -> None:
        log.info("deleting")
        raise problems.Refusal(409, "x: is in use", kind="in-use", errors=[Fault(field="x", detail="a", remedy="b")])

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret")

    app = FastAPI()
    app.include_router(router)
    app.add_middleware(RequestIds)
    problems.add_handlers(app)
    return TestClient(app, raise_server_exceptions=False)


def test_each_field_at_fault_is_named_with_its_remedy_and_without_what_was_sent(client):
    body = {"camera": "hunter2 secret", "hold": "hunter2", "targets": {"f/~": {}}, "hunter": "hunter2"}
    response = client.put("/policies/x?limit=0", json=body)
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:sfumato:problem:invalid"
    assert "hunter2" not in response.text
    by_field = {fault["field"]: fault for fault in problem["errors"]}
    assert by_field["camera"]["remedy"].startswith("small letters")
    assert by_field["version"] == {
        "field": "version",
        "pointer": "/version",
        "detail": "missing",
        "remedy": "start with 1 and raise it with each change",
    }
    assert by_field["hunter"]["detail"] == "unknown key"
    assert by_field["targets.f/~"]["pointer"] == "/targets/f~1~0"
    assert "pointer" not in by_field["limit"]
    assert "camera: not a camera's id" in problem["detail"]


def test_xml_where_it_is_preferred(client):
    response = client.put("/policies/x", json={}, headers={"Accept": "application/xml"})
    assert response.headers["content-type"] == "application/problem+xml"
    root = ElementTree.fromstring(response.text)
    assert root.tag == "{urn:ietf:rfc:7807}problem"
    fields = [each.text for each in root.findall("./{*}errors/{*}i/{*}field")]
    assert "camera" in fields
    assert client.get("/nothing", headers={"Accept": "text/html"}).headers["content-type"] == "application/problem+json"


def test_kinds_of_their_own_and_faults(client):
    problem = client.delete("/policies/x").json()
    assert (problem["type"], problem["status"], problem["title"]) == ("urn:sfumato:problem:in-use", 409, "Conflict")
    assert problem["errors"] == [{"field": "x", "detail": "a", "remedy": "b"}]


def test_other_methods_are_told_every_method_of_the_path(client):
    response = client.post("/policies/x")
    assert response.status_code == 405
    assert response.headers["allow"] == "PUT, DELETE"
    assert response.json()["detail"] == "this path answers PUT, DELETE"


def test_a_request_id_is_taken_or_made_and_answered(client):
    for path in ("/policies/x", "/nothing", "/broken"):
        response = client.delete(path, headers={"X-Request-Id": "my-id.1"})
        assert response.headers.get_list("x-request-id") == ["my-id.1"]
        assert response.json()["instance"] == "urn:sfumato:request:my-id.1"
    for wrong in ("", "a b", "x" * 129, "é"):
        made = client.delete("/policies/x", headers={"X-Request-Id": wrong.encode()}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)
    assert client.get("/broken").headers["x-request-id"] != client.get("/broken").headers["x-request-id"]


def test_an_internal_error_says_nothing_of_its_cause(client):
    response = client.get("/broken")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:sfumato:problem:internal"
    assert "secret" not in response.text


def test_each_line_of_the_log_names_the_request(client):
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(RequestFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        client.delete("/policies/x", headers={"X-Request-Id": "abc"})
        log.info("outside")
    finally:
        log.removeHandler(handler)
    inside, outside = written.getvalue().splitlines()
    assert inside.endswith("INFO sfumato.tests: [abc] deleting")
    assert outside.endswith("INFO sfumato.tests: outside")


def test_while_the_database_is_away_nobody_gets_in_and_is_told_to_come_back(tmp_path):
    with postgresql() as server, application(tmp_path, database_url=server.database()) as app:
        keys = [app.state.keys.create("test", tuple(Scope), cameras=["*"], purpose="tests").secret for _ in "ab"]
        known, other = (calling(app, key) for key in keys)
        assert known.get("/v1/jobs").status_code == 200
        server.stop()
        for answer in (known.get("/v1/jobs"), other.get("/v1/cameras"), calling(app, "sfumato_x").get("/v1/cameras")):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.text
            assert answer.json()["type"] == "urn:sfumato:problem:unavailable"
            assert "postgres" not in answer.text
        server.start()
        assert [caller.get("/v1/jobs").status_code for caller in (known, other)] == [200, 200]


def test_a_text_that_postgresql_cannot_hold_is_the_callers_fault(tmp_path):
    with postgresql() as server, application(tmp_path, database_url=server.database()) as app:
        key = app.state.keys.create("test", tuple(Scope), cameras=["*"], purpose="tests").secret
        caller = calling(app, key)
        draft = {"name": "a\x00b", "scopes": ["jobs:read"], "purpose": "tests"}
        for answer in (caller.get("/v1/keys/%00"), caller.get("/v1/jobs/%00"), caller.post("/v1/keys", json=draft)):
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:sfumato:problem:invalid"), answer.text
            assert "U+0000" in answer.json()["detail"]
        assert caller.post("/v1/keys", json={**draft, "name": "ab"}).status_code == 201


def test_every_kind_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    assert [kind for kind in KINDS.values() if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("crowd", [{f"x{n}": 0 for n in range(2001)}, {"zones": [0] * 2001}])
def test_not_each_of_thousands_of_faults_is_looked_for(client, crowd):
    """Each costs some ten microseconds in which the bridge does nothing else."""
    answer = client.put("/policies/north", json=crowd)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("body: an object or array of more than 2000 members")
