"""Parts of a file, as ``Range`` asks for them (RFC 9110, section 14), and what is said of a whole one."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException


class File(Protocol):
    @property
    def sha256(self) -> str: ...

    @property
    def bytes(self) -> int: ...

    @property
    def content_type(self) -> str: ...


def answer(
    request: Request, file: File, name: str, read: Callable[[int, int], Iterable[bytes]], *, keep: bool = True
) -> Response:
    """The file, or the part of it that is asked for; 304 alone where the caller has it already, no bytes to HEAD.

    ``read`` is called where bytes are sent, with the first one and the first one after the last; what it raises is
    raised. ``keep``: whether the caller may keep it. HTTPException 416 where the part lies behind the end."""
    headers = _headers(file.sha256, name) | ({} if keep else {"Cache-Control": "no-store"})
    if _known(request, file.sha256):
        return Response(status_code=304, headers=headers)
    start, end = _part(request, file.sha256, file.bytes)
    status = 200
    if (start, end) != (0, file.bytes):
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{file.bytes}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.content_type)
    return StreamingResponse(read(start, end), status, headers, file.content_type)


def _headers(sha256: str, name: str) -> dict[str, str]:
    """What every answer about a file says: its version by its content, and its name for those who save it."""
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {
        "ETag": f'"{sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(name),
        "Cache-Control": "private, no-cache",
    }


def _known(request: Request, sha256: str) -> bool:
    """Whether the caller has it already: answer 304."""
    given = request.headers.get("if-none-match", "").split(",")
    return f'"{sha256}"' in [each.strip().removeprefix("W/") for each in given]


def _part(request: Request, sha256: str, size: int) -> tuple[int, int]:
    """First byte, and the first one after it; all where nothing, something unknown or another version is asked for."""
    wanted, tag = request.headers.get("range", ""), f'"{sha256}"'
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted.replace(" ", ""))
    if found is None or found.groups() == ("", "") or request.headers.get("if-range", tag) != tag:
        return 0, size
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return 0, size  # not valid, so ignored (RFC 9110, 14.1.1)
    if start >= size or start >= end:
        raise HTTPException(416, f"Range: the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, end


def _disposition(name: str) -> str:
    """RFC 6266, with the name in ASCII for those who know no other."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
