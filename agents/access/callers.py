"""Who calls the API, and what they may do.

A caller shows an API key or an access token (``Authorization: Bearer …``; WebSockets of pages, which cannot set
headers, as the subprotocol ``bearer.KEY``), or the cookie of a session. :class:`~sfumato.agents.access.gate.Gate` looks
at it before anything of a request's body is read; endpoints say by :func:`needs` which scopes they want.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import Annotated, Any

from fastapi import Security
from fastapi.openapi import models
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sfumato.agents.access import sessions
from sfumato.agents.access.keys import PREFIX, Key, Keys
from sfumato.agents.access.limits import Limits
from sfumato.agents.access.sessions import SAFE, Sessions
from sfumato.agents.access.tokens import TokenError, Tokens, cameras, scopes, subject
from sfumato.schemas.scope import Scope

SUBPROTOCOL = "bearer."
"""In front of a key or token among a WebSocket's subprotocols."""


@dataclass(frozen=True, slots=True)
class Caller:
    """``id`` names who it is in audit, usage and ownership (``key:ID``, ``sub@issuer``); ``cameras`` are ids and
    patterns; ``purpose`` is what the caller said that the calls are for. ``rate``: requests a minute, None: as the
    settings say; ``bytes_a_day``, ``frames_a_day``: quotas, None: none. ``expires_at``: of a key, None: never."""

    id: str
    scopes: frozenset[Scope]
    cameras: tuple[str, ...]
    purpose: str
    rate: int | None = None
    bytes_a_day: int | None = None
    frames_a_day: int | None = None
    expires_at: datetime | None = None

    def sees(self, camera: str) -> bool:
        """Whether a camera is one of the caller's."""
        return any(fnmatchcase(camera, pattern) for pattern in self.cameras)

    @property
    def has_quota(self) -> bool:
        return self.bytes_a_day is not None or self.frames_a_day is not None

    def may_grant(self, cameras: str) -> bool:
        """Whether every camera of this pattern is one of the caller's."""
        return "*" in self.cameras or cameras in self.cameras or (not set("*?[") & set(cameras) and self.sees(cameras))


class _Scheme(SecurityBase):
    """A way to show who one is, for the OpenAPI document; :class:`Gate` does the looking."""

    def __init__(self, name: str, model: Any) -> None:
        self.scheme_name, self.model = name, model

    def __call__(self) -> None:
        return None


BEARER = _Scheme("bearer", models.HTTPBearer(description="An API key (`sfumato_…`) or an access token (JWT)."))
COOKIE = _Scheme(
    "session",
    models.APIKey.model_validate(
        {"in": "cookie", "name": sessions.SECURE_COOKIE, "description": "Set by `POST /v1/session`, for pages."}
    ),
)
OAUTH2 = _Scheme(
    "oauth2",
    models.OAuth2(
        description="Access tokens of the identity provider in SFUMATO_OIDC_ISSUER, whose token endpoint it is.",
        flows=models.OAuthFlows(
            clientCredentials=models.OAuthFlowClientCredentials(
                tokenUrl="https://identity-provider.invalid/token", scopes={scope.value: "" for scope in Scope}
            )
        ),
    ),
)


def needs(*scopes: Scope) -> Any:
    """The dependency of an endpoint: the caller, who has all these scopes; else 401 or 403."""
    return Security(authorize, scopes=[scope.value for scope in scopes])


async def authorize(
    connection: HTTPConnection,
    wanted: SecurityScopes,
    _bearer: Annotated[None, Security(BEARER)],
    _cookie: Annotated[None, Security(COOKIE)],
    _oauth2: Annotated[None, Security(OAUTH2)],
) -> Caller:
    caller: Caller | None = getattr(connection.state, "caller", None)
    if caller is None:  # the gate lets nobody else through to an endpoint that needs a caller
        raise unknown()
    missing = [scope for scope in wanted.scopes if scope not in caller.scopes]
    if missing:
        raise HTTPException(403, f"your key or token lacks the scope {', '.join(missing)}; ask an administrator for it")
    return caller


async def authenticate(connection: HTTPConnection) -> Caller:
    """The caller of a request or WebSocket; 401 where it says nothing valid about itself, 403 where a page of another
    site uses somebody's session, 429 where its address has shown too many wrong keys."""
    shown = _shown(connection)
    if shown is not None:
        return await _holder(connection, shown)
    token = sessions.token_of(connection)
    if token is None:
        raise unknown()
    found: Sessions = connection.app.state.sessions
    key = await _limited(connection, found.recall(token), found.find, token)
    if _may_change(connection) and not sessions.from_own_page(connection):
        raise HTTPException(403, "pages of another site may not use your session")
    return of_key(key)


