"""Calls from here to addresses that callers name: source URLs, webhooks, key sets. A caller must not make this server
fetch what only this server can reach (SSRF, https://owasp.org/www-community/attacks/Server_Side_Request_Forgery).

A host is resolved once per connection, all its addresses are checked, and the connection goes to one of those checked:
what the name resolves to a moment later (DNS rebinding) does not matter. Redirects are followed by hand, each checked
anew. Proxies of the environment are not used, since they would resolve names themselves.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from sfumato.agents.settings import Settings, SettingsError

logging.getLogger("httpx").setLevel(logging.WARNING)
"""It logs each URL, and URLs of sources, webhooks and buckets hold tokens and signatures."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[..., list[tuple[Any, ...]]]

LONGEST = 2048
"""Characters of a URL."""
PATIENCE = 15.0
"""Seconds for a connection, and without a byte."""
GRACE = 30.0
"""Seconds before a download may be too slow."""
RESOLVING = 2.0
"""Seconds that a request waits for names: a caller's own name server answers as slowly as it likes, and with its usual
rate a key must not hold all threads."""
REDIRECTS = 5
ATTEMPTS = 4
"""Of a host's addresses, so many are tried."""
_RESOLVERS = ThreadPoolExecutor(4, thread_name_prefix="resolver")
UNICAST = ipaddress.IPv6Network("2000::/3")
"""Of IPv6 only this is given out (IANA)."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052; holds an IPv4 address in its last 32 bits."""
REFUSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",  # 6to4 relays
        "2001::/32",  # Teredo, and below 6to4: IPv4 addresses in disguise
        "2002::/16",
        "2001:db8::/32",  # documentation
        "3fff::/20",
        "5f00::/16",  # segment routing
    )
)
"""Beside what Python's ipaddress knows not to be global."""
PRIVATE = "its host is on a private network; an operator may allow it, or its network, in SFUMATO_OUTBOUND_ALLOW"
REDIRECTED = frozenset({301, 302, 303, 307, 308})


class OutboundError(Exception):
    """A URL was not, or could not be, called; the text says why, and never what was answered."""


class RefusedError(OutboundError):
    """It may not be called; trying again changes nothing."""


class FailedError(OutboundError):
    """It did not answer as it should; it may later."""


