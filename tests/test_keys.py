"""API keys: the first one, those of the command line and the API, and what reading one costs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from sqlalchemy import event

from sfumato.agents.access import keys as module
from sfumato.agents.access.keys import Keys
from sfumato.agents.cli import main
from sfumato.agents.database import Database
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import ROLES, Role, Scope
from tests.calling import app as application
from tests.calling import client

DRAFT = {"name": "press", "scopes": ["images:anonymize"], "purpose": "publication"}


@pytest.fixture
def app(tmp_path) -> Iterator[FastAPI]:
    with application(tmp_path) as made:
        yield made


def key(app: FastAPI, *scopes: Scope, **options: object) -> str:
    return app.state.keys.create("test", scopes, purpose="tests", **options).secret


def test_the_first_start_makes_one_key_however_many_processes_start(tmp_path):
    databases = [Database(Settings(state_dir=tmp_path)) for _ in range(8)]
    databases[0].migrate()
    with ThreadPoolExecutor(8) as pool:
        made = [new for new in pool.map(lambda each: Keys(each).create_first(), databases) if new]
    assert len(made) == 1
    assert {*made[0].key.scopes} == ROLES[Role.ADMIN]
    assert not Keys(databases[0]).empty()
    for each in databases:
        each.close()


def test_a_key_made_by_the_api_opens_shows_itself_and_is_revoked(app):
    maker = client(app, key(app, *Scope))
    answer = maker.post("/v1/keys", json={**DRAFT, "rate": 100, "bytes_a_day": 10**9})
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert made["key"].startswith(made["prefix"])
    caller = client(app, made["key"])
    said = caller.get("/v1/session").json()
    assert (said["scopes"], said["purpose"], said["cameras"]) == (["images:anonymize"], "publication", [])
    app.state.usage.flush()
    shown = maker.get(f"/v1/keys/{made['id']}").json()
    assert shown["used_at"] is not None
    assert "key" not in shown
    assert shown["made_by"].startswith("key:")
    assert made["key"] not in maker.get("/v1/keys").text
    assert maker.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert caller.get("/v1/session").status_code == 401
    revoked = maker.get(f"/v1/keys/{made['id']}").json()["revoked_at"]
    assert maker.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert maker.get(f"/v1/keys/{made['id']}").json()["revoked_at"] == revoked
    for answer in (maker.get("/v1/keys/nothing"), maker.delete("/v1/keys/nothing")):
        assert answer.status_code == 404


def test_nobody_grants_more_than_they_have(app):
    maker = client(app, key(app, Scope.KEYS_WRITE, Scope.CAMERAS_READ, cameras=["north-*", "hall"]))

    def make(**changes: object):  # type: ignore[no-untyped-def]
        return maker.post("/v1/keys", json={"name": "x", "purpose": "x", "scopes": ["cameras:read"], **changes})

    for cameras in (["north-*"], ["north-1", "hall"]):
        assert make(cameras=cameras).status_code == 201, cameras
    for cameras in (["*"], ["south"], ["north-1", "south"], ["nort*"], ["*-1"], ["hal?"], ["north-??*"]):
        answer = make(cameras=cameras)
        assert (answer.status_code, answer.json()["detail"][:7]) == (403, "cameras"), cameras
    for more in ({"roles": ["vendor"]}, {"scopes": ["cameras:read", "jobs:read"]}):
        answer = make(cameras=["hall"], **more)
        assert (answer.status_code, answer.json()["detail"][:6]) == (403, "scopes"), more


def test_nobody_makes_a_key_that_is_limited_less_than_their_own(app):
    """A key with quotas that ends could else make one without, which does not end."""
    ends = datetime.now(UTC) + timedelta(hours=1)
    own = {"rate": 200, "bytes_a_day": 100_000, "frames_a_day": 10, "expires_at": ends}
    maker = client(app, key(app, *Scope, **own))
    within = {"rate": 200, "bytes_a_day": 100_000, "frames_a_day": 9, "expires_at": ends.isoformat()}
    later = (ends + timedelta(seconds=1)).isoformat()
    assert maker.post("/v1/keys", json={**DRAFT, **within}).status_code == 201
    for more in (
        {"rate": 201},
        {"bytes_a_day": None},
        {"bytes_a_day": 100_001},
        {"frames_a_day": None},
        {"frames_a_day": 11},
        {"expires_at": None},
        {"expires_at": later},
    ):
        answer = maker.post("/v1/keys", json={**DRAFT, **within, **more})
        assert answer.status_code == 403, more
        assert answer.json()["detail"].startswith(*more), more
    assert client(app, key(app, *Scope)).post("/v1/keys", json={**DRAFT, **within}).status_code == 201


def test_nobody_revokes_a_key_that_opens_more_than_their_own(app):
    """Somebody who makes keys for a few cameras could else lock the administrators out."""
    maker = client(app, key(app, Scope.KEYS_WRITE, Scope.CAMERAS_READ, cameras=["north-*"]))
    for scopes, cameras, status in (
        (Scope, ["*"], 403),
        ([Scope.CAMERAS_READ], ["south"], 403),
        ([Scope.JOBS_READ], [], 403),
        ([Scope.CAMERAS_READ], ["north-1"], 204),
    ):
        new = app.state.keys.create("x", scopes, cameras=cameras, purpose="x")
        assert maker.delete(f"/v1/keys/{new.key.id}").status_code == status, (scopes, cameras)
        assert client(app, new.secret).get("/v1/session").status_code == (401 if status == 204 else 200)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": ["cameras:read"]}, "cameras"),
        ({"cameras": ["a/b"]}, "cameras"),
        ({"rate": 99}, "rate"),
        ({"rate": 10_001}, "rate"),
        ({"bytes_a_day": 0}, "bytes_a_day"),
        ({"expires_at": 2000}, "expires_at"),
        ({"admin": True}, "admin"),
    ],
)
def test_a_draft_that_is_not_valid_is_refused(app, changes, named):
    answer = client(app, key(app, *Scope)).post("/v1/keys", json={**DRAFT, **changes})
    assert answer.status_code == 422


def test_keys_are_listed_in_pages(app):
    lister = client(app, key(app, Scope.KEYS_READ))
    for _ in range(6):
        key(app, Scope.JOBS_READ)
    seen, cursor, pages = [], None, 0
    while cursor is not None or not seen:
        page = lister.get("/v1/keys", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [each["id"] for each in page["items"]]
        cursor, pages = page["next"], pages + 1
    assert seen == sorted(seen)
    assert (len(set(seen)), pages) == (7, 3)


def test_the_command_line_makes_lists_and_revokes(tmp_path):
    environment = {"SFUMATO_STATE_DIR": str(tmp_path)}

    def run(*arguments: str, status: int = 0) -> list[dict[str, object]]:
        result = CliRunner().invoke(main, ["key", *arguments], env=environment)
        assert result.exit_code == status, result.output
        return [json.loads(line) for line in result.output.splitlines()] if not status else []

    options = ["--name", "Acme", "--purpose", "traffic counts"]
    (made,) = run("create", *options, "--role", "vendor", "--camera", "north-*", "--days", "30", "--rate", "1000")
    assert {*made["scopes"]} == ROLES[Role.VENDOR]  # type: ignore[misc]
    database = Database(Settings(state_dir=tmp_path))
    keys = Keys(database)
    found = keys.find(str(made["key"]))
    assert found is not None
    assert (found.name, found.cameras, found.rate) == ("Acme", ["north-*"], 1000)
    (listed,) = run("list")
    assert "key" not in listed
    run("revoke", str(made["id"]))
    assert run("list") == []
    assert len(run("list", "--all")) == 1
    assert Keys(database).find(str(made["key"])) is None
    run("revoke", "nothing", status=1)
    run("create", *options, "--role", "viewer", status=1)  # of no camera
    database.close()


def test_a_key_revoked_by_another_process_opens_for_two_seconds_at_most(app, monkeypatch):
    mine, theirs = app.state.keys, Keys(app.state.database)
    new = mine.create("x", [], purpose="x")
    assert mine.find(new.secret)
    theirs.revoke(new.key.id)
    assert mine.find(new.secret)  # remembered
    later = module.Recent.get.__globals__["time"].monotonic() + module.REMEMBERED
    monkeypatch.setattr("sfumato.agents.access.recent.time.monotonic", lambda: later)
    assert mine.find(new.secret) is None


def test_a_hundred_requests_do_not_write_a_hundred_times(app):
    caller = client(app, key(app, Scope.CAMERAS_READ))
    begun: list[str] = []
    event.listen(app.state.database.engine, "before_cursor_execute", lambda *arguments: begun.append(arguments[2]))
    for _ in range(100):
        assert caller.get("/v1/cameras").status_code == 200
    app.state.usage.flush()
    writes = [statement for statement in begun if statement.startswith(("UPDATE", "INSERT", "DELETE"))]
    assert 1 <= len(writes) < 20
    reads = [statement for statement in begun if statement.startswith("SELECT keys")]
    assert len(reads) < 20


def test_a_key_is_read_while_somebody_writes(app, tmp_path):
    secret = key(app, Scope.CAMERAS_READ)
    writer = sqlite3.connect(tmp_path / "sfumato.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert client(app, secret).get("/v1/cameras").status_code == 200
    finally:
        writer.execute("ROLLBACK")
        writer.close()
