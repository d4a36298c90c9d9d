"""Pictures that are something else as well: polyglots, which another program reads as a page, a program or an archive.

Nothing of them could come out, since a picture is written anew from its pixels. They are refused all the same: what
sends them is an attack or a mistake.
"""

from __future__ import annotations

import re

from sfumato.models.images import ImageError
from sfumato.schemas.outcome import Reason

HEAD = 4096
"""Browsers and PDF readers look for what they know in the first 1445 and 1024 bytes."""
TAIL = 65_557
"""A ZIP archive's directory ends so far from the file's end at most: 22 bytes and a comment of up to 65,535."""
MOST_SCANS = 200
"""A progressive JPEG has some ten; each of thousands would cost as much to decode as a picture."""

FOREIGN = re.compile(rb"<!doctype|<html[\s>]|<script|<iframe|<\?php|%pdf-|gif8[79]a", re.IGNORECASE)
DIRECTORY = b"PK\x05\x06"
IEND = b"IEND"


def refuse(payload: bytes, content_type: str) -> None:
    """Raises :class:`~sfumato.models.images.ImageError` for a JPEG, PNG or WebP that is also something else, has other
    bytes behind its end, or more scans than any camera writes. A JPEG may have a second picture or a film behind its
    end, as phones write them; neither comes out."""
    if FOREIGN.search(payload, 0, HEAD) or FOREIGN.search(payload, max(0, len(payload) - TAIL)) or _archive(payload):
        raise ImageError(Reason.UNSUPPORTED_CONTENT_TYPE, "is also a page, a program or an archive")
    if content_type == "image/jpeg" and payload.count(b"\xff\xda") > MOST_SCANS:
        raise ImageError(Reason.UNDECODABLE, f"has more than {MOST_SCANS} scans")
    end = {"image/png": _end_of_png, "image/webp": _end_of_webp}.get(content_type, len)(payload)
    if end < len(payload):
        raise ImageError(Reason.UNSUPPORTED_CONTENT_TYPE, f"has {len(payload) - end} bytes behind its end")


def _archive(payload: bytes) -> bool:
    at = payload.rfind(DIRECTORY, max(0, len(payload) - TAIL))
    return at >= 0 and at + 22 + int.from_bytes(payload[at + 20 : at + 22], "little") == len(payload)


def _end_of_png(payload: bytes) -> int:
    """Behind IEND; where there is none, the decoder says what is wrong."""
    at = 8
    while at + 12 <= len(payload):
        kind = payload[at + 4 : at + 8]
        at += 12 + int.from_bytes(payload[at : at + 4], "big")
        if kind == IEND:
            return at
    return len(payload)


def _end_of_webp(payload: bytes) -> int:
    length = int.from_bytes(payload[4:8], "little")
    return 8 + length + length % 2
