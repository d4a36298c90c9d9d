"""API keys: made, listed and revoked by ``sfumato key`` and the API; only their hash is kept.

A key is ``sfumato_ID_SECRET``: the id is visible everywhere, the secret has 256 random bits, so that a plain SHA-256
of it is safe to keep (it cannot be guessed, unlike a password).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, LargeBinary, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from sfumato.agents.access.recent import Recent
from sfumato.agents.database import Base, Database, Instant
from sfumato.schemas.scope import ROLES, Role, Scope

PREFIX = "sfumato_"
REMEMBERED = 2.0
"""Seconds for which a key that was found is not looked up again: how long one that another process has revoked may
still open."""
ADVISORY_LOCK = 7364757
"""PostgreSQL's lock under which the first key is made."""


class Key(Base):
    """``cameras``: ids and patterns of cameras that the key opens. ``purpose``: what its calls are for; audited.
    ``rate``: requests a minute, None: as the settings say; ``bytes_a_day``, ``frames_a_day``: None: no quota.
    ``made_by``: the caller that made it, or ``console``."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    cameras: Mapped[list[str]] = mapped_column(JSON)
    purpose: Mapped[str] = mapped_column(String(1000))
    rate: Mapped[int | None]
    bytes_a_day: Mapped[int | None] = mapped_column(BigInteger)
    frames_a_day: Mapped[int | None] = mapped_column(BigInteger)
    made_by: Mapped[str] = mapped_column(String(300))
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    used_at: Mapped[datetime | None] = mapped_column(Instant)

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


@dataclass(frozen=True, slots=True)
class NewKey:
    """``secret`` is shown once and never again."""

    key: Key
    secret: str


class Keys:
    """The keys in the database. Thread-safe. ``on_revoking``: what forgets keys that were found a moment ago."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: Recent[bytes, Key] = Recent(REMEMBERED)
        self.on_revoking: list[Callable[[], None]] = [self._found.clear]

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        cameras: Iterable[str] = ("*",),
        purpose: str,
        expires_at: datetime | None = None,
        rate: int | None = None,
        bytes_a_day: int | None = None,
        frames_a_day: int | None = None,
        made_by: str = "console",
    ) -> NewKey:
        new = _new(name, scopes, cameras, purpose, made_by)
        new.key.expires_at, new.key.rate = expires_at, rate
        new.key.bytes_a_day, new.key.frames_a_day = bytes_a_day, frames_a_day
        with self._database.begin() as session:
            session.add(new.key)
        return new

    def create_first(self) -> NewKey | None:
        """An administrator's key where there has never been a key, also when several processes start at once."""
        with self._database.begin() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            if not _empty(session):
                return None
            new = _new("first", ROLES[Role.ADMIN], ["*"], "administration", "first start")
            session.add(new.key)
        return new

    def recall(self, text: str) -> Key | None:
        """The key of this secret if it was found a moment ago; asks no database."""
        key = self._found.get(_hash(text))
        return key if key is not None and key.valid(datetime.now(UTC)) else None

    def find(self, text: str) -> Key | None:
        """The key of this secret, if it is valid now."""
        digest = _hash(text)
        key = self._found.get(digest)
        if key is None:
            with self._database.read() as session:
                key = session.scalar(select(Key).where(Key.hash == digest))
            if key is not None:
                self._found.put(digest, key)
        return key if key is not None and key.valid(datetime.now(UTC)) else None

    def get(self, id: str) -> Key | None:
        """Any key by its id, also one that is no longer valid."""
        with self._database.read() as session:
            return session.get(Key, id)

    def list(self, after: str = "", limit: int | None = None) -> list[Key]:
        """Every key, in the order of their ids; ``after``: those behind this id."""
        with self._database.read() as session:
            return [*session.scalars(select(Key).where(Key.id > after).order_by(Key.id).limit(limit))]

    def revoke(self, id: str) -> bool:
        """The key and its sessions open nothing from now on; False where there is none. Twice changes nothing."""
        with self._database.begin() as session:
            key = session.get(Key, id)
            if key is None:
                return False
            key.revoked_at = key.revoked_at or datetime.now(UTC)
        for forget in self.on_revoking:
            forget()
        return True

    def empty(self) -> bool:
        """Whether there has never been a key."""
        with self._database.read() as session:
            return _empty(session)


def _new(name: str, scopes: Iterable[Scope], cameras: Iterable[str], purpose: str, made_by: str) -> NewKey:
    id = secrets.token_hex(6)
    text = f"{PREFIX}{id}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=id,
        hash=_hash(text),
        name=name,
        scopes=sorted(scopes),
        cameras=[*cameras],
        purpose=purpose,
        made_by=made_by,
        created_at=datetime.now(UTC),
    )
    return NewKey(key, text)


def _empty(session: Session) -> bool:
    return session.scalar(select(Key.id).limit(1)) is None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
