"""The epoch record: an ingestor says that it began or ended reading a camera, and what it had to drop.

With the last sequence of an ended epoch a frame lost at its tail is noticed; without the end record (a
kill -9) the tail is what the broker acknowledged, and ``progress`` records bound what is unknown.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Reason

EPOCH_TYPE = "sfumato.epoch.v1"


class EpochState(StrEnum):
    BEGUN = "begun"
    PROGRESS = "progress"
    ENDED = "ended"


class EpochRecord(BaseModel):
    """``last_sequence`` is the newest frame that Kafka acknowledged (null: none yet); ``dropped`` counts,
    by reason, the frames read from the camera that never got a sequence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    camera: str
    epoch: int
    state: EpochState
    at: datetime
    last_sequence: int | None = None
    dropped: dict[Reason, int] = Field(default_factory=dict)

    def to_message(self) -> Message:
        event = CloudEvent(
            id=f"{self.camera}/{self.epoch}/{self.state}/{int(self.at.timestamp() * 1000)}",
            source="/sfumato/ingest",
            type=EPOCH_TYPE,
            time=self.at,
            content_type="application/json",
            extensions={"camera": self.camera, "epoch": str(self.epoch)},
        )
        return Message(self.camera.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, value: bytes | None) -> EpochRecord:
        """Read a message of ``epochs``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            return cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
