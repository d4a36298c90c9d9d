"""The audit of calls: in Kafka and in the log, with what was done and without what must not be in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.testclient import WebSocketDenialResponse

from sfumato.agents.access import calls
from sfumato.schemas.call import Call
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import CALLS
from tests.calling import app as application
from tests.calling import bearer, client, websocket
from tests.test_bridge import Bridge, frame


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path) as made:
        yield made


@pytest.fixture
def recorded(app, caplog):
    """What was recorded so far."""
    caplog.set_level(logging.INFO, logger="sfumato.agents.access.calls")

    def read() -> list[Call]:
        lines = [record.getMessage() for record in caplog.records if record.name == "sfumato.agents.access.calls"]
        return [Call.model_validate_json(line) for line in lines]

    return read


def published(bridge: Bridge, enough: Callable[[list[Call]], bool]) -> list[Call]:
    consumer = Consumer(
        {
            "bootstrap.servers": bridge.settings.bootstrap_servers,
            "group.id": f"{bridge.settings.group_id}-calls",
        }
    )
    consumer.assign([TopicPartition(bridge.settings.topic(CALLS), 0, OFFSET_BEGINNING)])
    found: list[Call] = []
    for _ in range(300):
        message = consumer.poll(0.1)
        if message is not None and not message.error():
            found.append(Call.from_message(message.key(), message.value()))
            if enough(found):
                break
    consumer.close()
    return found


def test_every_call_reaches_the_topic(topics):
    with Bridge(topics) as bridge:
        bridge.publish(frame("north", 0))
        bridge.wait_until(lambda: "north" in bridge.shown())
        assert bridge.get("/v1/cameras/north/snapshot.jpg?token=s3cret", **{"X-Request-Id": "r-1"}).status_code == 200
        assert bridge.get("/v1/cameras", Authorization="Bearer sfumato_x").status_code == 401
        with bridge.watch("north") as viewer:
            viewer.recv(10)
        bridge.wait_until(lambda: bridge.shown()["north"]["viewers"] == 0)
        before = int(REGISTRY.get_sample_value("sfumato_calls_unpublished_total") or 0)
    found = published(bridge, lambda found: any(call.method == "WS" and call.duration_ms for call in found))
    (snapshot,) = [call for call in found if call.path.endswith("snapshot.jpg")]
    assert snapshot.caller == f"key:{bridge.key.split('_')[1]}"
    assert (snapshot.purpose, snapshot.method, snapshot.status) == ("tests", "GET", 200)
    assert (snapshot.route, snapshot.request_id) == ("/v1/cameras/{camera}/snapshot.jpg", "r-1")
    assert snapshot.path == "/v1/cameras/north/snapshot.jpg"
    assert snapshot.bytes_out == len(frame("north", 0).payload)
    assert any((call.caller, call.status) == (None, 401) for call in found)
    opened, ended = [call for call in found if call.method == "WS"]
    assert (opened.id, opened.status, opened.duration_ms) == (ended.id, 101, None)
    assert ended.duration_ms
    assert ended.bytes_out
    text = "".join(call.model_dump_json() for call in found)
    for hidden in ("s3cret", bridge.key, "sfumato_x"):
        assert hidden not in text
    assert before == 0 or before == int(REGISTRY.get_sample_value("sfumato_calls_unpublished_total") or 0)


def test_bodies_and_cookies_are_in_no_record(app, recorded):
    new = app.state.keys.create("x", list(Scope), purpose="x")
    caller = client(app)
    caller.post("/v1/session", json={"key": new.secret})
    token = next(iter(caller.cookies.values()))
    caller.post("/v1/keys", json={"name": "hidden name", "scopes": [], "purpose": "x"}, headers=bearer(new.secret))
    caller.get("/v1/session")
    made = recorded()
    assert [(call.method, call.path, call.status) for call in made] == [
        ("POST", "/v1/session", 201),
        ("POST", "/v1/keys", 422),
        ("GET", "/v1/session", 200),
    ]
    assert made[0].caller is None  # the answer says who; the record of the next call does, too
    assert made[1].bytes_in
    assert made[2].caller == f"key:{new.key.id}"
    text = "".join(call.model_dump_json() for call in made)
    assert all(hidden not in text for hidden in (new.secret, token, "hidden name"))


@pytest.mark.parametrize(
    ("path", "route"), [("/v1/keys/abc", "/v1/keys/{id}"), ("/v1/nothing", None), ("/metrics", "/metrics")]
)
def test_a_call_that_is_refused_names_its_route(app, recorded, path, route):
    client(app).get(path)
    (call,) = recorded()
    assert (call.route, call.path, call.status, call.caller) == (route, path, 401, None)


def test_the_page_and_the_health_of_the_process_are_no_calls(app, recorded):
    for path in ("/", "/viewer/viewer.js", "/openapi.json", "/healthz"):
        client(app, address="127.0.0.1").get(path)
    assert recorded() == []


def test_a_refused_websocket_is_recorded_once(app, recorded):
    key = app.state.keys.create("x", [Scope.JOBS_READ], purpose="x").secret
    with pytest.raises(WebSocketDenialResponse), websocket(client(app, key), "/v1/cameras/north/live"):
        pass
    assert [(call.method, call.status, call.duration_ms is None) for call in recorded()] == [("WS", 403, False)]


def test_what_kafka_does_not_take_is_in_the_log_and_counted(app, recorded, monkeypatch):
    monkeypatch.setattr(calls, "MOST_WAITING", 3)
    before = REGISTRY.get_sample_value("sfumato_calls_unpublished_total") or 0
    for _ in range(5):
        assert client(app).get("/v1/keys").status_code == 401  # at once, although no broker answers
    assert len(recorded()) == 5
    assert REGISTRY.get_sample_value("sfumato_calls_unpublished_total") == before + 2


def test_a_failing_endpoint_is_a_500_in_the_record(app, recorded):
    @app.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    key = app.state.keys.create("x", [], purpose="x").secret
    assert client(app, key).get("/v1/broken").status_code == 500
    (call,) = recorded()
    assert call.status == 500


def test_messages_that_break_the_contract_are_refused():
    with pytest.raises(EnvelopeError):
        Call.from_message(b"x", b"{}")
    good = {"id": "1", "at": "2026-01-01T00:00:00Z", "caller": None, "purpose": None, "method": "GET", "route": None}
    value = json.dumps({**good, "path": "/", "status": 200}).encode()
    assert Call.from_message(b"nobody", value).caller is None
    with pytest.raises(EnvelopeError):
        Call.from_message(b"key:x", value)


def test_a_line_of_the_log_is_json_and_nothing_else(app, capsys):
    logger = logging.getLogger("sfumato.agents.access.calls")
    calls.log_lines()
    logger.setLevel(logging.INFO)
    try:
        client(app).get("/v1/keys")
    finally:
        logger.handlers.clear()
        logger.propagate = True
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert json.loads(lines[0])["path"] == "/v1/keys"
