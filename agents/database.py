"""The database: API keys, uploads, jobs, usage. SQLite by default, PostgreSQL where configured.

Each table is declared in the module that owns its rows; each change of one is a migration under ``migrations/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Dialect, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

from sfumato.agents import postgresql
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT = 30_000
"""Longest wait of SQLite for another process's transaction, in milliseconds."""
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    f"busy_timeout={BUSY_TIMEOUT}",
)

AWAY = (OperationalError, InterfaceError, PoolError)
"""What is raised while the database does not answer."""


class DatabaseError(Fault, RuntimeError):
    """The database cannot be used; the text names the setting."""


class Base(DeclarativeBase):
    """Of every table."""


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=value.tzinfo or UTC) if value is not None else None


class Database:
    """Thread-safe; several processes may use one database."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`DatabaseError` where SFUMATO_DATABASE_URL is not valid."""
        self.url = settings.database_url or f"sqlite:///{settings.state_dir / 'sfumato.db'}"
        try:
            url = make_url(self.url)
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            if url.drivername not in ("sqlite", "postgresql+psycopg"):
                raise DatabaseError(
                    "SFUMATO_DATABASE_URL: wants sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
                )
            if url.drivername == "sqlite" and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.engine = create_engine(url, pool_pre_ping=url.drivername != "sqlite")
        except ArgumentError:
            raise DatabaseError("SFUMATO_DATABASE_URL: not a database URL") from None
        if url.drivername == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            postgresql.bound(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        reading = self.engine.execution_options(reading=True, postgresql_readonly=True)
        self._readings = sessionmaker(reading, expire_on_commit=False)

    def migrate(self) -> None:
        """Bring the tables up to date; safe where several processes start at once."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("path_separator", "os")
        with self.engine.begin() as connection, ExitStack() as stack:
            if connection.dialect.name == "postgresql":
                stack.enter_context(postgresql.patient(connection))  # others may migrate, and tables may be large
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7364756)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back where an exception leaves it. Rows stay readable after."""
        with self._sessions.begin() as session:
            yield session

    def scrub(self) -> None:
        """Empty SQLite's log, which still holds what rows were before they were deleted."""
        if self.engine.dialect.name == "sqlite":
            connection = self.engine.raw_connection()  # a transaction would hinder it
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads: on SQLite it neither waits for writers nor holds them up."""
        with self._readings.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin as told below
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    """A reader that turned writer would fail at once instead of waiting, so who may write says so from the start."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
