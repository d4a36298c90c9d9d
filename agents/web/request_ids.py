"""Each request's id: taken from ``X-Request-Id`` or made, answered in the same header, and in every line of the log."""

from __future__ import annotations

import logging
import re
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(request)s%(message)s"


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that this task answers. ``accept``: its header."""

    id: str = ""
    accept: str = ""


NOBODY = Asked()
current: ContextVar[Asked] = ContextVar("request", default=NOBODY)


class RequestFilter(logging.Filter):
    """Gives log records the attribute ``request``: ``[id] ``, or nothing outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        id = current.get().id
        record.request = f"[{id}] " if id else ""
        return True


class RequestIds:
    """ASGI middleware; the outermost, so that what the others answer has an id, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        given = next((value for name, value in headers if name == b"x-request-id"), b"")
        id = given.decode() if WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
        accept = b",".join(value for name, value in headers if name == b"accept").decode("latin-1")
        current.set(Asked(id, accept))  # each request is a task of its own

        async def answer(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*own, (b"x-request-id", id.encode())]}
            await send(message)

        await self.app(scope, receive, answer)
