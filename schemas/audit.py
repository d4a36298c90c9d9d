"""The audit event: one per ingested frame, saying what became of it and why. No pixels, ever.

Its JSON Schema is published as ``docs/audit.schema.json``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError, FrameId, identity
from sfumato.schemas.detection import Detections, DetectorName
from sfumato.schemas.frame import Message, TimeSource
from sfumato.schemas.outcome import Outcome, Reason

AUDIT_TYPE = "sfumato.audit.v1"

MOST_DETECTORS = 32
MOST_SPARED = 100
"""As many zones as a policy has, at most."""
MOST_ERRORS = 100
"""Of one message, that are told one by one."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(ge=0)]


def _in_utc(moment: datetime) -> datetime:
    """A time without a zone is taken for UTC: it can be compared with none."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Instant = Annotated[datetime, AfterValidator(_in_utc)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(_Record):
    """Where in Kafka the frame was read from."""

    topic: str
    partition: int
    offset: int


class DetectorRecord(_Record):
    """A detector that looked at the frame."""

    name: DetectorName
    weights_sha256: Sha256


class Timings(_Record):
    """How long each stage took, in milliseconds; ``detect`` is the frame's share of its batch, ``track`` includes the
    target motion, ``wait`` is how long the frame waited for later ones."""

    decode: Milliseconds = 0.0
    detect: Milliseconds = 0.0
    track: Milliseconds = 0.0
    wait: Milliseconds = 0.0
    mask: Milliseconds = 0.0
    encode: Milliseconds = 0.0


class AuditEvent(_Record):
    """``camera``, ``epoch`` and ``sequence`` are null where the frame's envelope was unreadable;
    ``origin`` then identifies it. ``detail`` names the header or policy field at fault. ``policy``: the pattern
    under which the policy lies, where it is not the camera's own; ``policy_sha256``: of the text that the worker had,
    the value of a message on ``policies``; null where there was none. ``schedule``: which of its schedules
    was in force. ``spared``: the never-mask zones, by name, in which something found stayed unmasked."""

    id: str
    origin: Origin
    camera: str | None = None
    epoch: int | None = None
    sequence: int | None = None
    outcome: Outcome
    reason: Reason | None = None
    detail: str | None = None
    captured_at: Instant | None = None
    time_source: TimeSource | None = None
    audited_at: Instant
    policy: str | None = None
    policy_version: int | None = None
    policy_sha256: Sha256 | None = None
    schedule: str | None = None
    detectors: Annotated[tuple[DetectorRecord, ...], Field(max_length=MOST_DETECTORS, fail_fast=True)] = ()
    detections: Detections = ()
    spared: Annotated[tuple[str, ...], Field(max_length=MOST_SPARED, fail_fast=True)] = ()
    width: int | None = None
    height: int | None = None
    input_bytes: int
    input_sha256: Sha256
    output_bytes: int | None = None
    output_sha256: Sha256 | None = None
    timings_ms: Timings = Timings()

    @model_validator(mode="after")
    def _consistent(self) -> AuditEvent:
        if (self.outcome is Outcome.MASKED) != (self.reason is None):
            raise ValueError("reason: given exactly where the outcome is not masked")
        if (self.outcome is Outcome.DROPPED) != (self.output_sha256 is None):
            raise ValueError("output_sha256: given exactly where the outcome is not dropped")
        return self

    @property
    def frame(self) -> FrameId | None:
        if self.camera is None or self.epoch is None or self.sequence is None:
            return None
        return FrameId(self.camera, self.epoch, self.sequence)

    def to_message(self) -> Message:
        frame = self.frame
        event = CloudEvent(
            id=self.id,
            source="/sfumato/audit",
            type=AUDIT_TYPE,
            time=self.audited_at,
            content_type="application/json",
            extensions=identity(frame) if frame else {},
        )
        value = self.model_dump_json(by_alias=True).encode()
        return Message((self.camera or "").encode(), value, event.headers())

    @classmethod
    def from_message(cls, value: bytes | None) -> AuditEvent:
        """Read a message of ``audit``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            return cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None


def summary(error: ValidationError) -> str:
    """What is wrong and where, without the input itself."""
    if error.error_count() > MOST_ERRORS:  # a stranger's message may have any number
        return f"value: wrong in {error.error_count()} places"
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors(include_input=False)
    )
