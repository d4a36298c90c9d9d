"""Every kind of source that needs no camera: files, stills, MJPEG and HLS over HTTP."""

from __future__ import annotations

import http.server
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from clips import clip
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.agents import sources
from sfumato.agents.cameras import Camera
from sfumato.agents.clocks import CameraClock, Cap, FileClock
from sfumato.agents.pictures import Loss, Picture
from sfumato.agents.sources import Context, SourceError, open_source
from sfumato.models import images
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason

FPS = 10


def numbered(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    """A picture whose brightness tells its number, with a black upper left quarter."""
    image = np.full((height, width, 3), 40 + 7 * number, np.uint8)
    image[: height // 2, : width // 2] = 0
    return image


def number_of(picture: Picture) -> int:
    image = images.decode(picture.payload, picture.content_type, max_pixels=10**6)
    return round((float(image[-8:, -8:].mean()) - 38.5) / 7)  # 4:2:0 darkens by some 3


def jpeg(number: int) -> bytes:
    return images.encode(numbered(number), 90)


def write_video(path: Path, pictures: int, codec: str = "libx264", rotation: int = 0, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height = 128, 96
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="bgr24")))
        container.mux(stream.encode())
    return path


class Reader:
    """A camera opened, with its skipped frames counted."""

    def __init__(self, url: str, **keys: Any) -> None:
        self.stopping = threading.Event()
        self.skipped = 0
        self.camera = Camera(id="a", url=url, **keys)
        self.context = Context(self.camera, self.stopping, self._skip)

    def _skip(self) -> None:
        self.skipped += 1

    def __iter__(self) -> Iterator[Any]:
        return open_source(self.context)

    def pictures(self) -> list[Picture]:
        found = list(self)
        assert all(isinstance(item, Picture) for item in found)
        return found


# Files


def test_a_file_once_and_fast(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a film with #1.mp4", 20)
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert [number_of(picture) for picture in found] == list(range(20))
    assert {(p.content_type, p.width, p.height, p.time_source) for p in found} == {
        ("image/jpeg", 128, 96, TimeSource.ARRIVAL)
    }
    assert all(abs(picture.captured_at - datetime.now(UTC)) < timedelta(seconds=60) for picture in found)


def test_a_real_clip() -> None:
    found = Reader(clip("bikes").as_uri(), pace="fast").pictures()
    with av.open(str(clip("bikes"))) as container:
        expected = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(found) == len(expected)
    shown = images.decode(found[100].payload, "image/jpeg", max_pixels=10**6)
    assert np.abs(shown.astype(int) - expected[100]).mean() < 4


def test_real_time_keeps_the_files_speed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    started = time.monotonic()
    arrivals = [picture.captured_at for picture in Reader(path.as_uri()).pictures()]
    assert 1.1 <= time.monotonic() - started < 3
    gaps = [(b - a).total_seconds() for a, b in pairwise(arrivals)]
    assert min(gaps) > 0.02, "a burst"


def test_loop_goes_on_in_time_and_stops_when_told(tmp_path: Path) -> None:
    reader = Reader(write_video(tmp_path / "a.mp4", 5).as_uri(), loop=True, pace="fast")
    found = []
    for picture in reader:
        found.append(number_of(picture))
        if len(found) == 13:
            reader.stopping.set()
    assert found == [0, 1, 2, 3, 4] * 2 + [0, 1, 2]


def test_a_loop_of_one_picture_keeps_its_speed(tmp_path: Path) -> None:
    """And the cap counts on across rounds."""
    reader = Reader(write_video(tmp_path / "a.mp4", 1).as_uri(), loop=True, fps=12.5)
    started = time.monotonic()
    assert len(list(islice(reader, 4))) == 4
    assert time.monotonic() - started >= 3 * 0.08 - 0.01
    assert reader.skipped == 3


def test_cap(tmp_path: Path) -> None:
    reader = Reader(write_video(tmp_path / "a.mp4", 20).as_uri(), pace="fast", fps=5)
    assert [number_of(picture) for picture in reader.pictures()] == list(range(0, 20, 2))
    assert reader.skipped == 10


def test_scaling_keeps_proportions_and_never_enlarges(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=64).pictures()} == {(64, 48)}
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=640).pictures()} == {(128, 96)}


