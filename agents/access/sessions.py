"""Sessions of people: a page that has shown an API key once holds a random token in a cookie instead.

Only the token's hash is kept. A session ends with its key, so revoking the key signs out.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import ForeignKey, LargeBinary, String, delete, select
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection
from starlette.responses import Response

from sfumato.agents.access.keys import REMEMBERED, Key, Keys
from sfumato.agents.access.recent import Recent
from sfumato.agents.database import Base, Database, Instant

LIFETIME = timedelta(hours=12)
COOKIE, SECURE_COOKIE = "sfumato", "__Host-sfumato"
"""The cookie's name over http and https; browsers take ``__Host-`` from this host over https alone."""
SAFE = ("GET", "HEAD", "OPTIONS")


class SignedIn(Base):
    """One session."""

    __tablename__ = "sessions"

    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(16), ForeignKey("keys.id"))
    expires_at: Mapped[datetime] = mapped_column(Instant)


class Sessions:
    """The sessions in the database. Thread-safe."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._found: Recent[bytes, tuple[Key, datetime]] = Recent(REMEMBERED)
        keys.on_revoking.append(self._found.clear)

    def begin(self, key: Key) -> tuple[str, datetime]:
        """The token of a new session, and when that ends: after 12 hours, or with the key."""
        token, now = secrets.token_urlsafe(32), datetime.now(UTC)
        ends = min(now + LIFETIME, key.expires_at or now + LIFETIME)
        with self._database.begin() as session:
            session.execute(delete(SignedIn).where(SignedIn.expires_at <= now))
            session.add(SignedIn(hash=_hash(token), key_id=key.id, expires_at=ends))
        return token, ends

    def recall(self, token: str) -> Key | None:
        """As :meth:`find`, of a session that was found a moment ago; asks no database."""
        return _valid(self._found.get(_hash(token)))

    def find(self, token: str) -> Key | None:
        """The key that the session was begun with, if both are valid now."""
        digest = _hash(token)
        wanted = select(Key, SignedIn.expires_at).join(SignedIn).where(SignedIn.hash == digest)
        with self._database.read() as session:
            row = session.execute(wanted).first()
        if row is None:
            return None
        key, ends = row
        self._found.put(digest, (key, ends))
        return _valid((key, ends))

    def end(self, token: str) -> None:
        with self._database.begin() as session:
            session.execute(delete(SignedIn).where(SignedIn.hash == _hash(token)))
        self._found.clear()


def _valid(found: tuple[Key, datetime] | None) -> Key | None:
    now = datetime.now(UTC)
    return found[0] if found is not None and found[0].valid(now) and found[1] > now else None


def token_of(connection: HTTPConnection) -> str | None:
    """The session's token that a request carries."""
    return connection.cookies.get(_name(connection))


def set_cookie(connection: HTTPConnection, response: Response, token: str, ends: datetime) -> None:
    secure = _is_secure(connection)
    response.set_cookie(
        _name(connection), token, expires=ends, path="/", secure=secure, httponly=True, samesite="strict"
    )


def delete_cookie(connection: HTTPConnection, response: Response) -> None:
    secure = _is_secure(connection)
    response.delete_cookie(_name(connection), path="/", secure=secure, httponly=True, samesite="strict")


def from_own_page(connection: HTTPConnection) -> bool:
    """Whether a browser says that a page of this host asks. Browsers send ``Sec-Fetch-Site`` over https and on
    localhost, and ``Origin`` with WebSockets and whatever may change something."""
    site, origin = connection.headers.get("sec-fetch-site"), connection.headers.get("origin")
    if origin is not None:
        return origin.partition("://")[2] == connection.headers.get("host") and site in (None, "same-origin")
    return site == "same-origin"


def _is_secure(connection: HTTPConnection) -> bool:
    return connection.scope["scheme"] in ("https", "wss")


def _name(connection: HTTPConnection) -> str:
    return SECURE_COOKIE if _is_secure(connection) else COOKIE


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
