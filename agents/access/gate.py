"""The gate before the API: who calls, how often, and whether a quota is left, before any of the body is read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from ipaddress import ip_address

from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.agents.access import callers
from sfumato.agents.database import AWAY
from sfumato.agents.web import problems

PUBLIC = frozenset({"/", "/openapi.json"})
"""Paths that want no caller: the viewer's page, which holds no data, and the description of the API;"""
PUBLIC_FOLDERS = ("/viewer/",)
"""folders of such;"""
PUBLIC_CALLS = frozenset({("POST", "/v1/session")})
"""calls that bring their key themselves;"""
HEALTH = frozenset({"/healthz", "/readyz"})
"""and paths that want none of whoever asks from this machine."""
UNLIMITED = frozenset({"/v1/session", "/v1/usage"})
"""Paths that answer although a daily quota is spent."""
RECHECK = 5.0
"""Seconds after which the caller of an open WebSocket is looked at again,"""
POLICY_VIOLATION = 1008
"""and the code with which it is closed once the key, token or session has ended."""
UNCHECKED = 60.0
"""Seconds for which it stays open although the database does not say."""


class Gate:
    """Puts the caller into the request's state, where :func:`~sfumato.agents.access.callers.needs` finds it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_public(scope):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        headers: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(headers)
            elif message["type"] == "websocket.accept" and message.get("subprotocol") is None:
                message["subprotocol"] = callers.subprotocol(connection)
            await send(message)

        try:
            connection.state.caller = caller = await callers.authenticate(connection)
            left = await scope["app"].state.limits.take(caller.id, caller.rate)
            headers = left.headers()
            if left.limited:
                raise HTTPException(429, f"more than {left.rate} requests a minute; wait as Retry-After says")
            if caller.has_quota and scope["path"] not in UNLIMITED:
                await asyncio.to_thread(scope["app"].state.usage.check, caller)
            scope["app"].state.underway.begin(caller.id)
        except HTTPException as error:
            answer = problems.response(error.status_code, str(error.detail), dict(error.headers or {}))
            await answer(scope, receive, send_with_headers)
            return
        except AWAY as error:
            await problems.away(error)(scope, receive, send_with_headers)
            return
        try:
            if scope["type"] == "http":
                await self._app(scope, receive, send_with_headers)
            else:
                await self._open(scope, receive, send_with_headers)
        finally:
            scope["app"].state.underway.end(caller.id)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket is open for as long as its caller may be there."""
        closed, watching = False, None

        async def send_while_open(message: Message) -> None:
            nonlocal watching
            if closed:
                raise OSError("closed by the gate")  # as where the client has gone
            await send(message)
            if message["type"] == "websocket.accept":
                watching = asyncio.create_task(watch())

        async def watch() -> None:
            nonlocal closed
            known = time.monotonic()
            while time.monotonic() - known <= UNCHECKED:
                with contextlib.suppress(SQLAlchemyError, TimeoutError):
                    async with asyncio.timeout(UNCHECKED):
                        if not await is_known(scope):
                            break
                    known = time.monotonic()
                await asyncio.sleep(RECHECK)
            closed = True
            reason = "your key, token or session has ended"
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})

        try:
            await self._app(scope, receive, send_while_open)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def is_known(scope: Scope) -> bool:
    """Whether the caller of a request that goes on may still be there."""
    try:
        await callers.authenticate(HTTPConnection(scope))
    except HTTPException as error:
        return error.status_code == 429  # of the address, not of this caller
    return True


def is_public(scope: Scope) -> bool:
    path = scope["path"]
    if scope["type"] == "websocket":
        return False
    if path in PUBLIC or path.startswith(PUBLIC_FOLDERS) or (scope["method"], path) in PUBLIC_CALLS:
        return True
    return path in HEALTH and _from_this_machine(scope)


def _from_this_machine(scope: Scope) -> bool:
    """What a proxy passes on comes from elsewhere."""
    connection = HTTPConnection(scope)
    if "x-forwarded-for" in connection.headers or "forwarded" in connection.headers:
        return False
    try:
        return ip_address(callers.address(connection)).is_loopback
    except ValueError:
        return False
