"""Calls to URLs that callers name: real servers with certificates, and a resolver that lies."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from sfumato.agents.files import outbound as outbound_module
from sfumato.agents.files.outbound import FailedError, RefusedError
from tests.answering import Server, outbound, plain, redirect, resolver


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
