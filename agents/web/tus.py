"""The words of tus 1.0.0 (https://tus.io/protocols/resumable-upload): what its headers say, and how it answers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum"
BYTES = {"type": "string", "pattern": "^[0-9]{1,18}$"}
"""Of a header that says a number of them."""
DIGESTS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
BODY = "application/offset+octet-stream"
MOST_SAID, MOST_NAMES = 4096, 20
"""Characters of Upload-Metadata, and names in it."""
STATUS_CHECKSUM_MISMATCH = 460
"""tus's own."""
PARAMETERS: dict[str, dict[str, Any]] = {
    "Tus-Resumable": {"required": True, "schema": {"enum": [VERSION]}, "description": "The protocol's version"},
    "Upload-Offset": {"required": True, "schema": BYTES, "description": "Where the body goes on: what HEAD tells"},
    "Upload-Length": {"schema": BYTES, "description": "Bytes of the whole file"},
    "Upload-Defer-Length": {"schema": {"enum": ["1"]}, "description": "The length is said later"},
    "Upload-Metadata": {
        "schema": {"type": "string", "maxLength": MOST_SAID},
        "description": "Names, each with a space and its value in Base64, by commas: `filename bWFya2V0Lm1wNA==`",
    },
    "Upload-Checksum": {
        "schema": {"type": "string", "pattern": f"^({'|'.join(DIGESTS)}) [A-Za-z0-9+/]+={{0,2}}$"},
        "description": "Of this body: the algorithm, a space and the digest in Base64",
    },
}


def described(*headers: str, body: bool | None = None) -> dict[str, Any]:
    """For OpenAPI: the headers that an operation reads; ``body``: whether it wants one, None: it takes none."""
    said: dict[str, Any] = {"parameters": [{"name": name, "in": "header", **PARAMETERS[name]} for name in headers]}
    if body is not None:
        content = {BODY: {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
        said["requestBody"] = {"required": body, "content": content}
    return said


@dataclass(frozen=True, slots=True)
class Checksum:
    """``digest``: to be updated with the body; ``wanted``: what it is to come to."""

    digest: Any
    wanted: bytes


def checksum(request: Request) -> Checksum | None:
    """Upload-Checksum; 400 where it is not one."""
    said = request.headers.get("upload-checksum")
    if said is None:
        return None
    name, _, encoded = said.partition(" ")
    if name not in DIGESTS:
        raise refusal(400, f"Upload-Checksum: wants one of {', '.join(DIGESTS)}, a space and the digest in Base64")
    digest = DIGESTS[name]()
    try:
        wanted = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        wanted = b""
    if len(wanted) != digest.digest_size:
        raise refusal(400, f"Upload-Checksum: not a {name} digest in Base64")
    return Checksum(digest, wanted)


def metadata(text: str) -> dict[str, str]:
    """Upload-Metadata, ``name base64,name base64``, by name; 400 where it is not so."""
    said: dict[str, str] = {}
    if not text:
        return said
    if len(text) > MOST_SAID:
        raise refusal(400, f"Upload-Metadata: at most {MOST_SAID} characters")
    for pair in text.split(","):
        found = re.fullmatch(r"\s*([!-+\--~]{1,100})(?: ([A-Za-z0-9+/=]*))?\s*", pair)
        try:
            value = base64.b64decode(found[2] or "", validate=True).decode() if found else ""
        except (binascii.Error, UnicodeDecodeError):
            found, value = None, ""
        if found is None or found[1] in said or len(said) >= MOST_NAMES or "\0" in value:
            raise refusal(400, "Upload-Metadata: wants different names, each with its value in Base64 of UTF-8")
        said[found[1]] = value
    return said


def number(request: Request, header: str) -> int | None:
    """The number of bytes that a header says; None: it is missing; 400 where it is none."""
    text = request.headers.get(header)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise refusal(400, f"{header.title()}: wants a number of bytes")
    return int(text)


def date(moment: datetime) -> str:
    """As HTTP writes it."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def answer(status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(None, status, {"Tus-Resumable": VERSION, "Cache-Control": "no-store", **(headers or {})})


def refusal(status: int, text: str, headers: dict[str, str] | None = None) -> HTTPException:
    return HTTPException(status, text, {"Tus-Resumable": VERSION, **(headers or {})})
