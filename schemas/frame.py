"""The two frame messages: raw (ingestor to anonymizer) and anonymized (anonymizer to everyone).

The Kafka value is the plain encoded picture, so an ordinary consumer writes a viewable file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId, Headers, identity
from sfumato.schemas.detection import Detection, dump_boxes, load_boxes
from sfumato.schemas.outcome import Outcome, Reason

RAW_TYPE = "sfumato.frame.raw.v1"
ANONYMIZED_TYPE = "sfumato.frame.anonymized.v1"
MAX_SIDE = 65_535
"""Longest side a frame's headers may state, in pixels: JPEG's own limit."""


class Message(NamedTuple):
    """What is handed to a Kafka producer."""

    key: bytes
    value: bytes
    headers: Headers


class TimeSource(StrEnum):
    """Whose clock ``ce_time`` was read from."""

    CAMERA = "camera"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One encoded picture as a camera sent it. ``width`` and ``height`` in pixels, as the ingestor saw them."""

    id: FrameId
    captured_at: datetime
    time_source: TimeSource
    width: int
    height: int
    content_type: str
    payload: bytes

    def to_message(self) -> Message:
        extensions = {
            **identity(self.id),
            "timesource": self.time_source.value,
            "width": str(self.width),
            "height": str(self.height),
        }
        event = CloudEvent(str(self.id), "/sfumato/ingest", RAW_TYPE, self.captured_at, self.content_type, extensions)
        return Message(self.id.camera.encode(), self.payload, event.headers())

    @classmethod
    def from_message(
        cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, str | bytes | None]] | None
    ) -> RawFrame:
        """Read a message of ``frames.raw``; :class:`EnvelopeError` where it breaks the contract."""
        event = CloudEvent.from_headers(headers)
        if event.type != RAW_TYPE:
            raise EnvelopeError("ce_type", f"not {RAW_TYPE}")
        return cls(
            id=event.frame_id(key),
            captured_at=event.time,
            time_source=_time_source(event),
            width=event.integer("width", largest=MAX_SIDE),
            height=event.integer("height", largest=MAX_SIDE),
            content_type=event.content_type,
            payload=value or b"",
        )


@dataclass(frozen=True, slots=True)
class AnonymizedFrame:
    """One encoded picture that may be published; ``detections`` are the boxes found in it."""

    id: FrameId
    captured_at: datetime
    time_source: TimeSource
    width: int
    height: int
    content_type: str
    outcome: Outcome
    reason: Reason | None
    policy_version: int | None
    detections: tuple[Detection, ...]
    payload: bytes

    def to_message(self) -> Message:
        extensions = {
            **identity(self.id),
            "timesource": self.time_source.value,
            "width": str(self.width),
            "height": str(self.height),
            "outcome": self.outcome.value,
            "boxes": dump_boxes(self.detections),
        }
        if self.reason is not None:
            extensions["reason"] = self.reason.value
        if self.policy_version is not None:
            extensions["policyversion"] = str(self.policy_version)
        event = CloudEvent(
            str(self.id), "/sfumato/anonymize", ANONYMIZED_TYPE, self.captured_at, self.content_type, extensions
        )
        return Message(self.id.camera.encode(), self.payload, event.headers())

    @classmethod
    def from_message(
        cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, str | bytes | None]] | None
    ) -> AnonymizedFrame:
        """Read a message of ``frames.anonymized``; :class:`EnvelopeError` where it breaks the contract."""
        event = CloudEvent.from_headers(headers)
        if event.type != ANONYMIZED_TYPE:
            raise EnvelopeError("ce_type", f"not {ANONYMIZED_TYPE}")
        if not value:
            raise EnvelopeError("value", "empty")
        try:
            outcome = Outcome(event.extension("outcome"))
            reason = Reason(event.extensions["reason"]) if "reason" in event.extensions else None
        except ValueError:
            raise EnvelopeError("ce_outcome", "unknown outcome or reason") from None
        return cls(
            id=event.frame_id(key),
            captured_at=event.time,
            time_source=_time_source(event),
            width=event.integer("width", largest=MAX_SIDE),
            height=event.integer("height", largest=MAX_SIDE),
            content_type=event.content_type,
            outcome=outcome,
            reason=reason,
            policy_version=event.integer("policyversion") if "policyversion" in event.extensions else None,
            detections=load_boxes(event.extension("boxes")),
            payload=value,
        )


def _time_source(event: CloudEvent) -> TimeSource:
    try:
        return TimeSource(event.extension("timesource"))
    except ValueError:
        raise EnvelopeError("ce_timesource", f"not one of {', '.join(TimeSource)}") from None
