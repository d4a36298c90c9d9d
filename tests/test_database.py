"""The database: migrations make what the models declare, on SQLite and PostgreSQL; keys are kept as hashes only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgresql import postgresql as server
from sqlalchemy.exc import OperationalError

from sfumato.agents import postgresql
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


def test_a_server_that_stands_still_is_given_up_and_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(postgresql.Connection, "answer_timeout", 0.5)
    monkeypatch.setattr(postgresql, "CONNECT_TIMEOUT", 2)  # libpq's least
    with server() as postgres:
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
