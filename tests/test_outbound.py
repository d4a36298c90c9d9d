"""Calls to URLs that callers name: real servers with certificates, and a resolver that lies."""

from __future__ import annotations

import http.server
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from sfumato.agents.files import outbound as outbound_module
from sfumato.agents.files.outbound import FailedError, Outbound, OutboundError, RefusedError, public
from sfumato.agents.settings import Settings, SettingsError

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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    with Server(authority.issue_cert("dam.example", "xn--bcher-kva.example", "127.0.0.1")) as server:
        yield server


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


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


PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1",
    "2001:0:1::1",
    "2001:db8::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused_before_anything_connects(address):
    guard = outbound(allow=[], resolve=resolver(address))
    with pytest.raises(RefusedError, match="SFUMATO_OUTBOUND_ALLOW"):
        guard.check("https://anything.example/x")
    with pytest.raises(RefusedError, match="SFUMATO_OUTBOUND_ALLOW"):
        guard.fetch("https://anything.example/x", most=10)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111"])
def test_public_addresses_may_be_called(address):
    assert outbound(allow=[], resolve=resolver(address)).check("https://public.example/").host == "public.example"


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    with pytest.raises(RefusedError):
        outbound(allow=[], resolve=resolver(["8.8.8.8", "10.0.0.1"])).check("https://x.example/")


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://\uff10\uff587f.1/",  # as wide letters
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::]/",
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST/",
    ],
)
def test_addresses_in_disguise_are_refused(url):
    """With the real resolver."""
    with pytest.raises(OutboundError):
        outbound(allow=[]).check(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://dam.example/", "SFUMATO_OUTBOUND_HTTP"),
        ("ftp://dam.example/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://dam.example:70/_x", "https"),
        ("//dam.example/", "https"),
        ("dam.example", "https"),
        ("", "https"),
        ("https://user:secret@dam.example/", "user name"),
        ("https://dam.example@evil.example/", "user name"),
        ("https://dam.example:pw@127.0.0.1/", "user name"),
        ("https://evil.example\\@dam.example/", "backslash"),
        ("https://dam.example\\.evil.example/", "backslash"),
        ("https://dam.example/a b", "spaces"),
        ("https://dam.example/\r\nHost: x", "spaces"),
        ("https://dam.example/\tx", "spaces"),
        (" https://dam.example/", "spaces"),
        ("https:///path", "host"),
        ("https://dam.example:0/", "host"),
        ("https://dam.example:99999/", "host name"),
        ("https://[::1/", "host name|URL"),
        ("https://dam%2eexample/", "host name"),
        ("https://a..b/", "host name|URL"),
        ("https://" + "a" * 3000 + "/", "2048"),
    ],
)
def test_forms_that_are_not_allowed_are_refused_with_the_remedy(url, text):
    with pytest.raises(OutboundError, match=text) as refused:
        outbound(allow=[], resolve=resolver("8.8.8.8")).check(url)
    assert "secret" not in str(refused.value)


def test_the_connection_goes_to_the_address_that_was_checked(server, ca):
    """By name: Host, SNI and certificate are the name's; the resolver alone knows where that is."""
    asked: list[str] = []
    guard = outbound(ca, resolve=resolver("127.0.0.1", asked=asked))
    assert guard.fetch(f"https://dam.example:{server.port}/file?x=1", most=100) == b"hello"
    (path, headers) = server.requests[0]
    assert (path, headers["host"]) == ("/file?x=1", f"dam.example:{server.port}")
    assert server.names == ["dam.example"]
    assert asked == ["dam.example"]  # once
    assert headers["accept-encoding"] == "identity"


def test_a_name_that_resolves_to_another_address_a_moment_later_gains_nothing(server, ca):
    """DNS rebinding: public when it is checked, private when it is called."""
    guard = outbound(ca, allow=[], resolve=resolver("8.8.8.8", "127.0.0.1"))
    url = f"https://dam.example:{server.port}/"
    guard.check(url)
    with pytest.raises(RefusedError):
        guard.fetch(url, most=100)
    assert server.requests == []


