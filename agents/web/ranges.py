"""Parts of a file, as ``Range`` asks for them (RFC 9110, section 14), and what is said of a whole one."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

from fastapi import Request
from starlette.exceptions import HTTPException


def headers(sha256: str, name: str) -> dict[str, str]:
    """What every answer about a file says: its version by its content, and its name for those who save it."""
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {
        "ETag": f'"{sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(name),
        "Cache-Control": "private, no-cache",
    }


def known(request: Request, sha256: str) -> bool:
    """Whether the caller has it already: answer 304."""
    given = request.headers.get("if-none-match", "").split(",")
    return f'"{sha256}"' in [each.strip().removeprefix("W/") for each in given]


def part(request: Request, sha256: str, size: int) -> tuple[int, int]:
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


def disposition(name: str) -> str:
    """RFC 6266, with the name in ASCII for those who know no other."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
