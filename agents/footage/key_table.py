"""The key store ``database``: a row per camera and hour, its key wrapped by a master key from a file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import LargeBinary, String, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sfumato.agents.database import Base, Database, Instant
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.footage.stores import KEY, KeyGoneError, KeyHour, KeyMissingError, KeyStoreError, ended, named
from sfumato.agents.settings import Settings


class KeyRow(Base):
    """The wrapped key of an hour; after it was shredded, when that was."""

    __tablename__ = "footage_keys"

    camera: Mapped[str] = mapped_column(String(64), primary_key=True)
    hour: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    master: Mapped[str] = mapped_column(String(32))
    wrapped: Mapped[bytes | None] = mapped_column(LargeBinary)
    shredded_at: Mapped[datetime | None] = mapped_column(Instant)


class KeyTable:
    """The database's backups and logs hold wrapped keys, which open with the master key only."""

    def __init__(self, database: Database, master: MasterKeys) -> None:
        self._database = database
        self._master = master

    @classmethod
    def open(cls, settings: Settings) -> KeyTable:
        database = Database(settings)
        try:
            with _told():
                database.migrate()
                return cls(database, MasterKeys(settings))
        except BaseException:
            database.close()
            raise

    def key(self, camera: str, hour: datetime) -> bytes:
        with _told(), self._database.read() as session:
            key = self._find(session, camera, hour)
        if key is None:
            raise KeyMissingError(f"there is no key of {camera}, {named(hour)}")
        return key

    def make(self, camera: str, hour: datetime) -> bytes:
        with _told():
            with self._database.read() as session:
                key = self._find(session, camera, hour)
            if key is not None:
                return key
            master, wrapped = self._master.wrap(os.urandom(KEY), _label(camera, hour))
            try:
                with self._database.begin() as session:
                    session.add(KeyRow(camera=camera, hour=hour, master=master, wrapped=wrapped))
            except IntegrityError:
                pass  # another process was first, and its key is read below
        return self.key(camera, hour)

    def shred(self, camera: str, before: datetime, keep: Collection[datetime] = ()) -> list[datetime]:
        """SQLite overwrites what it deletes; PostgreSQL keeps the old row until it is vacuumed, and both their
        backups."""
        now = datetime.now(UTC)
        living = select(KeyRow).where(KeyRow.camera == camera, KeyRow.wrapped.is_not(None)).order_by(KeyRow.hour)
        with _told():
            with self._database.begin() as session:
                found = session.scalars(living.with_for_update())
                rows = [row for row in found if ended(row.hour, before) and row.hour not in keep]
                for row in rows:
                    row.wrapped, row.shredded_at = None, now
            if rows:
                self._database.scrub()
        return [row.hour for row in rows]

    def hours(self, camera: str) -> list[KeyHour]:
        with _told(), self._database.read() as session:
            rows = session.scalars(select(KeyRow).where(KeyRow.camera == camera).order_by(KeyRow.hour))
            return [KeyHour(row.hour, row.shredded_at) for row in rows]

    def cameras(self) -> list[str]:
        with _told(), self._database.read() as session:
            return list(session.scalars(select(KeyRow.camera).distinct().order_by(KeyRow.camera)))

    def close(self) -> None:
        self._database.close()

    def _find(self, session: Session, camera: str, hour: datetime) -> bytes | None:
        row = session.get(KeyRow, (camera, hour))
        if row is None:
            return None
        if row.wrapped is None:
            raise KeyGoneError(camera, hour, row.shredded_at or hour)
        return self._master.unwrap(row.master, row.wrapped, _label(camera, hour))


def _label(camera: str, hour: datetime) -> str:
    """What a wrapped key is for; no upload is named so."""
    return f"footage/{camera}/{named(hour)}"


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise KeyStoreError(f"SFUMATO_KEYS_STORE: the database does not answer: {type(error).__name__}") from None
    except OSError as error:  # SealError among them
        raise KeyStoreError(str(error)) from None