class Outbound:
    """Calls what may be called by SFUMATO_OUTBOUND_ALLOW, _HTTP and _CA. Thread-safe, without a state."""

    def __init__(self, settings: Settings, resolve: Resolve = socket.getaddrinfo) -> None:
        """Raises :class:`SettingsError`."""
        self._resolve = resolve
        self._schemes = ("https", "http") if settings.outbound_http else ("https",)
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in settings.outbound_allow:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?", entry.lower()):
                    raise SettingsError(
                        f"SFUMATO_OUTBOUND_ALLOW: {entry!r} is no host name, address or network"
                    ) from None
                self._hosts.add(entry.lower())
        self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.outbound_ca is not None:
            try:
                self._tls.load_verify_locations(settings.outbound_ca)
            except (OSError, ssl.SSLError):
                raise SettingsError(f"SFUMATO_OUTBOUND_CA: {settings.outbound_ca} is no PEM file") from None

    def check(self, url: str, seconds: float = RESOLVING) -> httpx.URL:
        """Say early whether a URL may be called; calling it checks again. Raises :class:`RefusedError`, or
        :class:`FailedError` where its host does not resolve. A host that is not resolved within so many seconds is
        left to the call."""
        checked = self._form(url)
        asked = _RESOLVERS.submit(self.addresses, checked.raw_host.decode(), checked.port or 443)
        try:
            asked.result(max(0.0, seconds))
        except TimeoutError:
            asked.cancel()
        return checked

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        seconds: float = 60.0,
        redirects: int = REDIRECTS,
    ) -> Iterator[httpx.Response]:
        """The answer, whatever its status; its body is to be read by :func:`body`. ``seconds``: for all of it.
        Redirects are followed for GET only, and without Authorization to another origin. Raises OutboundError."""
        said = {"User-Agent": "sfumato", "Accept-Encoding": "identity", **(headers or {})}
        transport = _Pinned(self, self._tls, time.monotonic() + seconds)
        with (
            _failing(),
            httpx.Client(transport=transport, trust_env=False, timeout=PATIENCE, follow_redirects=False) as client,
        ):
            place = self._form(url)
            for _ in range(redirects + 1):
                request = client.build_request(method, place, headers=said, content=content)
                response = client.send(request, stream=True)
                if response.status_code not in REDIRECTED or "location" not in response.headers:
                    try:
                        yield response
                    finally:
                        response.close()
                    return
                response.close()
                if method != "GET":
                    raise RefusedError("it answers with a redirect; give the URL where that leads")
                said, place = self._redirected(said, place, response.headers["location"])
            raise RefusedError(f"more than {redirects} redirects")

    def fetch(self, url: str, *, most: int, seconds: float = 60.0, headers: dict[str, str] | None = None) -> bytes:
        """What a GET answers, of at most ``most`` bytes. Raises :class:`OutboundError`, also where the status is not
        200."""
        return b"".join(self.download(url, most=most, seconds=seconds, headers=headers))

    def download(
        self, url: str, *, most: int, seconds: float, headers: dict[str, str] | None = None, slowest: float = 0.0
    ) -> Iterator[bytes]:
        """As :meth:`fetch`, in pieces and constant memory. ``slowest``: bytes a second, from the first :data:`GRACE`
        seconds on; what comes more slowly is ended."""
        began, count = time.monotonic(), 0
        with self.stream("GET", url, headers=headers, seconds=seconds) as response:
            if response.status_code != 200:
                raise FailedError(f"it answers with status {response.status_code}, not 200")
            for chunk in body(response, most):
                count += len(chunk)
                if count < slowest * (time.monotonic() - began - GRACE):
                    raise FailedError(f"it sends less than {slowest:.0f} bytes a second")
                yield chunk

    def addresses(self, host: str, port: int) -> list[str]:
        """Those of a host, each of which may be called; if one may not, none is. Raises OutboundError."""
        try:
            found = {info[4][0]: None for info in self._resolve(host, port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            raise FailedError("its host does not resolve") from None
        for text in found:
            if not self._may(host.lower().rstrip("."), ipaddress.ip_address(text)):
                raise RefusedError(PRIVATE)
        if not found:
            raise FailedError("its host does not resolve")
        return list(found)[:ATTEMPTS]

    def _may(self, host: str, address: Address) -> bool:
        plain = _plain(address)
        if public(address) or any(plain in network for network in self._networks):
            return True
        strange = plain.is_link_local or plain.is_multicast or plain.is_unspecified
        return host in self._hosts and not strange

    def _form(self, text: str) -> httpx.URL:
        """The URL, if its form is allowed; one parser reads it, here and for the connection."""
        if len(text) > LONGEST or re.search(r"[\x00-\x20\x7f-\xa0\\]", text):
            raise RefusedError(f"wants a URL of at most {LONGEST} characters, without spaces and backslashes")
        try:
            url = httpx.URL(text)
            host = url.raw_host.decode()
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
            raise RefusedError("is not a URL") from None
        if url.scheme not in self._schemes:
            also = "" if "http" in self._schemes else " (http:// only where SFUMATO_OUTBOUND_HTTP allows it)"
            raise RefusedError(f"wants https://{also}")
        if url.userinfo:
            raise RefusedError("holds a user name or password; give it without")
        if not _named(host) or (url.port is not None and not 0 < url.port < 65_536):
            raise RefusedError("wants a host name, or an address as 192.0.2.1 or [2001:db8::1]")
        return url

    def _redirected(self, headers: dict[str, str], place: httpx.URL, location: str) -> tuple[dict[str, str], httpx.URL]:
        try:
            target = self._form(str(place.join(location)))
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise RefusedError("it redirects to what is not a URL") from None
        except RefusedError as error:
            raise RefusedError(f"it redirects to a URL that is not allowed: {error}") from None
        origin = (place.scheme, place.raw_host, place.port)
        if (target.scheme, target.raw_host, target.port) != origin:
            secret = {"authorization", "cookie"}
            headers = {name: value for name, value in headers.items() if name.lower() not in secret}
        return headers, target


def public(address: Address) -> bool:
    """Whether anybody on the internet may have this address, by IANA's registries of special-purpose addresses."""
    plain = _plain(address)
    if any(plain in network for network in REFUSED) or plain.is_multicast or not plain.is_global:
        return False
    return plain.version == 4 or plain in UNICAST


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as one of IPv6: as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _named(host: str) -> bool:
    """Whether it is a host name, or an address as addresses are written. 2130706433, 0x7f.1 and 0177.0.0.1 are not,
    though C libraries take them for addresses (https://url.spec.whatwg.org/#ipv4-parser)."""
    if ":" in host:
        try:
            return bool(ipaddress.IPv6Address(host))
        except ValueError:
            return False
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", host) or len(host) > 254:
        return False
    last = host.rstrip(".").rpartition(".")[2]
    if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last, re.IGNORECASE):
        return True
    return bool(re.fullmatch(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}", host))


def body(response: httpx.Response, most: int) -> Iterator[bytes]:
    """An answer's bytes; FailedError beyond ``most``, and where they are compressed, which could hide any number."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FailedError("it answers compressed, though asked not to")
    if int(response.headers.get("content-length", "0")) > most:
        raise FailedError(f"it answers with more than {most} bytes")
    count = 0
    with _failing():
        for chunk in response.iter_raw():
            count += len(chunk)
            if count > most:
                raise FailedError(f"it answers with more than {most} bytes")
            yield chunk


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except (httpx.TimeoutException, httpcore.TimeoutException):
        raise FailedError("it takes too long") from None
    except (httpx.TransportError, httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FailedError(
                "its certificate is not valid for it, or not trusted; SFUMATO_OUTBOUND_CA names further authorities"
            ) from None
        raise FailedError(f"it cannot be called ({type(error).__name__})") from None


class _Pinned(httpx.BaseTransport):
    """httpx's transport on httpcore's public interface; connections as :class:`_Backend` makes them."""

    def __init__(self, outbound: Outbound, tls: ssl.SSLContext, deadline: float) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Backend(outbound, deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        place = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        body: Any = request.stream
        call = httpcore.Request(
            request.method, place, headers=request.headers.raw, content=body, extensions=request.extensions
        )
        answer = self._pool.handle_request(call)
        stream = _Stream(answer)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions)

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, until a moment of the monotonic clock."""

    def __init__(self, outbound: Outbound, deadline: float) -> None:
        self._outbound = outbound
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._outbound.addresses(host, port):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, _left(self._deadline, timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Bounded(stream, self._deadline)
        raise failure


class _Bounded(httpcore.NetworkStream):
    """A connection that ends at a deadline, however slowly it goes on until then."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline, timeout))
        return _Bounded(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for all of it is over")
    return left if timeout is None else min(left, timeout)
