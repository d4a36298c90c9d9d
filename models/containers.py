"""Where pictures keep their metadata: the segments of a JPEG, the chunks of PNG and WebP. Bytes in, bytes out.

Every function raises ValueError, IndexError, struct.error or zlib.error where the container is malformed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
XMP_KEYWORD = b"XML:com.adobe.xmp"
PNG_PIXELS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"sBIT", b"bKGD"}
    | {b"acTL", b"fcTL", b"fdAT"}
)
"""Chunks that pixels and colours depend on."""
WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
MOST_TEXT = 4_000_000
"""Bytes that one compressed text may unpack to."""
SEGMENT = 65_533
"""Most bytes of a JPEG segment's payload."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment or chunk: its marker or type, its payload, and its bytes as they lie in the file."""

    name: bytes
    body: bytes
    whole: bytes


def segments(payload: bytes) -> Iterator[Piece]:
    """Of a JPEG up to the pixels; the last piece, ``SOS``, is all the rest."""
    at = 2
    while True:
        start = at
        while payload[at] == 0xFF and payload[at + 1] == 0xFF:  # fill bytes
            at += 1
        if payload[at] != 0xFF:
            raise ValueError("no marker")
        marker = payload[at + 1]
        if marker == 0xDA:
            yield Piece(b"SOS", b"", payload[at:])
            return
        if marker == 0xD9 or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            raise ValueError("no pixels")
        (length,) = struct.unpack_from(">H", payload, at + 2)
        if length < 2 or at + 2 + length > len(payload):
            raise ValueError("segment ends early")
        end = at + 2 + length
        yield Piece(bytes([marker]), payload[at + 4 : end], payload[start:end])
        at = end


def is_pixels(piece: Piece) -> bool:
    """Whether a JPEG's segment is needed to show it: tables, headers, JFIF, Adobe's colour transform, profiles."""
    marker = piece.name[0]
    if piece.name == b"SOS":
        return True
    if marker == 0xE2:
        return piece.body.startswith(b"ICC_PROFILE\0")
    if marker == 0xE0:
        return piece.body.startswith(b"JFIF\0")
    if marker == 0xEE:
        return piece.body.startswith(b"Adobe")
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def chunks(payload: bytes, content_type: str) -> Iterator[Piece]:
    """Of a PNG up to its end, or of a WebP."""
    at, png = (8, True) if content_type == "image/png" else (12, False)
    if not png:
        payload = payload[: 8 + int.from_bytes(payload[4:8], "little")]
    while at + 8 <= len(payload):
        if png:
            length, name = struct.unpack_from(">I4s", payload, at)
            end = at + 12 + length
        else:
            name, length = struct.unpack_from("<4sI", payload, at)
            end = at + 8 + length + length % 2
        if at + 8 + length > len(payload):
            raise ValueError("chunk ends early")
        yield Piece(name, payload[at + 8 : at + 8 + length], payload[at:end])
        if name == b"IEND":
            return
        at = end


def png_text(piece: Piece) -> tuple[bytes, str]:
    """Keyword and text of a ``tEXt``, ``zTXt`` or ``iTXt`` chunk."""
    keyword, _, rest = piece.body.partition(b"\0")
    if piece.name == b"tEXt":
        return keyword, rest.decode("latin-1")
    if piece.name == b"zTXt":
        return keyword, _unpacked(rest[1:]).decode("latin-1")
    compressed, (_, _, written) = rest[0], rest[2:].split(b"\0", 2)
    return keyword, (_unpacked(written) if compressed else written).decode("utf-8")


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(packed, MOST_TEXT)
    if unpacker.unconsumed_tail:
        raise ValueError("unpacks to too much")
    return found


def embed(payload: bytes, content_type: str, exif: bytes | None, xmp: bytes | None) -> bytes:
    """A picture that has no metadata, with these: ``exif`` as a TIFF structure, ``xmp`` as a packet."""
    if exif is None and xmp is None:
        return payload
    if content_type == "image/jpeg":
        return _embed_jpeg(payload, exif, xmp)
    return (_embed_png if content_type == "image/png" else _embed_webp)(payload, exif, xmp)


def _embed_jpeg(payload: bytes, exif: bytes | None, xmp: bytes | None) -> bytes:
    first = next(segments(payload))
    at = 2 + len(first.whole) if first.name == b"\xe0" else 2  # after JFIF's header
    added = b""
    for header, body in ((EXIF_HEADER, exif), (XMP_HEADER, xmp)):
        if body is not None:
            if len(header) + len(body) > SEGMENT:
                raise ValueError("more metadata than a segment holds")
            added += struct.pack(">BBH", 0xFF, 0xE1, 2 + len(header) + len(body)) + header + body
    return payload[:at] + added + payload[at:]


def _embed_png(payload: bytes, exif: bytes | None, xmp: bytes | None) -> bytes:
    at = 8 + len(next(chunks(payload, "image/png")).whole)
    added = b""
    if exif is not None:
        added += _png_chunk(b"eXIf", exif)
    if xmp is not None:
        added += _png_chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + xmp)
    return payload[:at] + added + payload[at:]


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _embed_webp(payload: bytes, exif: bytes | None, xmp: bytes | None) -> bytes:
    pieces = list(chunks(payload, "image/webp"))
    header = pieces.pop(0).body if pieces[0].name == b"VP8X" else _webp_header(pieces[0])
    flags = header[0] | (0x08 if exif is not None else 0) | (0x04 if xmp is not None else 0)
    body = _webp_chunk(b"VP8X", bytes([flags]) + header[1:])
    body += b"".join(_webp_chunk(piece.name, piece.body) for piece in pieces)
    body += _webp_chunk(b"EXIF", exif) if exif is not None else b""
    body += _webp_chunk(b"XMP ", xmp) if xmp is not None else b""
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)


def _webp_header(piece: Piece) -> bytes:
    """The ``VP8X`` payload of a simple WebP: flags, and width and height less one in 24 bits each."""
    flags, width, height = 0, 0, 0
    if piece.name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", piece.body, 6))
    else:
        (bits,) = struct.unpack_from("<I", piece.body, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = 0x10 if bits >> 28 & 1 else 0  # transparency
    sides = struct.pack("<II", width - 1, height - 1)
    return bytes([flags, 0, 0, 0]) + sides[0:3] + sides[4:7]


def bare(payload: bytes, content_type: str, exif: bytes | None) -> bytes:
    """The file with pixels, colours and this EXIF alone, so that decoders never see metadata of others."""
    if content_type == "image/jpeg":
        kept = b"".join(piece.whole for piece in segments(payload) if is_pixels(piece))
        return embed(b"\xff\xd8" + kept, content_type, exif, None)
    if content_type == "image/png":
        kept = b"".join(piece.whole for piece in chunks(payload, content_type) if piece.name in PNG_PIXELS)
        return embed(PNG_SIGNATURE + kept, content_type, exif, None)
    body = b""
    for piece in chunks(payload, content_type):
        if piece.name == b"VP8X":  # without the flags that announce EXIF and XMP
            body += _webp_chunk(b"VP8X", bytes([piece.body[0] & ~0x0C]) + piece.body[1:])
        elif piece.name in WEBP_PIXELS:
            body += piece.whole
    return embed(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, content_type, exif, None)