def test_quality_is_asked_of_the_encoder() -> None:
    sizes = [
        sum(len(p.payload) for p in islice(Reader(clip("bikes").as_uri(), pace="fast", quality=quality), 5))
        for quality in (40, 90)
    ]
    assert sizes[0] * 1.5 < sizes[1]


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_film_on_its_side_is_turned_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    """A detector finds no face that lies on its side. The rotation is anticlockwise, in degrees."""
    path = write_video(tmp_path / "a.mp4", 5, rotation=rotation)
    picture = Reader(path.as_uri(), pace="fast").pictures()[4]
    image = images.decode(picture.payload, "image/jpeg", max_pixels=10**6)
    assert image.shape[:2] == (picture.height, picture.width) == ((96, 128) if rotation == 180 else (128, 96))
    dark = {place: image[place[0] * 4, place[1] * 4].mean() < 20 for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert [place for place, is_dark in dark.items() if is_dark] == [corner]


def test_mjpeg_files_pass_byte_for_byte(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 8, "mjpeg")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert [picture.payload for picture in found] == packets
    assert {(p.content_type, p.width, p.height) for p in found} == {("image/jpeg", 128, 96)}
    assert [p.payload for p in Reader(path.as_uri(), pace="fast", long_side=128).pictures()] == packets
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=64).pictures()} == {(64, 48)}


def test_mjpeg_without_huffman_tables_can_be_decoded_downstream(tmp_path: Path) -> None:
    """Webcams and AVI files leave the tables out; passed on as they are, they must still decode."""
    whole = jpeg(7)
    bare, position = whole[:2], 2
    while whole[position + 1] != 0xDA:
        length = 2 + int.from_bytes(whole[position + 2 : position + 4], "big")
        if whole[position + 1] != 0xC4:
            bare += whole[position : position + length]
        position += length
    bare += whole[position:]
    assert len(bare) < len(whole)
    (tmp_path / "a.jpg").write_bytes(bare)
    [picture] = Reader(f"stills://{tmp_path}", pace="fast").pictures()
    assert picture.payload == bare
    assert number_of(picture) == 7


def test_a_damaged_unit_costs_what_depends_on_it(tmp_path: Path) -> None:
    """Nothing concealed is passed on: from the damage to the next keyframe all is counted as lost."""
    path = write_video(tmp_path / "a.ts", 30, g="10", bf="0", sc_threshold="0", preset="ultrafast")
    with av.open(str(path)) as container, av.open(str(tmp_path / "b.mkv"), "w") as damaged:
        stream = damaged.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            content = bytes(packet)
            if number == 13:
                content = content[:40] + bytes(len(content) - 40)
            copy = av.Packet(content)
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            damaged.mux(copy)
    found = list(Reader((tmp_path / "b.mkv").as_uri(), pace="fast"))
    assert [number_of(item) for item in found if isinstance(item, Picture)] == [*range(13), *range(20, 30)]
    assert [item.reason for item in found if isinstance(item, Loss)] == [Reason.UNDECODABLE] * 7


