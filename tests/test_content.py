"""What is taken by its content, and what is refused: archives, polyglots, bombs, and files that name other files."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import FFmpegError
from PIL import Image

from sfumato.models import content, reading
from sfumato.models.content import Content, ContentError, recognise
from sfumato.models.reading import FilmError, open_file
from tests.uploading import box, film

PIXELS, SECONDS = 40_000_000, 86_400.0


def look(data: bytes, *, max_pixels: int = PIXELS, max_seconds: float = SECONDS) -> Content:
    return recognise(io.BytesIO(data), len(data), max_pixels=max_pixels, max_seconds=max_seconds)


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, form, **options)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("evil.html", "x" * 1000)
    return file.getvalue()


@pytest.mark.parametrize(("form", "kind"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_pictures_are_known_by_their_content(form, kind):
    assert look(picture(form)) == Content(kind, (64, 48))


@pytest.mark.parametrize(
    ("form", "kind"),
    [("mp4", "video/mp4"), ("mov", "video/quicktime"), ("matroska", "video/x-matroska"), ("webm", "video/webm")],
)
def test_films_are_known_by_their_content(form, kind):
    found = look(film(form=form))
    assert (found.kind, found.size) == (kind, (64, 48))
    assert found.film
    assert found.seconds == pytest.approx(1.0, abs=0.2)


def other_films() -> dict[str, bytes]:
    found = {}
    for form, codec, pixels in (("avi", "libx264", "yuv420p"), ("mp4", "mpeg4", "yuv420p"), ("gif", "gif", "rgb8")):
        file = io.BytesIO()
        with av.open(file, "w", format=form) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
            container.mux(stream.encode())
        found[form] = file.getvalue()
    return found


def sound() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


OTHERS = {
    "nothing": b"",
    "short": b"x",
    "zip": archive(),
    "zip of nothing": b"PK\x05\x06" + bytes(18),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "rar": b"Rar!\x1a\x07\x00" + bytes(100),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "tar": bytes(257) + b"ustar" + bytes(250),
    "pdf": b"%PDF-1.7\n" + bytes(100),
    "html": b"<!DOCTYPE html><html></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "script": b"#!/bin/sh\necho",
    "program": b"\x7fELF" + bytes(100),
    "tiff": b"II*\x00" + bytes(100),
    "bmp": b"BM" + bytes(100),
    "avi": other_films()["avi"],
    "mpeg-4 part 2": other_films()["mp4"],
    "gif": other_films()["gif"],
    "sound": sound(),
    "jpeg's beginning": picture()[:20],
    "mp4 without its index": film()[:-700],
    "mkv cut short": film(form="matroska")[:-50],
    "ebml of another kind": film(form="matroska").replace(b"matroska", b"matroskb"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_refused_whatever_its_name(name):
    with pytest.raises(ContentError):
        look(OTHERS[name])


CARRIERS = {form: picture(form) for form in ("JPEG", "PNG", "WEBP")} | {
    form: film(form=form) for form in ("mp4", "matroska", "webm")
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("other", "text"),
    [
        (archive(), "ZIP"),
        (archive() + b"trailing junk", "ZIP"),
        (b"<html><script>alert(1)</script>", "web page"),
        (b"<SVG onload=x>", "web page"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<?php system('x');", "program"),
        (b"Rar!\x1a\x07\x00", "RAR"),
    ],
)
def test_polyglots_are_refused(carrier, other, text):
    """What a browser, an unpacker or an interpreter would take for something else, behind a picture or film."""
    look(CARRIERS[carrier])
    with pytest.raises(ContentError, match=text):
        look(CARRIERS[carrier] + other)


def test_a_zip_archive_is_found_as_unpackers_find_it():
    polyglot = picture() + archive()
    assert zipfile.is_zipfile(io.BytesIO(polyglot))
    with pytest.raises(ContentError, match="ZIP"):
        look(polyglot)
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w") as zipped:
        for number in range(3000):
            zipped.writestr(f"{number:060}", b"")
    with pytest.raises(ContentError, match="ZIP"):  # its directory is longer than what is searched
        look(picture() + large.getvalue())


def test_the_letters_of_an_archive_alone_are_no_archive():
    """They come by chance in noise."""
    data = film() + box(b"free", b"noise PK\x05\x06 more noise" + bytes(range(256)))
    assert look(data).kind == "video/mp4"


def test_a_web_page_in_a_box_that_players_skip_is_refused():
    data = film()
    for filling in (b"<html><script>", b"%PDF-1.4", b"PK\x03\x04zip"):
        with pytest.raises(ContentError):
            look(data + box(b"free", filling + bytes(100_000)))
        with pytest.raises(ContentError):
            look(data + box(b"uuid", filling + bytes(100_000)))
    assert look(data + box(b"free", bytes(100_000))).kind == "video/mp4"


@pytest.mark.parametrize("junk", [b"x", b"\0" * 9, b"junk behind it", (10**9).to_bytes(4, "big") + b"free"])
def test_an_mp4_is_boxes_to_its_last_byte(junk):
    with pytest.raises(ContentError, match="no box"):
        look(film() + junk)


def test_a_matroska_is_elements_to_its_last_byte():
    with pytest.raises(ContentError, match="no part"):
        look(film(form="matroska") + b"\x42\x86\x81\x01 something")


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is as large, in 60 bytes."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (7000, 7000), (70_000, 1)])
def test_image_bombs_are_refused_by_their_header(size):
    with pytest.raises(ContentError, match="pixels"):
        look(png_of(*size))


def test_pictures_of_too_many_bytes_are_not_even_read(monkeypatch):
    monkeypatch.setattr(content, "MOST_PICTURE_BYTES", 1000)
    with pytest.raises(ContentError, match="1000 bytes"):
        look(picture())


def test_films_of_absurd_sizes_are_refused():
    with pytest.raises(ContentError, match="64x48"):
        look(film(), max_pixels=64 * 48 - 1)


def test_films_of_absurd_lengths_are_refused():
    with pytest.raises(ContentError, match="SFUMATO_MAX_FILM_SECONDS"):
        look(film(), max_seconds=0.5)
    data = bytearray(film(form="matroska"))  # a duration that only the header states: of 10^9 seconds
    place = data.index(b"\x44\x89\x88")
    data[place + 3 : place + 11] = struct.pack(">d", 1e12)
    with pytest.raises(ContentError, match="SFUMATO_MAX_FILM_SECONDS"):
        look(bytes(data))


@pytest.mark.parametrize("form", ["matroska", "mp4"])
def test_films_of_absurdly_many_streams_are_refused(form):
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(40)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for stream in streams:
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.raises(ContentError, match=r"streams|cannot be read"):
        look(file.getvalue())


# Files that name other files or URLs


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A film on this machine that no upload may reach, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "secret.mp4"
    path.write_bytes(film())
    return path


def playlists(secret: Path) -> dict[str, bytes]:
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>secret.mp4</BaseURL>'
        '<SegmentBase indexRange="0-100"/></Representation></AdaptationSet></Period></MPD>'
    )
    return {
        "ffconcat": b"ffconcat version 1.0\nfile secret.mp4\n",
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        "dash": mpd.encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "url": b"[InternetShortcut]\nURL=file:///etc/passwd\n",
    }


@pytest.mark.parametrize("name", ["ffconcat", "m3u8", "dash", "sdp", "url"])
def test_playlists_in_disguise_open_nothing(secret, name):
    data = playlists(secret)[name]
    if name in ("ffconcat", "m3u8"):  # FFmpeg left to itself follows them; the former whatever the file is called
        disguised = secret.with_name("holiday.mp4" if name == "ffconcat" else "holiday.m3u8")
        disguised.write_bytes(data)
        with av.open(str(disguised), options={"safe": "0", "allowed_extensions": "ALL"}) as container:
            assert container.format.name in ("concat", "hls")
            assert len(container.streams.video) == 1
    with pytest.raises(ContentError, match="none of"):
        look(data)
    for media_type in ("video/mp4", "video/quicktime", "video/x-matroska", "video/webm"):
        with pytest.raises(FilmError):
            open_file(io.BytesIO(data), media_type, PIXELS)
    as_film = film()[:32] + data  # behind the beginning of a real film
    with pytest.raises(ContentError):
        look(as_film)


def referring(data: bytes, name: bytes) -> bytes:
    """A MOV whose pictures, as it says, lie in the file of this name: its data reference becomes an alias."""
    place = data.index(b"dref") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    alias = bytes(4 + 150) + struct.pack(">hh", 2, len(name)) + name + struct.pack(">h", -1)
    entry = box(b"alis", alias)
    dref = box(b"dref", struct.pack(">II", 0, 1) + entry)
    changed = bytearray(data[:place] + dref + data[place + size :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = data.index(kind, data.rindex(b"moov")) - 4
        if kind == b"dinf":
            at = data.rindex(b"dinf", 0, place) - 4
        length = int.from_bytes(changed[at : at + 4], "big") + len(dref) - size
        changed[at : at + 4] = length.to_bytes(4, "big")
    return bytes(changed)


def shades(container: object) -> list[bytes]:
    return [frame.to_ndarray(format="gray").tobytes() for frame in container.decode(video=0)]  # type: ignore[attr-defined]


def test_a_film_whose_pictures_lie_in_another_file_does_not_reach_it(secret):
    """QuickTime's data references (dref), which FFmpeg follows where it is told to."""
    data = film(form="mov")
    secret.write_bytes(data)
    with av.open(str(secret)) as container:
        hidden = shades(container)
    start = data.index(b"mdat") + 4
    emptied = data[:start] + bytes(data.rindex(b"moov") - 4 - start) + data[data.rindex(b"moov") - 4 :]
    name = str(secret).encode()
    emptied = referring(emptied, name + b"\0" * (len(name) % 2))
    disguised = secret.with_name("holiday.mov")
    disguised.write_bytes(emptied)
    with av.open(str(disguised), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert shades(container) == hidden  # so it is a way
    found: list[bytes] = []
    with (
        contextlib.suppress(FFmpegError, FilmError),
        open_file(io.BytesIO(emptied), "video/quicktime", PIXELS) as container,
    ):
        found += shades(container)
    assert not set(found) & set(hidden)


def test_what_ffmpeg_opens_is_the_file_alone(secret, monkeypatch):
    """Even if a demuxer that follows names were let in."""
    for name, form in (("ffconcat", "concat"), ("m3u8", "hls")):
        monkeypatch.setitem(reading.MEDIA_TYPES, "video/mp4", form)
        with pytest.raises(FilmError):
            open_file(io.BytesIO(playlists(secret)[name]), "video/mp4", PIXELS)
        monkeypatch.setattr(reading, "DEMUXERS", "concat,hls,mov,mp4")
        with pytest.raises(FilmError):
            open_file(io.BytesIO(playlists(secret)[name]), "video/mp4", PIXELS)


def test_errors_hold_nothing_of_the_file():
    with pytest.raises(ContentError) as refused:
        look(b"MARKER of a secret file" * 10)
    assert "MARKER" not in str(refused.value)


def test_only_the_ends_and_the_structure_of_a_film_are_read():
    """A large one is looked at in little time and memory."""
    data = film() + box(b"free", bytes(50_000_000))

    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            Counted.count += len(found)
            return found

    assert recognise(Counted(data), len(data), max_pixels=PIXELS, max_seconds=SECONDS).kind == "video/mp4"
    assert Counted.count < 1_000_000
