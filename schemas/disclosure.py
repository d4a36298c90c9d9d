"""The disclosure: one act around a subject request, told before it takes effect. No pixels, no names.

Travels on the topic ``disclosures`` as JSON, key = request. Its JSON Schema is published as
``docs/disclosure.schema.json``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from sfumato.schemas.audit import Sha256, summary
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.frame import Message
from sfumato.schemas.part import Part, Text
from sfumato.schemas.report import Count
from sfumato.schemas.subject_request import CameraId, RequestId, SubjectKind

DISCLOSURE_TYPE = "sfumato.disclosure.v1"


class Act(StrEnum):
    """``made``: the clip lies ready, sealed. ``delivered``: its requester begins to fetch it. ``shredded``: keys of the
    footage that it names were deleted by somebody although it was open."""

    REQUESTED = "requested"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    MADE = "made"
    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"
    EXPIRED = "expired"
    SHREDDED = "shredded"


class Disclosure(Part):
    """Identity: ``id``; the same one again is a duplicate.

    ``by``: who did it, a caller of the API or ``sfumato reveal``. ``camera``, ``epoch``, ``sequence``, ``box``: where
    the person was chosen, in pixels of that anonymized frame. ``reason``, ``case``: as the requester gave them;
    ``note``: the approver's, or why it failed. ``needed``: approvals. ``sha256``: of the clip, ``frames``: in it,
    ``shown``: in which the person is seen, or masked for sure. ``range``: which bytes were asked for.
    """

    id: Annotated[str, Field(min_length=1, max_length=100)]
    request: RequestId
    act: Act
    at: AwareDatetime
    by: Annotated[str, Field(min_length=1, max_length=1000)]
    kind: SubjectKind
    camera: CameraId
    epoch: Count
    sequence: Count
    box: tuple[float, float, float, float]
    since: AwareDatetime
    until: AwareDatetime
    reason: Text
    case: Text
    needed: Count
    note: Text | None = None
    sha256: Sha256 | None = None
    frames: Count | None = None
    shown: Count | None = None
    range: Annotated[str, Field(max_length=100)] | None = None

    def to_message(self) -> Message:
        event = CloudEvent(
            id=self.id,
            source="/sfumato/subject-requests",
            type=DISCLOSURE_TYPE,
            time=self.at,
            content_type="application/json",
            extensions={"camera": self.camera},
        )
        return Message(self.request.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None) -> Disclosure:
        """Read a message of ``disclosures``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            disclosure = cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != disclosure.request.encode():
            raise EnvelopeError("key", "differs from request")
        return disclosure