def test_a_file_cut_short_ends(tmp_path: Path) -> None:
    """It is not read again and again."""
    path = write_video(tmp_path / "a.mkv", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 1 <= len(list(islice(Reader(path.as_uri(), pace="fast"), 100))) < 30


def test_a_file_whose_demuxer_gives_up_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoded = sources._decoded

    def giving_up(container: Any, context: Context) -> Iterator[Any]:
        yield from islice(decoded(container, context), 5)
        raise av.error.InvalidDataError(1, "Invalid data", "/s3cret.mp4")

    path = write_video(tmp_path / "a.mp4", 30, bf="0", tune="zerolatency")
    monkeypatch.setattr(sources, "_decoded", giving_up)
    assert 1 <= len(list(islice(Reader(path.as_uri(), pace="fast"), 100))) <= 5
    assert "the file is damaged and ends early: Invalid data" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("content", [None, b"", b"no film" * 100])
def test_a_file_that_is_none_is_an_error(tmp_path: Path, content: bytes | None, loop: bool) -> None:
    path = tmp_path / "s3cret.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError) as error:
        next(iter(Reader(path.as_uri(), loop=loop)))
    assert "s3cret" not in str(error.value)


def test_a_playlist_cannot_leave_the_machines_files(tmp_path: Path, mjpeg: Mjpeg) -> None:
    """A local file that names an address is not followed."""
    (tmp_path / "a.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{mjpeg.url}/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(SourceError):
        next(iter(Reader((tmp_path / "a.m3u8").as_uri())))
    assert mjpeg.requests == 0


# Stills


def test_stills_pass_byte_for_byte_in_order_of_name(tmp_path: Path) -> None:
    formats = {"1.jpg": "JPEG", "2.JPEG": "JPEG", "3.png": "PNG", "4.webp": "WEBP"}
    contents = []
    for name, kind in formats.items():
        buffer = io.BytesIO()
        Image.fromarray(numbered(3)).save(buffer, kind)
        (tmp_path / name).write_bytes(buffer.getvalue())
        contents.append(buffer.getvalue())
    (tmp_path / "5.txt").write_text("no picture")
    found = Reader(f"stills://{tmp_path}", pace="fast").pictures()
    assert [picture.payload for picture in found] == contents
    assert [p.content_type for p in found] == ["image/jpeg", "image/jpeg", "image/png", "image/webp"]
    shrunk = Reader(f"stills://{tmp_path}", pace="fast", long_side=64).pictures()
    assert [(p.content_type, p.width, p.height) for p in shrunk] == [("image/jpeg", 64, 48)] * 4


def test_stills_come_at_the_rate_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    started = time.monotonic()
    assert [number_of(p) for p in islice(Reader(f"stills://{tmp_path}", fps=20, loop=True), 7)] == [0, 1, 2, 0, 1, 2, 0]
    assert 0.3 <= time.monotonic() - started < 3


def test_broken_stills_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST_STILL", 10_000)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    (tmp_path / "3.jpg").write_bytes(jpeg(3))
    (tmp_path / "4.png").write_bytes(jpeg(4))
    (tmp_path / "5.jpg").symlink_to(tmp_path / "none")
    (tmp_path / "6.jpg").write_bytes(bytes(10_001))
    found = list(Reader(f"stills://{tmp_path}", pace="fast"))
    reasons = [item.reason if isinstance(item, Loss) else None for item in found]
    undecodable = Reason.UNDECODABLE
    assert reasons == [Reason.EMPTY, undecodable, None, undecodable, undecodable, Reason.TOO_LARGE]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError, match="no folder with pictures"):
            next(iter(Reader(f"stills://{folder}")))


# HTTP


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
    assert [number_of(picture) for picture in found] == list(range(20))
    assert {(p.content_type, p.width, p.height) for p in found} == {("image/jpeg", 128, 96)}


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


# Clocks


class ReferencePacket:
    """A packet with the side data that FFmpeg makes of an RTCP sender report."""

    time_base = 1

    def __init__(self, pts: int, wallclock: float) -> None:
        self.pts = pts
        self._content = int(wallclock * 1e6).to_bytes(8, "little", signed=True) + bytes(8)

    def has_sidedata(self, _: str) -> bool:
        return True

    def get_sidedata(self, _: str) -> bytes:
        return self._content


@pytest.mark.parametrize(
    ("skew", "source"),
    [(-9, TimeSource.CAMERA), (9, TimeSource.CAMERA), (-11, TimeSource.ARRIVAL), (11, TimeSource.ARRIVAL)]
    + [(skew, TimeSource.ARRIVAL) for skew in (-2e9, 9e11, -9e11)],
)
def test_a_cameras_clock_is_trusted_within_bounds(skew: float, source: TimeSource) -> None:
    clock, now = CameraClock(), time.time()
    clock.learn(ReferencePacket(100, now + skew))
    captured_at, said = clock.capture_time(100.0)
    expected = now + skew if source is TimeSource.CAMERA else now
    assert said is source
    assert abs(captured_at.timestamp() - expected) < 0.5


def test_before_the_first_report_the_arrival_counts() -> None:
    assert CameraClock().capture_time(5.0)[1] is TimeSource.ARRIVAL


@given(st.floats(0.5, 60), st.floats(1, 100), st.integers(0, 2**32 - 1))
def test_the_cap_is_kept_and_used(cap: float, rate: float, seed: int) -> None:
    """Frames with jitter, at any rate: over ten seconds no more than the cap, and not much less."""
    jitter = np.random.default_rng(seed).uniform(-0.2, 0.2, round(10 * rate)) / rate
    limiter = Cap(cap, lambda: None)
    taken = sum(limiter.admits(float(at)) for at in np.arange(round(10 * rate)) / rate + jitter)
    offered = round(10 * rate)
    assert taken <= min(offered, 10 * cap + 2)
    if rate >= 2 * cap:
        assert taken >= 0.75 * 10 * cap - 1


def test_the_cap_follows_a_jump_back() -> None:
    skipped: list[None] = []
    limiter = Cap(1, partial(skipped.append, None))
    assert [limiter.admits(at) for at in (1000.0, 1000.5, 1001.0, 3.0, 3.5, 4.0)] == [True, False, True] * 2
    assert len(skipped) == 2


def test_a_jump_in_a_files_time_is_no_pause() -> None:
    clock = FileClock(real_time=True, stopping=threading.Event())
    clock.begin_round()
    times = [clock.advance(seconds) for seconds in (0.0, 0.1, 95_000.0, 95_000.1, 2.0, None, 2.1)]
    steps = [round(b - a, 3) for a, b in pairwise(times)]
    assert times[0] == 0
    assert steps == [0.1] * 6


def test_an_unchanged_jpeg_is_what_the_anonymizer_decodes() -> None:
    """The encoder of the ingestor and the decoder of the anonymizer agree on blue, green and red."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 2] = 255
    assert simplejpeg.decode_jpeg(images.encode(image, 95), "RGB")[0, 0].tolist()[0] > 250
