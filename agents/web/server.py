"""uvicorn as the bridge runs it: it says goodbye to viewers, and does not wait for ever for a request's headers."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sfumato.agents.live import Live
from sfumato.agents.settings import Settings
from sfumato.agents.web import problems
from sfumato.agents.web.tls import Certificate

log = logging.getLogger(__name__)

LARGEST_HEADERS = 64 * 1024
LINGER = 5.0
"""Seconds for which a client that was refused may go on sending."""


class Server(uvicorn.Server):
    """uvicorn's server, which before it ends tells the viewers that the bridge goes away."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port, *_ = listener.getsockname()
            log.info("viewer: %s://%s:%d/", scheme, f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)


def config(app: Any, settings: Settings, certificate: Certificate | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.bridge_host,
        port=settings.bridge_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        http=_patient_for(settings.body_timeout),
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # JPEGs are compressed already
        ws_max_size=1024,  # viewers have nothing to say
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="*" if settings.behind_proxy else None,
        ssl_certfile=certificate.certificate if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )


def _patient_for(seconds: float) -> type[H11Protocol]:
    class Protocol(H11Protocol):
        """Closes a connection on which no whole header of a request came within so many seconds; uvicorn itself
        times nothing but the pause between two requests. Answers what is no HTTP so that the answer arrives."""

        _waiting: asyncio.TimerHandle | None = None
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()
            elif self._waiting is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Closed with bytes unread, the connection would be reset, and the answer might go with it."""
            answer = problems.response(400, "this is no HTTP request; mind your URL and your headers")
            headers = [*answer.raw_headers, (b"connection", b"close")]
            begin = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (begin, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self._refused = True
            if self.transport.can_write_eof():
                self.transport.write_eof()
                self.loop.call_later(LINGER, self.transport.close)
            else:  # TLS
                self.transport.close()

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

    return Protocol