async def _holder(connection: HTTPConnection, shown: str) -> Caller:
    """Whose key or access token it is."""
    if shown.startswith(PREFIX):
        keys: Keys = connection.app.state.keys
        return of_key(await _limited(connection, keys.recall(shown), keys.find, shown))
    tokens: Tokens = connection.app.state.tokens
    await _refuse_guessing(connection)
    try:
        claims = await tokens.verify(shown)
    except TokenError as error:
        await _failed(connection)
        raise unknown(str(error)) from None
    return of_claims(claims)


async def key_of(connection: HTTPConnection, text: str) -> Key:
    """The key of a secret that stands elsewhere than in the headers; else 401 or 429."""
    keys: Keys = connection.app.state.keys
    return await _limited(connection, keys.recall(text), keys.find, text)


async def _limited(connection: HTTPConnection, recalled: Key | None, find: Any, text: str) -> Key:
    """Look a secret up, unless it was a moment ago, or this address has shown too many wrong ones."""
    if recalled is not None:
        return recalled
    await _refuse_guessing(connection)
    key: Key | None = await asyncio.to_thread(find, text)
    if key is None:
        await _failed(connection)
        raise unknown()
    return key


async def _refuse_guessing(connection: HTTPConnection) -> None:
    limits: Limits = connection.app.state.limits
    left = await limits.failed_too_often(_network(connection))
    if left is not None:
        raise HTTPException(429, "too many wrong keys or tokens from this address; wait", left.headers())


async def _failed(connection: HTTPConnection) -> None:
    limits: Limits = connection.app.state.limits
    await limits.fail(_network(connection))


def of_key(key: Key) -> Caller:
    return Caller(
        id=f"key:{key.id}",
        scopes=frozenset(scope for scope in Scope if scope in key.scopes),
        cameras=tuple(key.cameras),
        purpose=key.purpose,
        rate=key.rate,
        bytes_a_day=key.bytes_a_day,
        frames_a_day=key.frames_a_day,
        expires_at=key.expires_at,
    )


def of_claims(claims: Mapping[str, Any]) -> Caller:
    """The caller of a verified access token; what it does not grant, the caller does not have."""
    purpose = claims.get("purpose")
    return Caller(
        id=subject(claims),
        scopes=scopes(claims),
        cameras=cameras(claims),
        purpose=purpose[:1000] if isinstance(purpose, str) and purpose.isprintable() else "",
    )


def unknown(why: str = "") -> HTTPException:
    """401, with what to do."""
    return HTTPException(
        401,
        f"{why + '; ' if why else ''}wants a valid API key or access token: Authorization: Bearer …; "
        "`sfumato key create` makes a key",
        {"WWW-Authenticate": 'Bearer realm="sfumato"'},
    )


def address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def whose(connection: HTTPConnection) -> str:
    """Whose request it is: its caller's, or of the network that it comes from where nobody has said who it is."""
    caller: Caller | None = getattr(connection.state, "caller", None)
    return _network(connection) if caller is None else caller.id


def _network(connection: HTTPConnection) -> str:
    """Whoever has one IPv6 address has the 2**64 of its network."""
    said = address(connection)
    try:
        return str(ip_network((said.partition("%")[0], 64), strict=False)) if ":" in said else said
    except ValueError:  # what a proxy made up
        return said


def subprotocol(connection: HTTPConnection) -> str | None:
    """What to agree to where a WebSocket offered subprotocols: one without a key in it, if there is one."""
    offered: list[str] = connection.scope.get("subprotocols", [])
    return next((each for each in offered if not each.startswith(SUBPROTOCOL)), offered[0] if offered else None)


def _shown(connection: HTTPConnection) -> str | None:
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    offered: list[str] = connection.scope.get("subprotocols", [])
    return next((each.removeprefix(SUBPROTOCOL) for each in offered if each.startswith(SUBPROTOCOL)), None)


def _may_change(connection: HTTPConnection) -> bool:
    """What a page of another site could make a browser send with the cookie, and which has an effect; a WebSocket
    can even be read by it."""
    return connection.scope["type"] == "websocket" or connection.scope["method"] not in SAFE
