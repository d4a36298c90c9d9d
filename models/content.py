"""What an uploaded file is, by its content and never by its name; and what is refused whatever it calls itself.

Refused are files that are two things at once (a JPEG with a ZIP archive behind it, a film with a web page in it),
pictures and films of absurd sizes, and everything that is neither a picture nor a film of the kinds below.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import av
from av.error import FFmpegError
from av.stream import Disposition

from sfumato.models import images
from sfumato.models.film_index import boxes, check_matroska, check_mp4, read_at
from sfumato.models.images import ImageError
from sfumato.models.reading import MOST_STREAMS, FilmError, Seekable, open_file

SUPPORTED = "JPEG, PNG, WebP, MP4, MOV, MKV or WebM"
CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})
"""FFmpeg's names of the codecs of films."""
MOST_PICTURE_BYTES = 200_000_000
"""Of a picture, since it is decoded in memory."""
HEAD, TAIL = 4096, 22 + 65_535
"""Bytes at both ends that are searched for other formats; a ZIP archive ends within the latter."""
LEAST_PIXELS = 2
FOREIGN = {
    b"%pdf-": "a PDF",
    b"<html": "a web page",
    b"<!doctype": "a web page",
    b"<script": "a web page",
    b"<svg ": "a web page",
    b"<?php": "a program",
    b"rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
}
"""In lower case. In noise of some 70 KB one of them comes once in some hundred thousand files."""
EBML = b"\x1a\x45\xdf\xa3"
PADDING = frozenset({b"free", b"skip", b"wide", b"uuid", b"udta"})
"""Boxes of MP4 in which anything may lie, and which players skip."""


class ContentError(ValueError):
    """A file that is not taken; the text says why, and never what is in it."""


@dataclass(frozen=True, slots=True)
class Content:
    """``kind``: the media type. ``size``: width and height in pixels, as stored. ``seconds``: what a film says that it
    lasts; None for pictures and where it does not say."""

    kind: str
    size: tuple[int, int]
    seconds: float | None = None

    @property
    def film(self) -> bool:
        return self.kind.startswith("video/")


def recognise(file: Seekable, length: int, *, max_pixels: int, max_seconds: float) -> Content:
    """Look at a seekable file of so many bytes; only its ends and its structure are read. Raises
    :class:`ContentError`."""
    try:
        return _recognise(file, length, max_pixels, max_seconds)
    except FilmError as error:
        raise ContentError(str(error)) from None


def _recognise(file: Seekable, length: int, max_pixels: int, max_seconds: float) -> Content:
    head = read_at(file, 0, min(HEAD, length))
    kind = _kind(head)
    tail = read_at(file, max(0, length - TAIL), min(TAIL, length))
    for mark, name in FOREIGN.items():
        if mark in head.lower() or mark in tail.lower():
            raise ContentError(f"is {name}, too; upload the {_plain(kind)} alone")
    if _zip(tail):
        raise ContentError(f"is a ZIP archive, too; upload the {_plain(kind)} alone")
    if not kind.startswith("video/"):
        return _picture(file, length, kind, max_pixels)
    if kind in ("video/mp4", "video/quicktime"):
        _walk_boxes(file, length)
        check_mp4(file, length)
    else:
        check_matroska(file, length)
    return _film(file, kind, max_pixels, max_seconds)


def _kind(head: bytes) -> str:
    try:
        return images.sniff(head)
    except ImageError:
        pass
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):  # as older cameras write it
        return "video/quicktime"
    if head.startswith(EBML):
        named = re.search(rb"\x42\x82.{1,8}?(webm|matroska)", head[:128], re.DOTALL)  # DocType
        if named is not None:
            return "video/webm" if named[1] == b"webm" else "video/x-matroska"
    raise ContentError(f"is none of {SUPPORTED}, by its content")


def _plain(kind: str) -> str:
    return "film" if kind.startswith("video/") else "picture"


def _zip(tail: bytes) -> bool:
    """Whether the file ends as ZIP archives do (APPNOTE 4.3.16): whoever unpacks searches for it from the end."""
    place = tail.rfind(b"PK\x05\x06")
    while place >= 0:
        if len(tail) - place >= 22:
            disk, first, here, total, size = struct.unpack_from("<HHHHI", tail, place + 4)
            directory = tail[place - size : place - size + 4] if size <= place else b""
            wide = tail[max(0, place - 20) : place].startswith(b"PK\x06\x07")
            if wide or (
                disk == first == 0 and here == total and (directory == b"PK\x01\x02" or size > place or not total)
            ):
                return True
        place = tail.rfind(b"PK\x05\x06", 0, place)
    return False


def _picture(file: Seekable, length: int, kind: str, max_pixels: int) -> Content:
    if length > MOST_PICTURE_BYTES:
        raise ContentError(f"is a picture of more than {MOST_PICTURE_BYTES} bytes")
    payload = read_at(file, 0, length)
    lowered = payload.lower()
    for mark, name in FOREIGN.items():
        if len(mark) > 5 and mark in lowered:  # five letters come by chance, in one of some thousand pictures
            raise ContentError(f"is {name}, too; upload the picture alone")
    try:
        return Content(kind, images.inspect(payload, kind, max_pixels=max_pixels))
    except ImageError as error:
        raise ContentError(f"is a picture that cannot be used: {error}") from None


def _walk_boxes(file: Seekable, length: int) -> None:
    """An MP4 or MOV is a chain of boxes from its first byte to its last (ISO/IEC 14496-12, 4.2), with nothing between
    or behind."""
    found = set()
    for kind, start, size in boxes(file, length):
        found.add(kind)
        if kind in PADDING:
            inside = read_at(file, start, min(HEAD, size)).lower()
            if inside.startswith(b"pk\x03\x04") or any(mark in inside for mark in FOREIGN):
                raise ContentError("holds something else in a box that players skip; upload the film alone")
    if b"moov" not in found:
        raise ContentError("is an MP4 without its index (moov): it was cut short while it was recorded")


def _film(file: Seekable, kind: str, max_pixels: int, max_seconds: float) -> Content:
    file.seek(0)
    try:
        with open_file(file, kind, max_pixels) as container:
            if len(container.streams) >= MOST_STREAMS:
                raise ContentError(f"is a film of {MOST_STREAMS} streams or more")
            videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not videos or videos[0].codec_context is None:
                raise ContentError("is a film without video")
            context = videos[0].codec_context
            if context.codec.name not in CODECS and context.codec.canonical_name not in CODECS:
                raise ContentError("is a film of a codec other than H.264, H.265, VP8, VP9 and AV1")
            width, height = context.width, context.height
            if not min(width, height) >= LEAST_PIXELS or width * height > max_pixels:
                raise ContentError(f"is a film of {width}x{height} pixels: more than SFUMATO_MAX_PIXELS, or none")
            seconds = _seconds(container, videos[0])
    except (FilmError, FFmpegError, UnicodeDecodeError) as error:
        raise ContentError(f"is a film that cannot be read ({type(error).__name__})") from None
    if seconds is not None and not 0 <= seconds <= max_seconds:
        raise ContentError(
            f"is a film that says it lasts {seconds:.0f} seconds: SFUMATO_MAX_FILM_SECONDS is {max_seconds:.0f}"
        )
    return Content(kind, (width, height), seconds)


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The longest that is said anywhere."""
    said = [float(s.duration * s.time_base) for s in container.streams if s.duration is not None and s.time_base]
    if container.duration is not None:
        said.append(container.duration / av.time_base)
    return max(said, key=abs, default=None)
