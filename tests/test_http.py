"""Cameras over HTTP: MJPEG and HLS."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sfumato.agents import sources
from sfumato.agents.pictures import Picture
from sfumato.agents.sources import SourceError
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.unit import H264
from tests.footage import Reader, jpeg, numbers_in, write_video


class Mjpeg:
    """A small MJPEG camera on loopback: ``frames`` pictures, ``interval`` seconds apart, then hangs or closes."""

    def __init__(self, frames: int = 1000, interval: float = 0.0, hang: bool = False, login: str | None = None) -> None:
        self.frames, self.interval, self.hang, self.login = frames, interval, hang, login
        self.requests = 0
        self.closing = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests += 1
                if camera.login and self.headers.get("Authorization") != camera.login:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for number in range(camera.frames):
                        picture = jpeg(number % 20)
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                        self.wfile.write(head.encode() + picture + b"\r\n")
                        if camera.closing.wait(camera.interval):
                            return
                    if camera.hang:
                        camera.closing.wait(60)
                except OSError:
                    pass  # the reader has left

            def log_message(self, *_: object) -> None: ...

        return Handler


@contextmanager
def serving(**options: Any) -> Iterator[Mjpeg]:
    camera = Mjpeg(**options)
    try:
        yield camera
    finally:
        camera.close()


@pytest.fixture
def mjpeg() -> Iterator[Mjpeg]:
    with serving(interval=0.02) as camera:
        yield camera


def test_mjpeg_over_http_passes_byte_for_byte(mjpeg: Mjpeg) -> None:
    found = list(islice(Reader(f"{mjpeg.url}/video"), 10))
    assert [picture.payload for picture in found] == [jpeg(number) for number in range(10)]
    assert {(p.content_type, p.width, p.height, p.time_source) for p in found} == {
        ("image/jpeg", 128, 96, TimeSource.ARRIVAL)
    }


def test_the_cap_holds_although_http_tells_no_times() -> None:
    """FFmpeg numbers such pictures as if 25 came per second: taken for time, 5 per second of 10 would be 2."""
    with serving(interval=0.1) as camera:
        reader = Reader(f"{camera.url}/video", fps=5)
        started = time.monotonic()
        list(islice(reader, 8))
        assert 1.2 < time.monotonic() - started < 3.2


def test_credentials_are_used_and_not_shown() -> None:
    with serving(login="Basic Y2FtOnMzL2NyQHQ=") as camera:  # cam:s3/cr@t
        address = camera.url.removeprefix("http://")
        assert list(islice(Reader(f"http://cam:s3%2Fcr%40t@{address}/v?key=s3cret"), 2))
        with pytest.raises(SourceError) as error:
            next(iter(Reader(f"http://cam:hunter@{address}/v?key=s3cret")))
    assert "401" in str(error.value)
    assert not any(secret in str(error.value) for secret in ("hunter", "s3cret", "cam"))


def test_a_camera_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "READ_TIMEOUT", 0.5)
    with serving(frames=30, hang=True) as camera:
        started, found = time.monotonic(), []
        with pytest.raises(SourceError):
            found.extend(picture for picture in iter(Reader(f"{camera.url}/v")))
        assert time.monotonic() - started < 10


def test_a_camera_that_closes_is_an_error() -> None:
    with serving(frames=30) as camera, pytest.raises(SourceError):
        list(Reader(f"{camera.url}/v"))


def test_nobody_there_is_an_error() -> None:
    with serving() as camera:
        url = camera.url
    with pytest.raises(SourceError, match="Connection refused"):
        next(iter(Reader(f"{url}/v")))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler: Callable[..., Any] = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None  # type: ignore[method-assign]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hls(tmp_path: Path, web: str) -> None:
    write_video(tmp_path / "live.m3u8", 20, g="10")
    found: list[Picture] = []
    with pytest.raises(SourceError, match="ended the stream"):
        found.extend(iter(Reader(f"{web}/live.m3u8")))
    assert numbers_in(found) == list(range(20))
    assert {(p.content_type, p.width, p.height) for p in found} == {(H264, 128, 96)}


def test_hls_from_its_start_again_is_one_stream(tmp_path: Path, web: str) -> None:
    write_video(tmp_path / "live.m3u8", 20, g="10", bf="2")
    reader = Reader(f"{web}/live.m3u8")
    found: list[Picture] = []
    for _ in range(2):
        with pytest.raises(SourceError, match="ended the stream"):
            found.extend(iter(reader))
    assert numbers_in(found) == [*range(20)] * 2
    assert [number for number, picture in enumerate(found) if picture.unit.restart] == [0, 20]
    assert max(p.unit.pts for p in found[:20]) < min(p.unit.pts for p in found[20:])


def test_units_without_times_get_those_of_their_arrival(tmp_path: Path, web: str) -> None:
    write_video(tmp_path / "live.h264", 20, g="10", bf="0")
    found: list[Picture] = []
    with pytest.raises(SourceError, match="ended the stream"):
        found.extend(iter(Reader(f"{web}/live.h264")))
    assert numbers_in(found) == list(range(20))
    assert 0 < found[-1].unit.seconds - found[0].unit.seconds < 1, "they came at once"


def test_an_hls_playlist_cannot_name_files_of_this_machine(tmp_path: Path, web: str) -> None:
    secret = write_video(tmp_path / "secret.ts", 20)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n"
    (tmp_path / "evil.m3u8").write_text(text)
    with pytest.raises(SourceError):
        next(iter(Reader(f"{web}/evil.m3u8")))
    # What is refused is the scheme: the same segment over HTTP is read.
    (tmp_path / "good.m3u8").write_text(text.replace(secret.as_uri(), "secret.ts"))
    assert next(iter(Reader(f"{web}/good.m3u8")))


def test_a_webcam_that_is_not_there() -> None:
    with pytest.raises(SourceError):
        next(iter(Reader("v4l2:///dev/video99")))


def test_a_playlist_cannot_leave_the_machines_files(tmp_path: Path, mjpeg: Mjpeg) -> None:
    """A local file that names an address is not followed."""
    (tmp_path / "a.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{mjpeg.url}/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(SourceError):
        next(iter(Reader((tmp_path / "a.m3u8").as_uri())))
    assert mjpeg.requests == 0
