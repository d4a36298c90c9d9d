"""The audit of the API: each call becomes a line of JSON in the log and a message on the topic ``calls``.

The answer does not wait for Kafka. What Kafka does not take is in the log, and counted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.agents import metrics
from sfumato.agents.access import gate
from sfumato.agents.access.callers import Caller
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.web.endpoints import template
from sfumato.schemas.call import Call
from sfumato.schemas.topics import CALLS

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Records that may wait for Kafka; those beyond it are in the log alone."""
SWITCHING = 101
"""The status of a WebSocket that opened."""


class Calls:
    """Publishes records. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(settings, client_id="sfumato-calls", idempotent=False)
        self._waiting = 0
        self._lock = threading.Lock()

    def record(self, call: Call) -> None:
        log.info("%s", call.model_dump_json())
        metrics.API_CALLS.labels(call.status).inc()
        with self._lock:
            full = self._waiting >= MOST_WAITING
            self._waiting += not full
        if full:
            metrics.CALLS_UNPUBLISHED.inc()
            return
        try:
            self._producer.send(CALLS, call.to_message(), self._delivered)
        except (BufferError, KafkaException) as error:
            self._delivered(error)

    def close(self, timeout: float = 5.0) -> None:
        """Wait up to ``timeout`` seconds for what is on its way; what is left then was in the log."""
        metrics.CALLS_UNPUBLISHED.inc(self._producer.close(timeout))

    def _delivered(self, error: KafkaError | Exception | None) -> None:
        with self._lock:
            self._waiting -= 1
        if error is not None:
            metrics.CALLS_UNPUBLISHED.inc()


class CallAudit:
    """Records the calls of the API, and counts what their callers use."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not is_audited(scope):
            await self._app(scope, receive, send)
            return
        taking = _Taking(scope, receive, send)
        try:
            await self._app(scope, taking.receive, taking.send)
        finally:
            taking.end()


class _Taking:
    """One call while it takes place."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._connection = HTTPConnection(scope)
        self._id, self._at, self._began = uuid.uuid4().hex, datetime.now(UTC), time.monotonic()
        self._bytes_in = self._bytes_out = 0
        self._status = 500  # what a server answers whose endpoint failed

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        self._bytes_in += size
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
        elif kind == "websocket.accept":
            self._status = SWITCHING
            self._scope["app"].state.calls.record(self._call())
        elif kind == "websocket.close" and self._status != SWITCHING:
            self._status = 403  # how the server answers a WebSocket that is closed before it opened
        await self._send(message)
        size = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        self._bytes_out += size
        if kind == "websocket.send":
            self._used(bytes_out=size)

    def end(self) -> None:
        opened = self._status == SWITCHING
        self._used(requests=1, bytes_in=self._bytes_in, bytes_out=0 if opened else self._bytes_out)
        duration = round((time.monotonic() - self._began) * 1000, 3)
        ended = {"duration_ms": duration, "bytes_in": self._bytes_in, "bytes_out": self._bytes_out}
        self._scope["app"].state.calls.record(self._call().model_copy(update=ended))

    def _used(self, **counts: int) -> None:
        caller = self._caller
        if caller is not None:
            self._scope["app"].state.usage.add(caller.id, **counts)

    @property
    def _caller(self) -> Caller | None:
        return getattr(self._connection.state, "caller", None)

    def _call(self) -> Call:
        caller = self._caller
        said = getattr(self._connection.state, "request_id", None) or self._connection.headers.get("x-request-id")
        return Call(
            id=self._id,
            at=self._at,
            caller=caller.id[:1000] if caller else None,
            purpose=caller.purpose if caller else None,
            method="WS" if self._scope["type"] == "websocket" else self._scope["method"][:20],
            route=template(self._scope),
            path=self._scope["path"][:500],
            status=self._status,
            request_id=said[:200] if said else None,
        )


def is_audited(scope: Scope) -> bool:
    """The API's calls: all but the page, its files and the health of the process."""
    path = scope["path"]
    return path not in gate.PUBLIC | gate.HEALTH and not path.startswith(gate.PUBLIC_FOLDERS)


def log_lines() -> None:
    """From now on records go to stderr as lines that hold JSON and nothing else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.propagate = False
