"""The find: something that should have been masked and was seen on a published frame. No pixels, ever.

Travels on the topic ``finds`` as JSON, key = camera. Its JSON Schema is published as ``docs/find.schema.json``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from sfumato.schemas.audit import DetectorRecord, summary
from sfumato.schemas.cloudevent import CAMERA_ID, CloudEvent, EnvelopeError, FrameId, identity
from sfumato.schemas.detection import Target
from sfumato.schemas.frame import MAX_SIDE, Message
from sfumato.schemas.part import Part, Relative

FIND_TYPE = "sfumato.find.v1"

Count = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Find(Part):
    """Identity: (camera, epoch, sequence, detector's name, index); the same one again is a duplicate.

    ``index`` counts what one detector found in the frame, from 0. ``box`` in pixels of the frame of ``width`` by
    ``height``: x0, y0, x1, y1; ``covered``: the share of it that was masked. ``smallest``: the height in pixels for
    which the input size was chosen; null: the detector's own. ``policy_version``: the one under which the frame was
    masked. ``published_at``: when the frame was written to ``frames.anonymized``; the leak budget counts by it.
    """

    camera: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    epoch: Count
    sequence: Count
    index: Count
    target: Target
    score: Relative
    box: tuple[float, float, float, float]
    covered: Relative
    width: Side
    height: Side
    detector: DetectorRecord
    smallest: int | None = None
    policy_version: int
    published_at: AwareDatetime
    found_at: AwareDatetime

    @property
    def frame(self) -> FrameId:
        return FrameId(self.camera, self.epoch, self.sequence)

    @property
    def id(self) -> str:
        return f"{self.frame}/{self.detector.name}/{self.index}"

    def to_message(self) -> Message:
        event = CloudEvent(
            id=self.id,
            source="/sfumato/inspect",
            type=FIND_TYPE,
            time=self.found_at,
            content_type="application/json",
            extensions=identity(self.frame),
        )
        return Message(self.camera.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None) -> Find:
        """Read a message of ``finds``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            find = cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != find.camera.encode():
            raise EnvelopeError("key", "differs from camera")
        return find
