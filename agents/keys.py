"""API keys: made, listed and revoked by ``sfumato key`` and the API; only their hash is kept.

A key is ``sfumato_ID_SECRET``: the id is visible everywhere, the secret has 256 random bits, so that a plain SHA-256
of it is safe to keep (it cannot be guessed, unlike a password).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import JSON, LargeBinary, String, select
from sqlalchemy.orm import Mapped, mapped_column

from sfumato.agents.database import Base, Database, Instant
from sfumato.schemas.scope import Scope

PREFIX = "sfumato_"


class Key(Base):
    """``cameras``: ids and patterns of cameras that the key opens. ``purpose``: what its calls are for; audited."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    cameras: Mapped[list[str]] = mapped_column(JSON)
    purpose: Mapped[str] = mapped_column(String(1000))
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    used_at: Mapped[datetime | None] = mapped_column(Instant)


@dataclass(frozen=True, slots=True)
class NewKey:
    """``secret`` is shown once and never again."""

    key: Key
    secret: str


class Keys:
    """The keys in the database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        cameras: Iterable[str] = ("*",),
        purpose: str,
        expires_at: datetime | None = None,
    ) -> NewKey:
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"{PREFIX}{id}_{secret}"
        key = Key(
            id=id,
            hash=_hash(text),
            name=name,
            scopes=sorted(scopes),
            cameras=list(cameras),
            purpose=purpose,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
        with self._database.begin() as session:
            session.add(key)
        return NewKey(key, text)

    def find(self, text: str) -> Key | None:
        """The key of this secret, if it is valid now."""
        with self._database.begin() as session:
            key = session.scalar(select(Key).where(Key.hash == _hash(text)))
            now = datetime.now(UTC)
            if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
                return None
            key.used_at = now
            return key

    def empty(self) -> bool:
        """Whether there has never been a key."""
        with self._database.begin() as session:
            return session.scalar(select(Key.id).limit(1)) is None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
