"""The policy: what is masked on one camera, how, and on what lawful basis.

Travels on the compacted topic ``policies`` as JSON, key = camera. A policy that does not validate is
no policy: the camera's frames are then fully masked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID, CloudEvent, EnvelopeError
from sfumato.schemas.detection import Target
from sfumato.schemas.frame import Message
from sfumato.schemas.inspection import Inspection
from sfumato.schemas.masking import Masking, MaskName, with_defaults
from sfumato.schemas.part import Part, Text
from sfumato.schemas.zone import Zone

POLICY_TYPE = "sfumato.policy.v1"


class LawfulBasis(StrEnum):
    """GDPR Article 6(1), (a) to (f)."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTERESTS = "vital_interests"
    PUBLIC_TASK = "public_task"
    LEGITIMATE_INTERESTS = "legitimate_interests"


class Codec(StrEnum):
    JPEG = "jpeg"
    H264 = "h264"


class Output(Part):
    """How anonymized frames are encoded. ``keyframe_interval``: longest time between keyframes of H.264, in seconds,
    after which a consumer may join. ``bitrate``: of H.264, in kbit/s."""

    codec: Codec = Codec.JPEG
    keyframe_interval: Annotated[float, Field(gt=0, le=60)] = 2.0
    bitrate: Annotated[int, Field(ge=50, le=100_000)] = 2_000


class Damaged(StrEnum):
    """What becomes of pictures that a missing or damaged unit may have spoilt."""

    FULL_MASK = "full_mask"
    DROP = "drop"


class Policy(Part):
    """``retention_hours`` states how long the anonymized frames may be kept; the topic's retention enforces it.

    ``hold``: seconds for which the mask of an object that is no longer found stays. ``lookahead``: seconds by which a
    frame waits for later ones, whose detections then mask it too; so much latency is added.
    """

    camera: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    version: Annotated[int, Field(ge=1, lt=2**63)]
    controller: Text
    purpose: Text
    lawful_basis: LawfulBasis
    dpia: Text
    retention_hours: Annotated[int, Field(ge=1)]
    targets: Annotated[dict[Target, Masking], Field(min_length=1), BeforeValidator(with_defaults)]
    zones: Annotated[tuple[Zone, ...], Field(max_length=100)] = ()
    hold: Annotated[float, Field(ge=0, le=10)] = 1.0
    lookahead: Annotated[float, Field(ge=0, le=2)] = 0.2
    output: Output = Output()
    damaged: Damaged = Damaged.FULL_MASK
    inspect: Inspection = Inspection()

    def warnings(self) -> list[str]:
        """What is allowed and yet weak, in words that name the field."""
        targets = [f"targets.{t}.{warning}" for t, masking in self.targets.items() for warning in masking.warnings()]
        zones = [
            f"zones.{zone.name}.mask: a blur can be undone (docs/masks.md)"
            for zone in self.zones
            if zone.mask is MaskName.BLUR
        ]
        return targets + zones

    def to_message(self) -> Message:
        event = CloudEvent(
            id=f"{self.camera}/{self.version}",
            source="/sfumato/policies",
            type=POLICY_TYPE,
            time=datetime.now(UTC),
            content_type="application/json",
            extensions={"camera": self.camera},
        )
        return Message(self.camera.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes) -> Policy:
        """Read a message of ``policies``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            policy = cls.model_validate_json(value)
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != policy.camera.encode():
            raise EnvelopeError("key", "differs from camera")
        return policy
