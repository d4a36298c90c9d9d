"""Who calls the API, and what they may do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from fastapi import Security
from fastapi.security import SecurityScopes
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sfumato.agents.keys import PREFIX, Keys
from sfumato.schemas.scope import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """``id`` names who it is in audit, usage and ownership (``key:ID``, ``sub@issuer``); ``cameras`` are ids and
    patterns; ``purpose`` is what the caller said that the calls are for."""

    id: str
    scopes: frozenset[Scope]
    cameras: tuple[str, ...]
    purpose: str

    def sees(self, camera: str) -> bool:
        """Whether a camera is one of the caller's."""
        return any(fnmatchcase(camera, pattern) for pattern in self.cameras)


def needs(*scopes: Scope) -> Any:
    """The dependency of an endpoint: the caller, who has all these scopes; else 401 or 403."""
    return Security(authorize, scopes=[scope.value for scope in scopes])


async def authorize(connection: HTTPConnection, wanted: SecurityScopes) -> Caller:
    caller = await authenticate(connection)
    missing = [scope for scope in wanted.scopes if scope not in caller.scopes]
    if missing:
        raise HTTPException(403, f"your key or token lacks the scope {', '.join(missing)}; ask an administrator for it")
    return caller


async def authenticate(connection: HTTPConnection) -> Caller:
    """The caller of a request or WebSocket; 401 where it says nothing valid about itself."""
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.startswith(PREFIX):
        keys: Keys = connection.app.state.keys
        key = await asyncio.to_thread(keys.find, credentials)
        if key is not None:
            scopes = frozenset(scope for scope in Scope if scope in key.scopes)
            return Caller(f"key:{key.id}", scopes, tuple(key.cameras), key.purpose)
    raise HTTPException(
        401,
        "wants a valid API key or access token: Authorization: Bearer …; `sfumato key create` makes a key",
        {"WWW-Authenticate": 'Bearer realm="sfumato"'},
    )
