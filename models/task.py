"""One frame on its way through the engine, and what has become of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from sfumato.models.detectors import Image
from sfumato.schemas.audit import DetectorRecord, Origin
from sfumato.schemas.detection import Detection
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Output, Policy
from sfumato.schemas.unit import AnonymizedUnit


@dataclass(frozen=True, slots=True)
class NoPolicy:
    """Why there is no policy by which a frame could be looked at; ``detail`` names the field at fault. Where a policy
    itself says so (its time is over, a schedule wants all masked), which one that is, how it wants its frames, and the
    SHA-256 of its text."""

    reason: Reason
    detail: str | None = None
    camera: str | None = None
    version: int | None = None
    schedule: str | None = None
    output: Output = field(default_factory=Output)
    sha256: str | None = None


@dataclass(slots=True, eq=False)
class Task:
    """``output`` is what may be published, None until the end or where the frame is dropped; ``content_type`` and
    ``unit`` describe it. ``timings`` in milliseconds by stage. ``origin``: where in Kafka the frame was read."""

    frame: RawFrame
    policy: Policy | NoPolicy
    origin: Origin | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    detail: str | None = None
    width: int | None = None
    height: int | None = None
    detections: tuple[Detection, ...] = ()
    detectors: tuple[DetectorRecord, ...] = ()
    spared: tuple[str, ...] = ()
    output: bytes | None = None
    content_type: str = "image/jpeg"
    unit: AnonymizedUnit | None = None
    timings: dict[str, float] = field(default_factory=dict)
    image: Image | None = None

    def drop(self, reason: Reason, detail: str | None = None) -> None:
        """Nothing of the frame is published."""
        self._fail(Outcome.DROPPED, reason, detail)

    def mask_fully(self, reason: Reason, detail: str | None = None) -> None:
        """A grey rectangle is published; :class:`~sfumato.models.engine.Engine` makes it."""
        self._fail(Outcome.FULLY_MASKED, reason, detail)

    def input_sha256(self) -> str:
        return hashlib.sha256(self.frame.payload).hexdigest()

    def output_sha256(self) -> str | None:
        return None if self.output is None else hashlib.sha256(self.output).hexdigest()

    def _fail(self, outcome: Outcome, reason: Reason, detail: str | None) -> None:
        self.outcome, self.reason, self.detail = outcome, reason, detail
        self.image, self.output, self.unit, self.detections, self.spared = None, None, None, (), ()
