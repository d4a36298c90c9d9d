"""Pictures out of requests: the body as it is, or a form's parts. In memory alone: nothing raw is written anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message

from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.models import disguise, images
from sfumato.models.detectors import Image
from sfumato.models.images import FORMATS, ImageError
from sfumato.schemas.outcome import Reason

FORM = "multipart/form-data"
ACCEPTED = (*FORMATS, FORM)
MOST_PARTS = 8
LONGEST_HEAD = 1000
"""Bytes of a part's headers, and of Content-Type: Python's parser of their parameters takes time by the square."""
LARGEST = 1_000_000_000
"""Bytes of a body that SFUMATO_IMAGE_BYTES can allow at most."""
STATUS = {Reason.EMPTY: 400, Reason.TOO_LARGE: 413}
"""By the reason for which a picture is refused; any other: 422."""


@dataclass(frozen=True, slots=True)
class Received:
    """A picture's file and its content type, which its first bytes confirm; ``parts``: the form's other parts."""

    payload: bytes
    content_type: str
    parts: dict[str, bytes] = field(default_factory=dict)


async def receive(request: Request, limit: int, *parts: str) -> Received:
    """The request's picture, and the parts of a form that may come with it.

    400 without a picture, 413 for a body of more than ``limit`` bytes, 415 for other types and for a picture that is
    of another type than it says, 422 for a form that is not valid.
    """
    kind, options = _content_type(request.headers.get("content-type", ""))
    if kind not in ACCEPTED:
        raise _unsupported(f"Content-Type: {'missing' if not kind else 'not supported'}")
    body = await _body(request, limit)
    if kind != FORM:
        return _checked(body, kind, {})
    found = _split(body, options.get("boundary", ""))
    if unknown := found.keys() - {"image", *parts}:
        names = ", ".join(("image", *parts))
        raise HTTPException(422, f"{len(unknown)} unknown parts of the form; known: {names}")
    if "image" not in found:
        raise HTTPException(400, "image: missing; send the picture as the part `image`, or as the body itself")
    kind, image = found.pop("image")
    if kind not in FORMATS:
        raise _unsupported("image: its Content-Type is not supported")
    return _checked(image, kind, {name: content for name, (_, content) in found.items()})


def open_picture(payload: bytes, content_type: str, max_pixels: int) -> Image:
    """The upright picture (:func:`sfumato.models.images.decode_file`); 400, 413 or 422 where it cannot be had."""
    try:
        return images.decode_file(payload, content_type, max_pixels=max_pixels)
    except ImageError as error:
        raise refusal(error) from None


def refusal(error: ImageError) -> HTTPException:
    """What the caller is told of a picture that cannot be used: nothing of its content."""
    status = STATUS.get(error.reason, 422)
    remedy = {
        Reason.EMPTY: "send the picture's file",
        Reason.TOO_LARGE: "send a smaller picture",
        Reason.UNSUPPORTED_CONTENT_TYPE: "save it anew as one plain picture",
    }.get(error.reason, "it is damaged, cut short or not what it says; save it anew")
    return HTTPException(status, f"image: {error}: {remedy}")


def _checked(payload: bytes, content_type: str, parts: dict[str, bytes]) -> Received:
    if not payload:
        raise refusal(ImageError(Reason.EMPTY, "no bytes"))
    try:
        seen = images.sniff(payload)
    except ImageError:
        raise _unsupported("image: its content is not supported") from None
    if seen != content_type:
        raise _unsupported(f"image: its content is {seen}, its Content-Type says {content_type}")
    try:
        disguise.refuse(payload, content_type)
    except ImageError as error:
        raise refusal(error) from None
    return Received(payload, content_type, parts)


def _unsupported(problem: str) -> HTTPException:
    accepted = ", ".join(ACCEPTED)
    return HTTPException(415, f"{problem}; send one of {accepted}", {"Accept": accepted})


async def _body(request: Request, limit: int) -> bytes:
    refused = HTTPException(413, f"the body has more than {limit} bytes (SFUMATO_IMAGE_BYTES); send a smaller file")
    stated = request.headers.get("content-length", "0")
    if stated.isascii() and stated.isdecimal() and int(stated) > limit:
        raise refused
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise refused
    return bytes(body)


def _content_type(header: str) -> tuple[str, dict[str, str]]:
    if len(header) > LONGEST_HEAD:
        return "", {}
    message = Message()
    message["Content-Type"] = header
    return message.get_content_type() if header else "", dict(message.get_params(failobj=[], unquote=True)[1:])


def _split(body: bytes, boundary: str) -> dict[str, tuple[str, bytes]]:
    """A form's parts by name, each with its content type (RFC 7578)."""
    if not re.fullmatch(r"[0-9A-Za-z'()+_,./:=? -]{1,70}", boundary):
        raise HTTPException(422, "Content-Type: multipart/form-data wants a boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), MOST_PARTS + 1)
    if len(pieces) > MOST_PARTS + 1 or pieces[-1][:2] != b"--":
        raise HTTPException(422, f"the form is cut short or has more than {MOST_PARTS} parts")
    found: dict[str, tuple[str, bytes]] = {}
    for piece in pieces[1:-1]:
        head, separator, content = piece.lstrip(b" \t").partition(b"\r\n\r\n")
        name, kind = _described(head) if separator and len(head) <= LONGEST_HEAD else ("", "")
        if not name or name in found:
            detail = "a part of the form has no name, no content, long headers, or a name that was there before"
            raise HTTPException(422, detail)
        found[name] = (kind, content)
    return found


def _described(head: bytes) -> tuple[str, str]:
    """Name and content type of a part."""
    fields = dict(
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(":") for line in head.decode("utf-8", "replace").splitlines())
    )
    disposition = Message()
    disposition["Content-Disposition"] = fields.get("content-disposition", "")
    name = disposition.get_param("name", "", "content-disposition")
    return (name if isinstance(name, str) else ""), _content_type(fields.get("content-type", "text/plain"))[0]
