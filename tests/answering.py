"""A server whose answers a test writes, and a resolver that lies."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import trustme

from sfumato.agents.files.outbound import Outbound
from sfumato.agents.settings import Settings

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]
LOOPBACK = ["127.0.0.0/8"]


class Server:
    """An HTTPS (or HTTP) server on loopback whose answers a test writes; it remembers who called."""

    def __init__(self, certificate: trustme.LeafCert | None, address: str = "127.0.0.1") -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.names: list[str | None] = []
        self.answers: dict[str, Answer] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                server.answers.get(self.path, plain(b"hello"))(self)

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.sni_callback = lambda connection, name, _: self.names.append(name)
            certificate.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)


def plain(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(to: str, status: int = 302) -> Answer:
    return plain(b"", status, Location=to)


def resolver(*answers: list[str] | str, asked: list[str] | None = None) -> Callable[..., list[tuple[object, ...]]]:
    """Answers one after another, the last one for ever; port 0 stands for any."""
    left = [[answer] if isinstance(answer, str) else answer for answer in answers]

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if asked is not None:
            asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


def outbound(ca: Path | None = None, *, allow: list[str] = LOOPBACK, **options: object) -> Outbound:
    resolve = options.pop("resolve", socket.getaddrinfo)
    settings = Settings(outbound_allow=allow, outbound_ca=ca, **options)  # type: ignore[arg-type]
    return Outbound(settings, resolve)  # type: ignore[arg-type]
