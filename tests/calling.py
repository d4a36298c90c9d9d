"""Keys for the tests of the API."""

from __future__ import annotations

from collections.abc import Iterable

from sfumato.agents.database import Database
from sfumato.agents.keys import Keys
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
