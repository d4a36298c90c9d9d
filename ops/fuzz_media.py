"""Valid pictures, films, access units and what they carry, small: seeds as those of ``ops/fuzz_seeds.py``."""

from __future__ import annotations

import functools
import io
import tempfile
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from fuzz import CANARY
from PIL import Image, PngImagePlugin

from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.unit import H264, H265, RawUnit

AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SIDE = 64


@functools.cache
def _film(suffix: str, codec: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film{suffix}"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = CANARY
            quiet = {"x265-params": "log-level=none:keyint=4"} if codec == "libx265" else {"g": "4"}
            stream = container.add_stream(codec, rate=10, options=quiet)
            stream.width = stream.height = SIDE  # x265 writes beyond its memory where pictures are smaller than 64
            stream.pix_fmt = "yuv420p"
            for number in range(6):
                picture = np.full((SIDE, SIDE, 3), 40 * number, np.uint8)
                picture[number : number + 9, number : number + 9] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode())
        return path.read_bytes()


def coded(codec: str) -> list[bytes]:
    """Access units as Annex B, parameter sets in front of the keyframes."""
    name = {"libx264": "h264", "libx265": "hevc"}[codec]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        path.write_bytes(_film(".mp4", codec))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            bits = av.BitStreamFilterContext(f"{name}_mp4toannexb", in_stream=stream)
            found = [out for packet in container.demux(stream) for out in bits.filter(packet) if out.size]
            return [bytes(packet) for packet in found]


@functools.cache
def raw_units() -> tuple[RawFrame, ...]:
    """Two frames of H.264, then two of H.265; the first of each is a keyframe."""
    made = []
    for codec, content_type in (("libx264", H264), ("libx265", H265)):
        for number, payload in enumerate(coded(codec)[:2]):
            unit = RawUnit(number * 9000, Fraction(1, 90_000), number == 0, dts=-5)
            shared = (AT, TimeSource.CAMERA, SIDE, SIDE, content_type, payload, unit)
            made.append(RawFrame(FrameId("north", 1, number), *shared))
    return tuple(made)


def units() -> list[bytes]:
    found = [b"\0" + unit for unit in coded("libx264")[:3]] + [b"\1" + unit for unit in coded("libx265")[:3]]
    for suffix, codec, flags in ((".mp4", "libx264", b"\2\4"), (".mp4", "libx265", b"\3\5")):
        with av.open(io.BytesIO(_film(suffix, codec))) as container:
            stream = container.streams.video[0]
            found.append(flags[:1] + bytes(stream.codec_context.extradata or b""))
            found.append(flags[1:] + bytes(next(packet for packet in container.demux(stream) if packet.size)))
    return found


def unit_pairs() -> list[bytes]:
    """Of equal length, by zeros at an end, which Annex B allows."""
    frames = raw_units()
    pairs = []
    for kind, first, second in ((b"4", *frames[:2]), (b"5", *frames[2:])):
        length = max(len(first.payload) + 1, len(second.payload))
        pairs.append(kind + first.payload.ljust(length - 1, b"\0") + second.payload.ljust(length, b"\0"))
    return pairs


def pictures() -> list[bytes]:
    noise = np.random.default_rng(1).integers(0, 255, (20, 24, 3), np.uint8)
    picture, found = Image.fromarray(noise), []
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = CANARY, 6
    exif.get_ifd(0x8769)[0x9003] = "2026:11:24 12:00:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 1.0, 2.0), 3: "E", 4: (4.0, 1.0, 2.0)})
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", CANARY, zip=True)
    text.add_itxt("XML:com.adobe.xmp", xmp()[0].decode(), zip=True)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"exif": exif, "xmp": xmp()[0]}), ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif, "pnginfo": text}),
        ("WEBP", {"exif": exif.tobytes(), "xmp": xmp()[0]}), ("WEBP", {"lossless": True}),
    ]  # fmt: skip
    for form, options in kinds:
        out = io.BytesIO()
        picture.save(out, form, **options)
        found.append(out.getvalue())
    for mode in ("L", "P", "RGBA", "I;16", "1", "CMYK"):
        out = io.BytesIO()
        made = Image.fromarray(np.zeros((9, 9), np.uint16)) if mode == "I;16" else picture.convert(mode)
        made.save(out, "JPEG" if mode == "CMYK" else "PNG")
        found.append(out.getvalue())
    return found


def xmp() -> list[bytes]:
    return [
        (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
            'exif:GPSLatitude="52,1.5N" exif:GPSLongitude="4,1,2E" exif:DateTimeOriginal="2026-11-24T12:00:00+01:00">'
            f"<dc:creator><rdf:Seq><rdf:li>{CANARY}</rdf:li></rdf:Seq></dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>"
        ).encode()
    ]


def moments() -> list[bytes]:
    return [
        b"2026-11-24T12:00:00.5+01:00",
        b"2026:11:24 12:00:00",
        b"+52.01+004.35+5.2CRSWGS_84/",
        b"2026-11-24T12:00Z",
    ]


def films() -> list[bytes]:
    kinds = (
        (".mp4", "libx264", b"\0"),
        (".mkv", "libx264", b"\1"),
        (".webm", "libvpx-vp9", b"\2"),
        (".mp4", "libx265", b"\3"),
    )
    return [_film(suffix, codec) + kind for suffix, codec, kind in kinds]


def files() -> list[bytes]:
    return [film[:-1] for film in films()] + pictures()