def test_names_that_do_not_resolve_in_time_hold_nobody_up(server, ca):
    """A caller's own name server answers as slowly as it likes; the call checks again."""
    answering = threading.Event()

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        answering.wait(60)
        return [(0, 0, 0, "", ("10.0.0.1", port))]

    guard = outbound(ca, resolve=resolve)
    for _ in range(20):
        guard.check("https://slow.example/", 0.0)
    answering.set()
    with pytest.raises(RefusedError):
        guard.fetch("https://slow.example/", most=1)


def test_urls_are_not_logged(server, ca, caplog):
    """They may hold tokens; httpx logs them by itself."""
    caplog.set_level(logging.INFO)
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    assert guard.fetch(f"https://dam.example:{server.port}/file?token=CANARY", most=100) == b"hello"
    assert "CANARY" not in caplog.text


def test_names_with_umlauts_are_called_as_they_are_written_in_dns(server, ca):
    asked: list[str] = []
    guard = outbound(ca, resolve=resolver("127.0.0.1", asked=asked))
    assert guard.fetch(f"https://bücher.example:{server.port}/", most=100) == b"hello"
    assert asked == ["xn--bcher-kva.example"]
    assert server.names == ["xn--bcher-kva.example"]


def test_a_certificate_for_another_name_or_of_a_stranger_is_refused(server, ca):
    with pytest.raises(FailedError, match="SFUMATO_OUTBOUND_CA"):
        outbound(ca, resolve=resolver("127.0.0.1")).fetch(f"https://other.example:{server.port}/", most=100)
    with pytest.raises(FailedError, match="SFUMATO_OUTBOUND_CA"):
        outbound(None, resolve=resolver("127.0.0.1")).fetch(f"https://dam.example:{server.port}/", most=100)
    assert server.requests == []


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("https://metadata.example/latest", "SFUMATO_OUTBOUND_ALLOW"),
        ("https://169.254.169.254/latest/meta-data/", "SFUMATO_OUTBOUND_ALLOW"),
        ("http://dam.example/", "SFUMATO_OUTBOUND_HTTP"),
        ("file:///etc/passwd", "https"),
        ("https://u:p@dam.example/", "user name"),
        ("//[::1]:22/", "SFUMATO_OUTBOUND_ALLOW"),
        ("https://[", "URL|host name"),
    ],
)
def test_redirects_are_checked_as_the_first_url(server, ca, target, text):
    server.answers["/"] = redirect(target)
    known = {"dam.example": "127.0.0.1", "metadata.example": "169.254.169.254"}

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (known.get(host, host), port))]

    with pytest.raises(RefusedError, match=text):
        outbound(ca, resolve=resolve).fetch(f"https://dam.example:{server.port}/", most=100)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_a_few_times(server, ca, status):
    server.answers["/"] = redirect("/b", status)
    server.answers["/b"] = redirect(f"https://127.0.0.1:{server.port}/c", status)
    server.answers["/c"] = plain(b"found")
    server.answers["/round"] = redirect("/round", status)
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    secret = {"Authorization": "Bearer secret"}
    assert guard.fetch(f"https://dam.example:{server.port}/", most=100, headers=secret) == b"found"
    assert ["authorization" in headers for _, headers in server.requests] == [True, True, False]
    with pytest.raises(RefusedError, match="5 redirects"):
        guard.fetch(f"https://dam.example:{server.port}/round", most=100)


def test_what_is_posted_is_not_sent_on(server, ca):
    server.answers["/"] = redirect("/other", 307)
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    url = f"https://dam.example:{server.port}/"
    with pytest.raises(RefusedError, match="redirect"), guard.stream("POST", url, content=b"x"):
        pass
    with guard.stream("POST", f"{url}hook", content=b"x") as response:
        assert response.status_code == 200
    assert [path for path, _ in server.requests] == ["/", "/hook"]


