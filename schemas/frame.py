"""The two frame messages: raw (ingestor to anonymizer) and anonymized (anonymizer to everyone).

The Kafka value is the plain encoded picture, so an ordinary consumer writes a viewable file; or an access unit of
H.264 or H.265 (``schemas/unit.py``), which an ordinary decoder plays from any keyframe on. On ``frames.raw`` it is
sealed (``agents/footage/sealing.py``) unless that was switched off; the headers say the same either way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId, Headers, identity
from sfumato.schemas.detection import Detection, dump_boxes, load_boxes
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.unit import CODECS, H264, AnonymizedUnit, RawUnit

RAW_TYPE = "sfumato.frame.raw.v1"
ANONYMIZED_TYPE = "sfumato.frame.anonymized.v1"
SEALING = "aes-256-gcm"
"""How a sealed value is made: 12 bytes of nonce, the ciphertext, 16 bytes of tag."""
HOUR = "%Y-%m-%dT%HZ"
MAX_SIDE = 65_535
"""Longest side a frame's headers may state, in pixels: JPEG's own limit."""


HeaderPairs = Iterable[tuple[str, str | bytes | None]] | None
"""Headers as Kafka clients give them."""


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
class _Frame:
    """What both frame messages say. ``width`` and ``height`` in pixels."""

    id: FrameId
    captured_at: datetime
    time_source: TimeSource
    width: int
    height: int
    content_type: str
    payload: bytes

    def _message(self, source: str, type_: str, extensions: dict[str, str]) -> Message:
        event = CloudEvent(
            id=str(self.id),
            source=source,
            type=type_,
            time=self.captured_at,
            content_type=self.content_type,
            extensions={
                **identity(self.id),
                "timesource": self.time_source.value,
                "width": str(self.width),
                "height": str(self.height),
                **extensions,
            },
        )
        return Message(self.id.camera.encode(), self.payload, event.headers())


@dataclass(frozen=True, slots=True)
class RawFrame(_Frame):
    """One encoded picture or access unit as a camera sent it; the size is what the ingestor saw."""

    unit: RawUnit | None = None
    """Given exactly where the content type is one of access units."""
    sealed_under: datetime | None = None
    """The UTC hour whose key seals the payload; None: the payload is the picture or unit itself."""

    def to_message(self) -> Message:
        extensions = self.unit.extensions() if self.unit else {}
        if self.sealed_under is not None:
            extensions |= {"sealing": SEALING, "sealinghour": self.sealed_under.astimezone(UTC).strftime(HOUR)}
        return self._message("/sfumato/ingest", RAW_TYPE, extensions)

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None, headers: HeaderPairs) -> RawFrame:
        """Read a message of ``frames.raw``; :class:`EnvelopeError` where it breaks the contract."""
        pairs = list(headers or ())
        event = CloudEvent.from_headers(pairs)
        fields = _fields(event, RAW_TYPE, key)
        unit = RawUnit.from_event(event) if event.content_type in CODECS else None
        frame = cls(**fields, payload=value or b"", unit=unit, sealed_under=_sealed_under(event))
        if frame.sealed_under is not None and _read_pairs(pairs) != dict(frame.to_message().headers):
            # The seal covers what the headers say, so there is one way only to say it, and nothing besides.
            raise EnvelopeError("headers", "of a sealed frame, but not as the ingestor writes them")
        return frame


@dataclass(frozen=True, slots=True)
class AnonymizedFrame(_Frame):
    """One encoded picture or access unit that may be published; ``detections`` are the boxes found in it."""

    outcome: Outcome
    reason: Reason | None
    policy_version: int | None
    detections: tuple[Detection, ...]
    unit: AnonymizedUnit | None = None
    """Given exactly where the content type is H.264's."""
    policy: str | None = None
    """The pattern under which the policy lies, where it is not the camera's own."""

    def to_message(self) -> Message:
        extensions = {"outcome": self.outcome.value, "boxes": dump_boxes(self.detections)}
        if self.reason is not None:
            extensions["reason"] = self.reason.value
        if self.policy_version is not None:
            extensions["policyversion"] = str(self.policy_version)
        if self.policy is not None:
            extensions["policy"] = self.policy
        if self.unit is not None:
            extensions.update(self.unit.extensions())
        return self._message("/sfumato/anonymize", ANONYMIZED_TYPE, extensions)

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None, headers: HeaderPairs) -> AnonymizedFrame:
        """Read a message of ``frames.anonymized``; :class:`EnvelopeError` where it breaks the contract."""
        event = CloudEvent.from_headers(headers)
        fields = _fields(event, ANONYMIZED_TYPE, key)
        if not value:
            raise EnvelopeError("value", "empty")
        named = event.extension("outcome")
        try:
            outcome = Outcome(named)
            reason = Reason(event.extensions["reason"]) if "reason" in event.extensions else None
        except ValueError:
            raise EnvelopeError("ce_outcome", "unknown outcome or reason") from None
        return cls(
            **fields,
            payload=value,
            outcome=outcome,
            reason=reason,
            policy_version=event.integer("policyversion") if "policyversion" in event.extensions else None,
            detections=load_boxes(event.extension("boxes")),
            policy=event.extensions.get("policy"),
            unit=AnonymizedUnit.from_event(event) if event.content_type == H264 else None,
        )


def _fields(event: CloudEvent, type_: str, key: bytes | None) -> dict[str, Any]:
    """The fields of :class:`_Frame` but the payload."""
    if event.type != type_:
        raise EnvelopeError("ce_type", f"not {type_}")
    clock = event.extension("timesource")
    try:
        time_source = TimeSource(clock)
    except ValueError:
        raise EnvelopeError("ce_timesource", f"not one of {', '.join(TimeSource)}") from None
    return {
        "id": event.frame_id(key),
        "captured_at": event.time,
        "time_source": time_source,
        "width": event.integer("width", largest=MAX_SIDE),
        "height": event.integer("height", largest=MAX_SIDE),
        "content_type": event.content_type,
    }


def _sealed_under(event: CloudEvent) -> datetime | None:
    if "sealing" not in event.extensions and "sealinghour" not in event.extensions:
        return None
    if event.extension("sealing") != SEALING:
        raise EnvelopeError("ce_sealing", f"not {SEALING}")
    hour = event.extension("sealinghour")
    try:
        return datetime.strptime(hour, HOUR).replace(tzinfo=UTC)
    except ValueError:
        raise EnvelopeError("ce_sealinghour", "not an hour as 2026-11-25T13Z") from None


def _read_pairs(pairs: list[tuple[str, str | bytes | None]]) -> dict[str, str | bytes | None]:
    """The headers that are part of the contract; others may travel along and mean nothing."""
    return {name: value for name, value in pairs if name.startswith("ce_") or name == "content-type"}
