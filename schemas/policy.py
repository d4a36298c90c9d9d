"""The policy: what is masked on one camera, how, and on what lawful basis.

Travels on the compacted topic ``policies`` as JSON, key = camera. A policy that does not validate is
no policy: the camera's frames are then fully masked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID, CloudEvent, EnvelopeError
from sfumato.schemas.detection import Target
from sfumato.schemas.frame import Message

POLICY_TYPE = "sfumato.policy.v1"

Text = Annotated[str, Field(min_length=1, max_length=500)]
Relative = Annotated[float, Field(ge=0, le=1)]


class LawfulBasis(StrEnum):
    """GDPR Article 6(1), (a) to (f)."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTERESTS = "vital_interests"
    PUBLIC_TASK = "public_task"
    LEGITIMATE_INTERESTS = "legitimate_interests"


class MaskName(StrEnum):
    """The masks; ``sfumato.models.masks`` holds one function for each."""

    SOLID = "solid"
    MOSAIC = "mosaic"


class Shape(StrEnum):
    ELLIPSE = "ellipse"
    RECTANGLE = "rectangle"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Masking(_Part):
    """How one target is masked.

    ``threshold``: detections scored below it are ignored. ``dilation``: the box grows on each side by this
    share of its width and height. ``cells``: a mosaic's cells along the longer side of the box.
    """

    mask: MaskName = MaskName.MOSAIC
    shape: Shape = Shape.RECTANGLE
    threshold: Relative = 0.1
    dilation: Annotated[float, Field(ge=0, le=2)] = 0.25
    cells: Annotated[int, Field(ge=1, le=8)] = 6


class Zone(_Part):
    """A polygon that is always masked, corners as shares (0 to 1) of the picture's width and height."""

    name: Text
    polygon: Annotated[tuple[tuple[Relative, Relative], ...], Field(min_length=3, max_length=200)]
    mask: MaskName = MaskName.SOLID


class Codec(StrEnum):
    JPEG = "jpeg"
    H264 = "h264"


class Output(_Part):
    """How anonymized frames are encoded. ``keyframe_interval``: longest time between keyframes of H.264, in seconds,
    after which a consumer may join. ``bitrate``: of H.264, in kbit/s."""

    codec: Codec = Codec.JPEG
    keyframe_interval: Annotated[float, Field(gt=0, le=60)] = 2.0
    bitrate: Annotated[int, Field(ge=50, le=100_000)] = 2_000


class Damaged(StrEnum):
    """What becomes of pictures that a missing or damaged unit may have spoilt."""

    FULL_MASK = "full_mask"
    DROP = "drop"


class Policy(_Part):
    """``retention_hours`` states how long the anonymized frames may be kept; the topic's retention enforces it."""

    camera: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    version: Annotated[int, Field(ge=1, lt=2**63)]
    controller: Text
    purpose: Text
    lawful_basis: LawfulBasis
    dpia: Text
    retention_hours: Annotated[int, Field(ge=1)]
    targets: Annotated[dict[Target, Masking], Field(min_length=1)]
    zones: Annotated[tuple[Zone, ...], Field(max_length=100)] = ()
    output: Output = Output()
    damaged: Damaged = Damaged.FULL_MASK

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