def test_sizes_are_limited_whatever_is_announced(server, ca):
    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(65536))
        except OSError:
            return

    server.answers["/large"] = plain(bytes(101))
    server.answers["/endless"] = endless
    server.answers["/packed"] = plain(b"x", Content_Encoding="gzip")
    guard, url = outbound(ca, resolve=resolver("127.0.0.1")), f"https://dam.example:{server.port}"
    for path in ("/large", "/endless"):
        with pytest.raises(FailedError, match="more than 100 bytes"):
            guard.fetch(url + path, most=100)
    with pytest.raises(FailedError, match="compressed"):
        guard.fetch(f"{url}/packed", most=100)
    server.answers["/none"] = plain(b"secret", 404)
    with pytest.raises(FailedError, match="status 404"):
        guard.fetch(f"{url}/none", most=100)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_what_dribbles_is_ended(server, ca, part):
    ending = threading.Event()

    def dribble(handler: http.server.BaseHTTPRequestHandler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        try:
            while not ending.wait(0.05):
                handler.wfile.write(b"x")
                handler.wfile.flush()
        except OSError:
            return

    server.answers["/"] = dribble
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    with pytest.raises(FailedError, match="too long"):
        guard.fetch(f"https://dam.example:{server.port}/", most=10_000_000, seconds=1.0)
    ending.set()


def test_a_download_that_is_too_slow_is_ended_long_before_its_time(server, ca, monkeypatch):
    monkeypatch.setattr(outbound_module, "GRACE", 0.0)
    sent = threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.wfile.flush()
        sent.set()

    server.answers["/"] = slow
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    url = f"https://dam.example:{server.port}/"
    with pytest.raises(FailedError, match="less than 1000000 bytes a second"):
        list(guard.download(url, most=10_000_000, seconds=3600, slowest=1_000_000))
    assert sent.is_set()
    assert b"".join(guard.download(url, most=10_000_000, seconds=3600, slowest=0.001)) == b"x" * 10


def test_hosts_networks_and_http_can_be_allowed():
    with Server(None) as server:
        url = f"http://dam.internal:{server.port}/"
        resolve = resolver("127.0.0.1")
        for allow in (["dam.internal"], ["DAM.internal"], ["127.0.0.1"], ["10.0.0.0/8", "127.0.0.0/8"]):
            assert outbound(allow=allow, outbound_http=True, resolve=resolve).fetch(url, most=100) == b"hello"
        for allow in (["other.internal"], ["10.0.0.0/8"], ["internal"]):
            with pytest.raises(RefusedError):
                outbound(allow=allow, outbound_http=True, resolve=resolve).fetch(url, most=100)


def test_an_allowed_host_is_no_way_to_the_metadata_service():
    for address in ("169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"):
        with pytest.raises(RefusedError):
            outbound(allow=["dam.internal"], resolve=resolver(address)).check("https://dam.internal/")
    allowed = outbound(allow=["169.254.169.254/32"], resolve=resolver("169.254.169.254"))
    allowed.check("https://metadata.internal/")


@pytest.mark.parametrize("entry", ["", "a b", "https://dam.example", "10.0.0.0/33", "*"])
def test_a_setting_that_is_not_valid_is_named(entry, tmp_path):
    with pytest.raises(SettingsError, match="SFUMATO_OUTBOUND_ALLOW"):
        outbound(allow=[entry])
    with pytest.raises(SettingsError, match="SFUMATO_OUTBOUND_CA"):
        outbound(tmp_path / "none")


def test_proxies_of_the_environment_are_not_used(server, ca, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    guard = outbound(ca, resolve=resolver("127.0.0.1"))
    assert guard.fetch(f"https://dam.example:{server.port}/", most=100) == b"hello"


def test_the_next_address_is_tried_where_one_does_not_answer(server, ca):
    guard = outbound(ca, resolve=resolver(["127.0.0.99", "127.0.0.1"]))
    assert guard.fetch(f"https://dam.example:{server.port}/", most=100) == b"hello"


def test_nothing_that_answers_or_resolves_is_a_failure_not_a_refusal(ca):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(FailedError, match="cannot be called"):
        outbound(ca).fetch(f"https://127.0.0.1:{port}/", most=100)
    with pytest.raises(FailedError, match="does not resolve"):
        outbound(ca).fetch("https://nothing.invalid/", most=100)


def test_public_is_what_the_registries_say():
    import ipaddress

    assert not any(public(ipaddress.ip_address(text)) for text in PRIVATE)
