"""ETags and the requests that rest on them: ``If-None-Match`` on what is read, ``If-Match`` on what is changed.

A resource's ``state`` is any text that changes with it. Its ETag also names the format, since the bytes differ by
format; a condition holds in any format. Endpoints declare the headers with :data:`IfMatch` and :data:`IfNoneMatch`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, TypeVar

from fastapi import Header, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents.web import formats

T = TypeVar("T")

IfMatch = Annotated[str | None, Header(description="The ETag of the version that this changes", max_length=1000)]
IfNoneMatch = Annotated[
    str | None,
    Header(description="When read: ETags known already (304). When written: `*`, to create only", max_length=1000),
]

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')
_NAMES = {formats.JSON: "json", formats.XML: "xml", formats.PROTOBUF: "pb"}


def etag(request: Request, state: str) -> str:
    return f'"{_digest(state)}.{_NAMES.get(formats.chosen(request), "bin")}"'


def unchanged(request: Request, state: str) -> bool:
    """Whether the caller has this already: answer 304 with the ETag."""
    given = request.headers.get("if-none-match")
    return given is not None and (given.strip() == "*" or _digest(state) in _digests(given, weak=True))


def answer(request: Request, response: Response, state: str, found: T) -> T | Response:
    """What was read, with its ETag; 304 alone where the caller has it already."""
    headers = {"ETag": etag(request, state)}
    if unchanged(request, state):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return found


def permit_change(request: Request, state: str | None) -> None:
    """Whether the caller may write, ``state`` None: to what does not exist. HTTPException 428 without a condition, 412
    where it does not hold."""
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is None and none_match is None:
        raise HTTPException(428, "send If-Match with the ETag of the version that you change, or If-None-Match: *")
    if none_match is not None and none_match.strip() != "*":
        raise HTTPException(412, "If-None-Match: only * has a meaning here, to create what does not exist")
    if none_match is not None and state is not None:
        raise HTTPException(412, "If-None-Match: it exists; GET it and send its ETag in If-Match")
    if match is None:
        return
    if state is None:
        raise HTTPException(412, "If-Match: it does not exist; send If-None-Match: * to create it")
    if match.strip() != "*" and _digest(state) not in _digests(match, weak=False):
        raise HTTPException(412, "If-Match: it was changed since; GET it again and send its ETag")


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()[:32]


def _digests(header: str, *, weak: bool) -> set[str]:
    return {tag.rpartition(".")[0] for weakness, tag in _TAG.findall(header) if weak or not weakness}
