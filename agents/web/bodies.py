"""Bodies that are too large (413), come too slowly (408), or are too many at once (503).

FastAPI's own limit answers in plain text and replaces other answers, so its ``max_body_size`` says per route what may
come, and this module sees to it.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.agents.access import callers
from sfumato.agents.web import problems
from sfumato.agents.web.endpoints import largest_body

LARGEST = 1024 * 1024
"""Bytes of a body, where its route states no ``max_body_size``."""
SLOWEST = 1024
"""Bytes a second at which a body must come, beyond ``body_timeout``."""
STREAMED = 1_000_000_000
"""Bytes from which on a route does not hold a body in memory, but writes it somewhere as it comes."""


class TooSlowError(HTTPException):
    """The body stopped, or dribbles."""

    def __init__(self) -> None:
        super().__init__(408, "the request's body came too slowly; send it again", {"Connection": "close"})


class Held:
    """How much of bodies is in memory, and whose: 503 beyond ``most`` bytes in all, or half of it for one caller, or
    for one address that is not known. All methods belong to one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._by_whom: dict[str, int] = {}

    def take(self, whose: str, size: int) -> None:
        held = self._by_whom.get(whose, 0) + size
        if self._total + size > self._most or held > self._most // 2:
            raise HTTPException(503, "too many bodies come at once; try again", {"Retry-After": "5"})
        self._total += size
        self._by_whom[whose] = held

    def give(self, whose: str, size: int) -> None:
        self._total -= size
        self._by_whom[whose] = self._by_whom.get(whose, 0) - size
        if not self._by_whom[whose]:
            del self._by_whom[whose]


class Bodies:
    """Waits ``timeout`` seconds for the next part of a body at most, and in all no longer than that and a second for
    each KiB that came. ``most``: bytes of bodies in memory, of all requests together; slow ones would fill it."""

    def __init__(self, app: ASGIApp, timeout: float, most: int) -> None:
        self._app = app
        self._timeout = timeout
        self._held = Held(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        largest, whose = largest_body(scope, LARGEST), callers.whose(HTTPConnection(scope))
        body = _Body(receive, largest, self._timeout, self._held if largest <= STREAMED else None, whose)
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > body.largest:
            error = too_large(body.largest)
            await problems.response(error.status_code, error.detail, dict(error.headers or {}))(scope, receive, send)
            return
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()


class _Body:
    def __init__(self, receive: Receive, largest: int, timeout: float, held: Held | None, whose: str) -> None:
        self.largest = largest
        self._held, self._whose, self._taken = held, whose, 0
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
            raise TooSlowError from None
        size = len(message.get("body", b""))
        self._size += size
        if self._size > self.largest:
            raise too_large(self.largest)
        if self._held is not None and size:
            self._held.take(self._whose, size)
            self._taken += size
        self._left += size / SLOWEST - (time.monotonic() - began)
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def release(self) -> None:
        """The endpoint has ended, and with it what it held."""
        if self._held is not None and self._taken:
            self._held.give(self._whose, self._taken)


def too_large(largest: int) -> HTTPException:
    return HTTPException(413, f"the body may hold {largest} bytes here; send less", {"Connection": "close"})
