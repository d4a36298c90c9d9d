"""Keys for the tests of the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketTestSession

from sfumato.agents.access.keys import Keys
from sfumato.agents.bridge import make_app
from sfumato.agents.database import Database
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope


def secret(settings: Settings, *scopes: Scope, cameras: Iterable[str] = ("*",)) -> str:
    """A new key with these scopes, none given: all; in the database of these settings."""
    database = Database(settings)
    database.migrate()
    new = Keys(database).create("test", scopes or tuple(Scope), cameras=cameras, purpose="tests", rate=10_000)
    database.close()
    return new.secret


def bearer(key: str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def app(folder: Path, **settings: object) -> Iterator[FastAPI]:
    """The bridge's application without a broker, with a state folder of its own."""
    made = make_app(Settings(**{"state_dir": folder, "bootstrap_servers": "127.0.0.1:1", **settings}))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.state.usage.close()
        made.state.calls.close(0)
        made.state.stills.close()
        made.state.database.close()


def client(app: FastAPI, key: str = "", *, address: str = "203.0.113.5", scheme: str = "http") -> TestClient:
    """Calls it from this address; an endpoint's exception is its 500."""
    headers = bearer(key) if key else {}
    base = f"{scheme}://localhost"
    return TestClient(app, base, raise_server_exceptions=False, headers=headers, client=(address, 50_000))


@contextmanager
def websocket(caller: TestClient, path: str, **options: object) -> Iterator[WebSocketTestSession]:
    """A WebSocket; WebSocketDenialResponse where it is refused."""
    opened = caller.websocket_connect(f"ws://localhost{path}", **options)  # type: ignore[arg-type]
    with suppress(CancelledError), opened as socket:  # how the client ends an endpoint that still sends
        yield socket
