"""Bodies and headers that are too large or too slow, over real connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller
from sfumato.agents.web.bodies import LARGEST, Bodies
from sfumato.agents.web.endpoints import FOUND
from sfumato.agents.web.server import Server, config
from sfumato.schemas.scope import Scope
from tests.calling import app as application
from tests.calling import client

TIMEOUT = 0.5


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path, body_timeout=TIMEOUT, bridge_port=0) as made:

        @made.post("/v1/streamed", max_body_size=2**40)
        async def streamed(request: Request) -> int:
            return sum([len(part) async for part in request.stream()])

        yield made


@pytest.fixture
def key(app) -> str:
    return app.state.keys.create("x", list(Scope), cameras=["*"], purpose="x", rate=10_000).secret


@contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The server's port; its reader of Kafka is left out."""
    settings = app.state.settings
    listener = socket.create_server(("127.0.0.1", 0))
    quiet = config(app, settings, None)
    quiet.lifespan = "off"
    server = Server(quiet, app.state.live)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def read(connection: socket.socket) -> bytes:
    """Until the server closes."""
    connection.settimeout(20)
    answer = b""
    while part := connection.recv(65_536):
        answer += part
    return answer


def head(key: str, path: str, **headers: Any) -> bytes:
    given = {"Host": "localhost", "Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_json_that_is_too_large_is_refused_before_it_is_read(app, key):
    caller = client(app, key)
    body = b'{"name": "' + b"x" * LARGEST + b'"}'
    answer = caller.post("/v1/keys", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert caller.post("/v1/streamed", content=body).json() == len(body)  # a route may take more


def test_a_body_without_a_length_is_counted(app, key):
    caller = client(app, key)
    parts = (b"x" * 65_536 for _ in range(LARGEST // 65_536 + 2))
    answer = caller.post("/v1/keys", content=parts, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_bodies_in_memory_are_bounded_and_one_caller_has_half():
    """Slow ones, of which each may last for hours, would fill the memory."""

    async def scenario() -> None:
        end, answers = asyncio.Event(), []

        async def endpoint(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await end.wait()
            answers.append(scope["state"]["caller"])

        bodies = Bodies(endpoint, 20, most=4000)

        async def send(whose: str, size: int) -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": bytes(size), "more_body": True}

            state = {"caller": Caller(whose, frozenset(), (), "")}
            await bodies({"type": "http", "headers": [], "state": state, FOUND: None}, receive, send)  # type: ignore[arg-type]

        waiting = [asyncio.ensure_future(send(whose, 1900)) for whose in ("a", "b")]
        await asyncio.sleep(0)
        for whose in ("a", "c"):  # a has its half, and all is taken
            with pytest.raises(HTTPException) as refused:
                await send(whose, 201)
            assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "5"})
        waiting.append(asyncio.ensure_future(send("c", 200)))
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*waiting)
        await send("a", 2000)  # what has ended holds nothing
        assert len(answers) == 4

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_nothing_of_a_body_is_read_for_a_caller_who_is_not_known(app):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(head("sfumato_x", "/v1/keys", **{"Content-Length": 1000}))
        assert read(connection).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/streamed"])
def test_a_body_that_does_not_come_is_ended(app, key, path):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(head(key, path, **{"Content-Length": 1000}) + b"{")
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


def test_a_body_that_drips_is_ended(app, key):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(head(key, "/v1/streamed", **{"Content-Length": 1000}))
        ended, dripped = threading.Event(), 0

        def drip() -> None:
            nonlocal dripped
            while not ended.wait(TIMEOUT / 10):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return
                dripped += 1

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = read(connection)
        ended.set()
        dripping.join()
    assert answer.startswith(b"HTTP/1.1 408")
    assert dripped < 1000


@pytest.mark.parametrize("sent", [b"", b"GET /v1/cameras HTTP/1.1\r\nHost: localhost\r\n"])
def test_headers_that_do_not_come_end_the_connection(app, sent):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(sent)
        assert b"200" not in read(connection)


def test_a_slow_answer_is_no_slow_request(app, key):
    @app.get("/v1/slow")
    async def slow() -> str:
        await asyncio.sleep(3 * TIMEOUT)
        return "done"

    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        request = head(key, "/v1/slow", Connection="close").replace(b"POST", b"GET")
        connection.sendall(request)
        assert read(connection).startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_told_so_though_more_of_it_comes(app):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n" + b"x" * 30_000_000)
        connection.shutdown(socket.SHUT_WR)
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in headers
    assert "no HTTP request" in json.loads(body)["detail"]


def test_headers_that_are_too_large_are_refused(app, key):
    with listening(app) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(head(key, "/v1/keys", **{"X-Large": "x" * 100_000})[:-2])  # and more of them to come
        assert read(connection)[9:12] in (b"400", b"431")
