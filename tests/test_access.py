"""Who gets in where: the table of scopes and endpoints, cameras, health, and what every answer carries."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.testclient import WebSocketDenialResponse

from sfumato.agents.access import gate
from sfumato.agents.access.callers import authorize
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import bearer, client, secret, websocket
from tests.filming import Encoder
from tests.test_bridge import frame

PUBLIC = {
    ("GET", "/"),
    ("GET", "/openapi.json"),
    ("GET", "/healthz"),  # from this machine
    ("GET", "/readyz"),
    ("POST", "/v1/session"),  # brings its key itself
}
"""The only endpoints that want no caller."""


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[FastAPI]:
    with application(tmp_path_factory.mktemp("state")) as made:
        yield made


@pytest.fixture(scope="module")
def key(app):
    """A function: a key with these scopes."""
    keys: dict[tuple[Scope, ...], str] = {}

    def make(*scopes: Scope, cameras: tuple[str, ...] = ("*",)) -> str:
        new = app.state.keys.create("test", scopes, cameras=cameras, purpose="tests", rate=10_000)
        return keys.setdefault((*scopes, *cameras), new.secret)

    return make


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, frozenset[Scope] | None]]:
    """Each method and path, and the scopes it wants; None: it asks for no caller."""
    for context in iter_route_contexts(app.routes):
        if not context.path or context.path == "/viewer":
            continue
        dependant = getattr(context, "dependant", None)
        asked = list(authorizations(dependant)) if dependant else []
        scopes = frozenset(map(Scope, asked[0].own_oauth_scopes or ())) if asked else None
        for method in sorted((context.methods or {"WS"}) - {"HEAD"}):
            yield method, context.path, scopes


def authorizations(dependant: Dependant) -> Iterator[Dependant]:
    """Where an endpoint asks for its caller, itself or by what it depends on."""
    for each in dependant.dependencies:
        if each.call is authorize:
            yield each
        else:
            yield from authorizations(each)


def call(app: FastAPI, method: str, path: str, key: str = "") -> int:
    path = re.sub(r"\{[^}]+\}", "1", path)
    caller = client(app, key)
    if method != "WS":
        with caller.stream(method, path) as answer:
            return answer.status_code
    try:
        with websocket(caller, path):
            return 101
    except WebSocketDenialResponse as refused:
        return refused.status_code


def test_each_endpoint_wants_a_caller_unless_it_is_public(app):
    table = {(method, path): scopes for method, path, scopes in endpoints(app)}
    assert len(table) > 12
    assert {place for place, scopes in table.items() if scopes is None} == PUBLIC
    for (method, path), scopes in table.items():
        if scopes is not None:
            assert call(app, method, path) == 401, (method, path)
            assert call(app, method, path, "sfumato_000000000000_wrong") in (401, 429), (method, path)


def test_each_endpoint_opens_to_its_scopes_and_to_no_others(app, key, monkeypatch):
    monkeypatch.setattr("sfumato.agents.search.TIMEOUT", 0.2)  # there is no broker to wait for
    for method, path, scopes in endpoints(app):
        if scopes is None:
            continue
        for missing in scopes:
            assert call(app, method, path, key(*sorted(set(Scope) - {missing}))) == 403, (method, path, missing)
        assert call(app, method, path, key(*sorted(scopes))) not in (401, 403), (method, path)


def test_an_endpoint_that_asks_for_no_caller_is_closed_to_the_unknown_all_the_same(tmp_path):
    with application(tmp_path) as app:

        @app.get("/v1/forgotten")
        def forgotten() -> str:
            return "something"

        assert call(app, "GET", "/v1/forgotten") == 401
        assert ("GET", "/v1/forgotten", None) in {*endpoints(app)}  # which the table finds


def test_openapi_states_how_to_show_who_one_is_and_the_scopes(app):
    document = client(app).get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["session"]["in"]) == ("bearer", "cookie")
    assert {*schemes["oauth2"]["flows"]["clientCredentials"]["scopes"]} == {*Scope}
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey", "oauth2"}
    assert document["paths"]["/v1/keys"]["post"]["security"] == [
        {"bearer": []},
        {"session": []},
        {"oauth2": ["keys:write"]},  # only OAuth 2.0 knows scopes
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) is ((method.upper(), path) not in PUBLIC), (method, path)


def test_a_camera_that_is_not_the_callers_is_not_there(app, key):
    live = app.state.live
    for unit in Encoder("north-1", interval=3).film(*range(4)):
        live.put(unit)
    for unit in Encoder("south", interval=3).film(*range(4)):
        live.put(unit)
    live.put(frame("north-2", 0))
    caller = client(app, key(Scope.CAMERAS_READ, cameras=("north-*",)))
    assert [camera["id"] for camera in caller.get("/v1/cameras").json()["items"]] == ["north-1", "north-2"]
    assert caller.get("/v1/cameras/north-2/snapshot.jpg").status_code == 200
    for what in ("snapshot.jpg", "hls/index.m3u8", "hls/init-0.mp4", "hls/0.m4s"):
        foreign, nowhere = (caller.get(f"/v1/cameras/{camera}/{what}") for camera in ("south", "nowhere"))
        said = [{**answer.json(), "instance": ""} for answer in (foreign, nowhere)]
        assert (foreign.status_code, said[0]) == (nowhere.status_code, said[1])
        assert foreign.status_code == 404
    assert call(app, "WS", "/v1/cameras/south/live", key(Scope.CAMERAS_READ, cameras=("north-*",))) == 404
    with websocket(caller, "/v1/cameras/north-2/live") as socket:
        assert b'"north-2/1/0"' in socket.receive_bytes()


def test_health_answers_this_machine_and_others_with_a_key(app, key):
    here = client(app, address="127.0.0.1")
    assert here.get("/healthz").status_code not in (401, 403)
    assert client(app, address="::1").get("/readyz").status_code not in (401, 403)
    assert here.get("/v1/cameras").status_code == 401
    assert here.get("/healthz", headers={"X-Forwarded-For": "203.0.113.5"}).status_code == 401
    elsewhere = client(app)
    assert elsewhere.get("/healthz").status_code == 401
    assert elsewhere.get("/healthz", headers=bearer(key(Scope.JOBS_READ))).status_code not in (401, 403)


@pytest.mark.parametrize(
    "shown",
    ["Bearer", "Bearer ", "Basic c2Z1bWF0bw==", "Bearer sfumato_x", "Bearer \u00e9", "sfumato_x", "Bearer a.b.c"],
)
def test_what_is_no_key_opens_nothing_and_is_not_repeated(app, shown):
    for odd in ("fe80::1%eth0", "a:b", ""):
        assert client(app, address=odd).get("/v1/cameras", headers={"Authorization": shown.encode()}).status_code == 401
    answer = client(app, address="198.51.100.1").get("/v1/cameras", headers={"Authorization": shown.encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "sfumato key create" in answer.json()["detail"]
    assert "sfumato_x" not in answer.text


def test_every_answer_carries_security_headers_and_hsts_over_https_alone(app):
    for path in ("/", "/v1/cameras", "/viewer/viewer.js", "/nowhere"):
        answer = client(app).get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "strict-transport-security" not in answer.headers
        assert "max-age" in client(app, scheme="https").get(path).headers["strict-transport-security"]


def test_pages_of_other_origins_are_let_in_by_name_alone(app, tmp_path):
    foreign = {"Origin": "https://dam.example", "Access-Control-Request-Method": "GET"}
    asked = client(app).options("/v1/cameras", headers=foreign)
    assert "access-control-allow-origin" not in asked.headers
    with application(tmp_path, cors_origins=["https://dam.example"]) as open_to_one:
        new = secret(open_to_one.state.settings, Scope.CAMERAS_READ)
        caller = client(open_to_one)
        assert (
            caller.options("/v1/cameras", headers=foreign).headers["access-control-allow-origin"] == foreign["Origin"]
        )
        answer = caller.get("/v1/cameras", headers={"Origin": "https://dam.example", **bearer(new)})
        assert answer.headers["access-control-allow-origin"] == "https://dam.example"
        assert "access-control-allow-credentials" not in answer.headers
        other = caller.get("/v1/cameras", headers={"Origin": "https://evil.example", **bearer(new)})
        assert "access-control-allow-origin" not in other.headers


def test_the_gates_list_of_public_paths_is_the_tests(app):
    listed = {("GET", path) for path in gate.PUBLIC | gate.HEALTH} | gate.PUBLIC_CALLS
    assert listed == PUBLIC
