"""Slow bodies: a request whose body does not come is ended (408). How large a body may be, FastAPI checks per route."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 1024 * 1024
"""Bytes of a body, where a route states no other ``max_body_size``; beyond it 413."""
SLOWEST = 1024
"""Bytes a second at which a body must come, beyond ``body_timeout``."""


class BodyTimeout:
    """Waits ``timeout`` seconds for the next part of a body at most, and in all no longer than that and a second for
    each KiB that came."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left, complete = self._timeout, False

        async def receive_in_time() -> Message:
            nonlocal left, complete
            if complete:  # what comes now is the client's leaving
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(min(left, self._timeout)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, "the request's body came too slowly; send it again", {"Connection": "close"}
                ) from None
            left += len(message.get("body", b"")) / SLOWEST - (time.monotonic() - began)
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)
