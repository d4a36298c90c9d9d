"""Small files that claim to be huge: what is made of them stays small, by the memory of the process that reads them."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import av
import numpy as np
import pytest
from PIL import Image

from sfumato.models.film_index import MOST_PICTURES
from tests import films

CLAIMED = 100_000_000
MEGABYTES = 40
"""That a process may take to read one of these."""

READ = """
import io, json, pathlib, resource, sys
import numpy as np
from sfumato.models import content, images, picture_metadata

def look(data):
    said = []
    try:
        said.append(repr(content.recognise(io.BytesIO(data), len(data), max_pixels=40_000_000, max_seconds=3600)))
    except content.ContentError as error:
        said.append(str(error))
    try:
        kind = images.sniff(data)
        picture_metadata.read(data, kind)
        said.append(str(images.decode_file(data, kind, max_pixels=40_000_000).shape))
    except images.ImageError as error:
        said.append(str(error.reason))
    return said

found, files = {}, sorted(pathlib.Path(sys.argv[1]).iterdir())
for file in files:  # the sound ones come first: what libraries take once
    data = file.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = look(data)
    found[file.name] = ((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, said)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, list[str]]]:
    """By file, the megabytes that it took, and what came of it."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in {**SOUND, **BOMBS}.items():
        (folder / name).write_bytes(make())
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    read: dict[str, tuple[float, list[str]]] = json.loads(done.stdout)
    return read


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *more]
    chunks += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(_saved("JPEG"))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    data = bytearray(_saved("WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    struct.pack_into("<I", data, at, (width - 1) | (height - 1) << 14)
    return bytes(data)


def _saved(form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, form, **options)
    return out.getvalue()


def mp4(
    *edits: tuple[bytes, int, int], options: dict[str, str] | None = None, form: str = "mp4", sound: bool = False
) -> bytes:
    """``edits``: of a box, at an offset behind its type's begin, a number of 32 bits."""
    out = io.BytesIO()
    with av.open(out, "w", format=form, options=options or {}) as container:
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *films.SIZE, "yuv420p"
        if audio is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            samples.sample_rate = 8000
            container.mux(audio.encode(samples))
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(films.scene(number), format="bgr24")))
        container.mux(stream.encode())
    data = bytearray(out.getvalue())
    for box, offset, value in edits:
        struct.pack_into(">I", data, data.index(box) + offset, value)
    return bytes(data)


def compressed_index() -> bytes:
    """QuickTime's compressed movie resource, of 300 MB."""
    whole = mp4()
    at = whole.index(b"moov") - 4
    packed = zlib.compress(whole[at : at + struct.unpack_from(">I", whole, at)[0]] + bytes(300_000_000), 9)
    inner = (
        struct.pack(">I4s4s", 12, b"dcom", b"zlib")
        + struct.pack(">I4sI", 12 + len(packed), b"cmvd", 300_000_000)
        + packed
    )
    return whole[:at] + struct.pack(">I4sI4s", 16 + len(inner), b"moov", 8 + len(inner), b"cmov") + inner


def matroska(child: bytes, parent: bytes, megabytes: int) -> bytes:
    """A film with so much of an index in front."""
    whole = mp4(form="matroska")
    at = whole.index(b"\x18\x53\x80\x67")
    body = child * ((megabytes << 20) // len(child))
    index = parent + struct.pack(">Q", len(body) | 1 << 56) + body
    return whole[:at] + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + index + whole[at + 12 :]


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 2.5 gigapixels": lambda: png(50_000, 50_000),
    "jpeg of 4.3 gigapixels": lambda: jpeg(65_500, 65_500),
    "webp of 268 megapixels": lambda: webp(16_384, 16_384),
    "png with a text of 200 MB": lambda: png(16, 16, (b"zTXt", b"Title\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "png with a profile of 200 MB": lambda: png(16, 16, (b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "mp4 with 100 million pictures of a byte": lambda: mp4(
        (b"stsz", 8, 1), (b"stsz", 12, CLAIMED), (b"stsc", 16, CLAIMED)
    ),
    "mp4 with a fragment of 100 million": lambda: mp4((b"trun", 4, 1), (b"trun", 8, CLAIMED), options=FRAGMENTED),
    "mov with a compressed index of 300 MB": compressed_index,
    "matroska with 17 MB of empty attachments": lambda: matroska(b"\x61\xa7\x80", b"\x19\x41\xa4\x69", 17),
    "matroska with 17 MB of empty tags": lambda: matroska(b"\x73\x73\x80", b"\x12\x54\xc3\x67", 17),
}


SOUND: dict[str, Callable[[], bytes]] = {
    "0 mp4": mp4,
    "0 mp4 in fragments": lambda: mp4(options=FRAGMENTED),
    "0 matroska": lambda: mp4(form="matroska"),
    "0 mov with sound": lambda: mp4((b"stsz", 12, 2 * MOST_PICTURES), form="mov", sound=True),
}
"""What is taken. Of uncompressed sound FFmpeg keeps the chunks alone, so it may have more samples than a film pictures:
three and a half minutes at 48 kHz are more."""


@pytest.mark.parametrize("name", BOMBS)
def test_what_claims_to_be_huge_takes_little_memory(name: str, found: dict[str, tuple[float, list[str]]]) -> None:
    megabytes, said = found[name]
    assert megabytes < MEGABYTES, said
    if "with a text" not in name and "with a profile" not in name:  # the picture itself is sound
        assert not any("Content(" in each or each.startswith("(") for each in said), said


@pytest.mark.parametrize("name", SOUND)
def test_a_film_that_claims_what_it_holds_is_taken(name: str, found: dict[str, tuple[float, list[str]]]) -> None:
    assert "Content(" in found[name][1][0]


def test_the_uncompressed_sound_has_samples_of_a_stated_size() -> None:
    """Or the film above would show nothing."""
    data = SOUND["0 mov with sound"]()
    assert struct.unpack_from(">II", data, data.index(b"stsz") + 8) == (2, 2 * MOST_PICTURES)
