"""CloudEvents 1.0 in the Kafka protocol binding's binary mode: metadata as ``ce_*`` headers.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
Reading is strict because the headers come from outside: whatever is missing, doubled, too long or
of the wrong type is one named :class:`EnvelopeError`, never an exception of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

MAX_HEADERS = 64
MAX_HEADER_BYTES = 256 * 1024
"""Longest header value read, in bytes: the boxes of some 3,000 objects."""

CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""A camera's id: it is the Kafka key, part of URLs, file names and metric labels."""

Headers = list[tuple[str, str | bytes | None]]


class EnvelopeError(ValueError):
    """A message that breaks its contract. The text names the header and never quotes its value."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class FrameId(NamedTuple):
    """A frame's identity, the same on every topic it appears on.

    ``epoch`` is the UTC time in milliseconds at which the ingestor started reading the camera, or, where that is not
    newer than an epoch before, one more than that;
    ``sequence`` counts that epoch's frames from 0.
    """

    camera: str
    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.camera}/{self.epoch}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event's attributes; ``extensions`` holds those beyond the specification's own."""

    id: str
    source: str
    type: str
    time: datetime
    content_type: str
    extensions: Mapping[str, str] = field(default_factory=dict)

    def headers(self) -> Headers:
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": format_time(self.time),
            **self.extensions,
        }
        pairs: Headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        return [*pairs, ("content-type", self.content_type.encode())]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, str | bytes | None]] | None) -> CloudEvent:
        """Read the attributes back; :class:`EnvelopeError` where they break the contract."""
        texts = _texts(headers)
        if texts.pop("ce_specversion", None) != "1.0":
            raise EnvelopeError("ce_specversion", "missing or not 1.0")
        known = {name: _take(texts, f"ce_{name}") for name in ("id", "source", "type")}
        time = parse_time("ce_time", _take(texts, "ce_time"))
        content_type = _take(texts, "content-type")
        extensions = {name[3:]: text for name, text in texts.items() if name.startswith("ce_")}
        return cls(**known, time=time, content_type=content_type, extensions=extensions)

    def extension(self, name: str) -> str:
        """The text of an extension attribute; :class:`EnvelopeError` where it is missing."""
        try:
            return self.extensions[name]
        except KeyError:
            raise EnvelopeError(f"ce_{name}", "missing") from None

    def integer(self, name: str, *, largest: int = 2**63 - 1) -> int:
        """An extension attribute as an integer from 0 to ``largest``."""
        text = self.extension(name)
        if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= largest):
            raise EnvelopeError(f"ce_{name}", f"not an integer from 0 to {largest}")
        return int(text)

    def signed(self, name: str) -> int:
        """An extension attribute as an integer of 64 bits with a sign."""
        text = self.extension(name)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19 and -(2**63) <= int(text) < 2**63):
            raise EnvelopeError(f"ce_{name}", "not an integer of 64 bits")
        return int(text)

    def frame_id(self, key: bytes | None) -> FrameId:
        """The frame's identity; the message's key, camera and ``ce_id`` must agree."""
        camera = self.extension("camera")
        if not CAMERA_ID.fullmatch(camera):
            raise EnvelopeError("ce_camera", f"does not match {CAMERA_ID.pattern}")
        if key != camera.encode():
            raise EnvelopeError("key", "differs from ce_camera")
        frame = FrameId(camera, self.integer("epoch"), self.integer("sequence"))
        if self.id != str(frame):
            raise EnvelopeError("ce_id", "is not camera/epoch/sequence")
        return frame


def identity(frame: FrameId) -> dict[str, str]:
    """The extension attributes that carry a frame's identity."""
    return {"camera": frame.camera, "epoch": str(frame.epoch), "sequence": str(frame.sequence)}


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds, as CloudEvents asks."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(field: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise EnvelopeError(field, "not an RFC 3339 time") from None
    if time.tzinfo is None:
        raise EnvelopeError(field, "has no time zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise EnvelopeError(field, "not an RFC 3339 time") from None


def _texts(headers: Iterable[tuple[str, str | bytes | None]] | None) -> dict[str, str]:
    pairs = list(headers or ())
    if len(pairs) > MAX_HEADERS:
        raise EnvelopeError("headers", f"more than {MAX_HEADERS}")
    texts: dict[str, str] = {}
    for name, value in pairs:
        if not (name.startswith("ce_") or name == "content-type"):
            continue
        name = name if name.isascii() and len(name) <= 64 else "ce_*"
        if not isinstance(value, bytes):
            raise EnvelopeError(name, "no value")
        if len(value) > MAX_HEADER_BYTES:
            raise EnvelopeError(name, f"longer than {MAX_HEADER_BYTES} bytes")
        if name in texts:
            raise EnvelopeError(name, "given twice")
        try:
            texts[name] = value.decode()
        except UnicodeDecodeError:
            raise EnvelopeError(name, "not UTF-8") from None
    return texts


def _take(texts: dict[str, str], name: str) -> str:
    text = texts.pop(name, "")
    if not text:
        raise EnvelopeError(name, "missing or empty")
    return text
