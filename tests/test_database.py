"""The database: migrations make what the models declare, on SQLite and PostgreSQL; keys are kept as hashes only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from sfumato.agents import postgresql as limits
from sfumato.agents.access.keys import Keys
from sfumato.agents.api import routes
from sfumato.agents.database import Base, Database, DatabaseError
from sfumato.agents.footage.key_table import KeyRow
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope


@pytest.fixture
def database(tmp_path: Path):
    database = Database(Settings(state_dir=tmp_path))
    database.migrate()
    yield database
    database.close()


def test_migrations_make_what_the_models_declare(database):
    assert routes.ROUTERS  # imports every module that declares a table
    assert KeyRow.metadata is Base.metadata
    database.migrate()  # a second time is nothing
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_key_opens_until_it_ends_and_only_its_hash_is_kept(database, tmp_path):
    keys = Keys(database)
    assert keys.empty()
    new = keys.create("press office", [Scope.IMAGES_ANONYMIZE], cameras=["north-*"], purpose="publication")
    found = keys.find(new.secret)
    assert found is not None
    assert (found.id, found.scopes, found.cameras) == (new.key.id, ["images:anonymize"], ["north-*"])
    assert keys.find(new.secret[:-1]) is None
    ended = keys.create("x", [], purpose="x", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert keys.find(ended.secret) is None
    assert not keys.empty()
    database.close()
    random = new.secret.split("_", 2)[2].encode()  # which may hold a _ itself
    assert len(random) > 30
    assert not any(random in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_other_databases_are_refused_with_the_remedy(url, tmp_path):
    with pytest.raises(DatabaseError, match="SFUMATO_DATABASE_URL"):
        Database(Settings(state_dir=tmp_path, database_url=url))


def test_a_server_that_stands_still_is_given_up_and_asked_again(tmp_path, monkeypatch, postgres):
    monkeypatch.setattr(limits.Connection, "answer_timeout", 0.5)
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT", 2)  # libpq's least
    database = Database(Settings(state_dir=tmp_path, database_url=postgres.database()))
    database.migrate()
    keys = Keys(database)
    new = keys.create("city", [], purpose="tests")
    postgres.pause()
    try:
        for _ in range(2):  # a connection that was there, and a new one
            with pytest.raises(OperationalError):
                keys.find(new.secret)
    finally:
        postgres.resume()
    found = keys.find(new.secret)
    assert found is not None
    assert found.id == new.key.id
    database.close()


@contextmanager
def locked(url: str, statement: str) -> Iterator[Callable[[str], None]]:
    """A transaction of somebody else's after this statement. Yields what waits for a condition, in SQL, that begins
    after the number of backends that wait for a lock."""
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as looking:
        other.execute(statement)

        def wait(condition: str) -> None:
            here = "datname = current_database() AND wait_event_type = 'Lock'"
            deadline = time.monotonic() + 20
            while (
                looking.execute(
                    f"SELECT 1 WHERE (SELECT count(*) FROM pg_stat_activity WHERE {here}) {condition}"
                ).fetchone()
                is None
            ):
                assert time.monotonic() < deadline, condition

        yield wait
        other.rollback()


@pytest.mark.parametrize(("answer", "statement"), [(60.0, 0.3), (0.3, 60.0)], ids=["by the server", "by the client"])
def test_a_statement_that_waits_for_anothers_lock_is_given_up_and_no_backend_waits_on(
    tmp_path, monkeypatch, postgres, answer, statement
):
    url = postgres.database()
    database = Database(Settings(state_dir=tmp_path, database_url=url))
    database.migrate()
    database.close()
    monkeypatch.setattr(limits.Connection, "answer_timeout", answer)
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT", statement)
    monkeypatch.setattr(limits, "CHECKED", 0.1)
    with locked(url, "LOCK TABLE uploads") as waiting:
        with pytest.raises(OperationalError), database.begin() as session:
            session.execute(text("SELECT * FROM uploads"))
        waiting("= 0")
    database.close()


def test_a_migration_waits_for_as_long_as_another_takes_whatever_the_limits(tmp_path, monkeypatch, postgres):
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT", 0.1)
    url = postgres.database()
    database = Database(Settings(state_dir=tmp_path, database_url=f"{url}?options=-c%20application_name%3Dcity"))
    with ThreadPoolExecutor() as pool, locked(url, "SELECT pg_advisory_xact_lock(7364756)") as waiting:
        migrated = pool.submit(database.migrate)
        late = "wait_event_type = 'Lock' AND application_name = 'city' AND now() - query_start > interval '0.3 s'"
        waiting(f"= 1 AND EXISTS (SELECT FROM pg_stat_activity WHERE {late})")
    assert migrated.exception() is None
    with database.read() as session:
        assert session.execute(text("SHOW statement_timeout")).scalar() == "100ms"
    database.close()
