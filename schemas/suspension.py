"""The suspension: a camera's leak budget is spent and its frames are fully masked, until a person lifts it.

Travels on the compacted topic ``suspensions`` as JSON. The newest record of a camera is its state. The key is
camera/milliseconds, so no record replaces another: who did what, when and why stays readable.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CAMERA_ID, CloudEvent, EnvelopeError
from sfumato.schemas.frame import Message
from sfumato.schemas.part import Part, Text

SUSPENSION_TYPE = "sfumato.suspension.v1"


class SuspensionState(StrEnum):
    SUSPENDED = "suspended"
    LIFTED = "lifted"


class Suspension(Part):
    """One change of a camera's state: ``by`` whom, ``at`` what time, and why (``note``). ``finds``: how many were
    counted when it was suspended. Finds on frames published before a lift no longer count."""

    camera: Annotated[str, Field(pattern=f"^{CAMERA_ID.pattern}$")]
    state: SuspensionState
    at: AwareDatetime
    by: Text
    note: Text
    finds: Annotated[int, Field(ge=0)] | None = None

    @property
    def key(self) -> str:
        return f"{self.camera}/{int(self.at.timestamp() * 1000)}"

    @property
    def suspended(self) -> bool:
        return self.state is SuspensionState.SUSPENDED

    def to_message(self) -> Message:
        event = CloudEvent(
            id=self.key,
            source="/sfumato/suspension",
            type=SUSPENSION_TYPE,
            time=self.at,
            content_type="application/json",
            extensions={"camera": self.camera},
        )
        return Message(self.key.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None) -> Suspension:
        """Read a message of ``suspensions``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            suspension = cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != suspension.key.encode():
            raise EnvelopeError("key", "is not camera/milliseconds of the value")
        return suspension
