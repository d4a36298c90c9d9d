"""Bodies that are too large (413) or come too slowly (408).

FastAPI's own limit answers in plain text and replaces other answers, so its ``max_body_size`` says per route what may
come, and this module sees to it.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.agents.web import problems
from sfumato.agents.web.endpoints import largest_body

LARGEST = 1024 * 1024
"""Bytes of a body, where its route states no ``max_body_size``."""
SLOWEST = 1024
"""Bytes a second at which a body must come, beyond ``body_timeout``."""


class Bodies:
    """Waits ``timeout`` seconds for the next part of a body at most, and in all no longer than that and a second for
    each KiB that came."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, largest_body(scope, LARGEST), self._timeout)
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > body.largest:
            error = too_large(body.largest)
            await problems.response(error.status_code, error.detail, dict(error.headers or {}))(scope, receive, send)
            return
        await self._app(scope, body.receive, send)


class _Body:
    def __init__(self, receive: Receive, largest: int, timeout: float) -> None:
        self.largest = largest
        self._receive = receive
        self._timeout = self._left = timeout
        self._size = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the client's leaving
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(self._left, self._timeout)):
                message = await self._receive()
        except TimeoutError:
            detail = "the request's body came too slowly; send it again"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        size = len(message.get("body", b""))
        self._size += size
        if self._size > self.largest:
            raise too_large(self.largest)
        self._left += size / SLOWEST - (time.monotonic() - began)
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def too_large(largest: int) -> HTTPException:
    return HTTPException(413, f"the body may hold {largest} bytes here; send less", {"Connection": "close"})
