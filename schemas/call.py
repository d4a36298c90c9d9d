"""The call: who did what through the API, and for which purpose. No bodies, no query strings, no keys, no pixels.

Travels on the topic ``calls`` as JSON, key = caller. Its JSON Schema is published as ``docs/call.schema.json``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.frame import Message
from sfumato.schemas.part import Part

CALL_TYPE = "sfumato.call.v1"
NOBODY = "nobody"
"""The key of calls whose caller is not known."""

Count = Annotated[int, Field(ge=0)]


class Call(Part):
    """Identity: ``id``. A WebSocket is recorded when it opens, without ``duration_ms`` and bytes, and under the same
    ``id`` when it ends: the last record counts.

    ``caller``: as :class:`~sfumato.agents.access.callers.Caller` names it; null where none was known. ``purpose``: that
    of the key. ``route``: the path with names for its parts, null where there is no such endpoint; ``path``: with what
    stood there. ``bytes_in``, ``bytes_out``: of bodies and WebSocket messages.
    """

    id: Annotated[str, Field(min_length=1, max_length=64)]
    at: AwareDatetime
    caller: Annotated[str, Field(max_length=1000)] | None
    purpose: Annotated[str, Field(max_length=1000)] | None
    method: Annotated[str, Field(max_length=20)]
    route: str | None
    path: Annotated[str, Field(max_length=500)]
    status: Annotated[int, Field(ge=100, le=599)]
    request_id: Annotated[str, Field(max_length=200)] | None = None
    duration_ms: Annotated[float, Field(ge=0)] | None = None
    bytes_in: Count | None = None
    bytes_out: Count | None = None

    @property
    def key(self) -> str:
        return self.caller or NOBODY

    def to_message(self) -> Message:
        event = CloudEvent(
            id=self.id,
            source="/sfumato/bridge",
            type=CALL_TYPE,
            time=self.at,
            content_type="application/json",
            extensions={},
        )
        return Message(self.key.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None) -> Call:
        """Read a message of ``calls``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            call = cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != call.key.encode():
            raise EnvelopeError("key", "differs from caller")
        return call
