"""Signing in by cookie: what the cookie is, what it does not allow pages of other sites, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient, WebSocketDenialResponse

from sfumato.agents.access.sessions import SignedIn
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import client, websocket
from tests.test_bridge import frame

OWN, FOREIGN = {"Origin": "http://localhost"}, {"Origin": "http://evil.example"}


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path) as made:
        yield made


@pytest.fixture
def new(app):
    return app.state.keys.create("Ada", list(Scope), cameras=["north"], purpose="looking")


def signed_in(app: FastAPI, key: str, scheme: str = "http") -> TestClient:
    caller = client(app, scheme=scheme)
    assert caller.post("/v1/session", json={"key": key}).status_code == 201
    return caller


def test_a_key_becomes_a_cookie_that_scripts_cannot_read(app, new):
    caller = client(app)
    answer = caller.post("/v1/session", json={"key": new.secret}, headers=OWN)
    assert answer.status_code == 201
    said = answer.json()
    assert (said["caller"], said["cameras"], said["purpose"]) == (f"key:{new.key.id}", ["north"], "looking")
    assert datetime.fromisoformat(said["expires_at"]) - datetime.now(UTC) < timedelta(hours=12)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "Secure" not in cookie
    assert new.secret not in cookie
    assert caller.get("/v1/session").json() == {**said, "expires_at": None}
    over_https = client(app, scheme="https").post("/v1/session", json={"key": new.secret})
    assert over_https.headers["set-cookie"].startswith("__Host-sfumato=")
    assert "Secure" in over_https.headers["set-cookie"]


def test_only_a_hash_of_the_token_is_kept(app, new, tmp_path):
    caller = signed_in(app, new.secret)
    (token,) = caller.cookies.values()
    app.state.database.close()
    assert not any(token.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_wrong_keys_do_not_sign_in(app):
    assert client(app).post("/v1/session", json={"key": "sfumato_x"}).status_code == 401
    assert client(app).post("/v1/session", json={}).status_code == 422
    assert client(app).get("/v1/session").status_code == 401


def test_pages_of_other_sites_can_neither_sign_in_nor_act(app, new):
    body = {"json": {"key": new.secret}}
    assert client(app).post("/v1/session", headers=FOREIGN, **body).status_code == 403
    assert client(app).post("/v1/session", headers={"Sec-Fetch-Site": "cross-site"}, **body).status_code == 403
    form = {"Content-Type": "text/plain"}
    text = f'{{"key": "{new.secret}"}}'
    assert client(app).post("/v1/session", content=text, headers=form).status_code in (415, 422)
    caller = signed_in(app, new.secret)
    draft = {"name": "x", "scopes": ["jobs:read"], "purpose": "x"}
    for headers in (
        {},
        FOREIGN,
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {**OWN, "Sec-Fetch-Site": "none"},
    ):
        assert caller.post("/v1/keys", json=draft, headers=headers).status_code == 403, headers
        assert caller.delete("/v1/session", headers=headers).status_code == 403, headers
    assert caller.post("/v1/keys", json=draft, headers=OWN).status_code == 201
    assert caller.post("/v1/keys", json=draft, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 201
    assert caller.get("/v1/session", headers={"Sec-Fetch-Site": "none"}).status_code == 200  # SameSite guards reading


def test_a_websocket_by_cookie_wants_a_page_of_this_host(app, new):
    app.state.live.put(frame("north", 0))
    caller = signed_in(app, new.secret)
    for headers in ({}, FOREIGN):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            websocket(caller, "/v1/cameras/north/live", headers=headers),
        ):
            pass
        assert refused.value.status_code == 403
    with websocket(caller, "/v1/cameras/north/live", headers=OWN) as socket:
        assert socket.receive_bytes()


def test_an_open_websocket_closes_when_its_key_is_revoked(app, new, monkeypatch):
    monkeypatch.setattr("sfumato.agents.access.gate.RECHECK", 0.05)
    app.state.live.put(frame("north", 0))
    with websocket(client(app, new.secret), "/v1/cameras/north/live") as socket:
        assert socket.receive_bytes()
        app.state.keys.revoke(new.key.id)
        assert socket.receive() == {
            "type": "websocket.close",
            "code": 1008,
            "reason": "your key, token or session has ended",
        }


def away(*_: object) -> None:
    raise OperationalError("SELECT", {}, Exception("the database is away"))


def test_an_open_websocket_closes_when_its_key_is_revoked_though_the_database_was_away(app, new, monkeypatch):
    monkeypatch.setattr("sfumato.agents.access.gate.RECHECK", 0.02)
    find, asked = app.state.keys.find, threading.Event()
    monkeypatch.setattr(app.state.keys, "recall", lambda text: None)
    app.state.live.put(frame("north", 0))
    with websocket(client(app, new.secret), "/v1/cameras/north/live") as socket:
        assert socket.receive_bytes()
        monkeypatch.setattr(app.state.keys, "find", lambda text: asked.set() or away())
        assert asked.wait(10)
        app.state.keys.revoke(new.key.id)
        monkeypatch.setattr(app.state.keys, "find", find)
        assert socket.receive()["code"] == 1008


def test_an_open_websocket_closes_by_and_by_while_its_key_cannot_be_looked_up(app, new, monkeypatch):
    monkeypatch.setattr("sfumato.agents.access.gate.RECHECK", 0.02)
    monkeypatch.setattr("sfumato.agents.access.gate.UNCHECKED", 0.1)
    monkeypatch.setattr(app.state.keys, "recall", lambda text: None)
    app.state.live.put(frame("north", 0))
    with websocket(client(app, new.secret), "/v1/cameras/north/live") as socket:
        monkeypatch.setattr(app.state.keys, "find", away)
        assert socket.receive_bytes()
        assert socket.receive()["code"] == 1008


@pytest.mark.parametrize(("others", "agreed"), [(["sfumato"], "sfumato"), ([], None)])
def test_a_websocket_takes_a_key_as_subprotocol(app, new, others, agreed):
    app.state.live.put(frame("north", 0))
    offered = [f"bearer.{new.secret}", *others]
    with websocket(client(app), "/v1/cameras/north/live", subprotocols=offered) as socket:
        assert socket.accepted_subprotocol == (agreed or offered[0])
        assert socket.receive_bytes()
    with (
        pytest.raises(WebSocketDenialResponse),
        websocket(client(app), "/v1/cameras/north/live", subprotocols=["bearer.sfumato_x"]),
    ):
        pass


def test_signing_out_ends_the_session_for_whoever_has_the_cookie(app, new):
    caller = signed_in(app, new.secret)
    thief = client(app)
    thief.cookies = caller.cookies
    assert thief.get("/v1/session").status_code == 200
    answer = caller.delete("/v1/session", headers=OWN)
    assert answer.status_code == 204
    assert 'sfumato=""' in answer.headers["set-cookie"]
    assert thief.get("/v1/session").status_code == 401
    assert client(app, new.secret).get("/v1/session").status_code == 200


def test_a_session_ends_with_its_key_at_once_and_by_time(app, new):
    caller, other = signed_in(app, new.secret), signed_in(app, new.secret)
    assert caller.get("/v1/session").status_code == 200
    app.state.keys.revoke(new.key.id)
    assert caller.get("/v1/session").status_code == 401
    soon = app.state.keys.create("x", [], purpose="x", expires_at=datetime.now(UTC) + timedelta(minutes=1))
    _, ends = app.state.sessions.begin(soon.key)
    assert ends == soon.key.expires_at
    with app.state.database.begin() as session:
        session.query(SignedIn).update({"expires_at": datetime.now(UTC)})
    assert other.get("/v1/session").status_code == 401


def test_signing_in_is_a_request_of_the_key(app):
    """Else a key could begin sessions, which are rows for twelve hours, as fast as it likes."""
    new = app.state.keys.create("Ada", list(Scope), cameras=["north"], purpose="looking", rate=100)
    caller = client(app)
    answers = [caller.post("/v1/session", json={"key": new.secret}).status_code for _ in range(110)]
    assert answers[:100] == [201] * 100
    assert 429 in answers


def test_little_is_read_of_those_who_are_not_known(app):
    """A megabyte of unknown fields takes a second to refuse, and this path wants no key."""
    answer = client(app).post("/v1/session", json={"key": "x" * 5000})
    assert (answer.status_code, answer.json()["detail"][:23]) == (413, "the body may hold 4096 ")
