"""What is searched for on the topics of records: audit events and calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.call import Call
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import AUDIT, CALLS, Topic


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """``since`` (inclusive) and ``until`` (exclusive) by ``audited_at``. ``sees``: whether the caller may see events of
    a camera, None: of no camera."""

    sees: Callable[[str | None], bool]
    camera: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None

    topic: ClassVar[Topic] = AUDIT

    def read(self, key: bytes | None, value: bytes | None) -> AuditEvent | None:
        if self.camera is not None and key != self.camera.encode():
            return None
        event = AuditEvent.from_message(value)
        return event if self._matches(event) else None

    def _matches(self, event: AuditEvent) -> bool:
        return (
            self.sees(event.camera)
            and self.camera in (None, event.camera)
            and self.outcome in (None, event.outcome)
            and self.reason in (None, event.reason)
            and _within(event.audited_at, self.since, self.until)
        )


@dataclass(frozen=True, slots=True)
class CallQuery:
    """``since`` (inclusive) and ``until`` (exclusive) by ``at``. ``sees``: whether the calls of that caller may be
    seen, None: of nobody known."""

    sees: Callable[[str | None], bool]
    caller: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    method: str | None = None
    route: str | None = None
    status: int | None = None

    topic: ClassVar[Topic] = CALLS

    def read(self, key: bytes | None, value: bytes | None) -> Call | None:
        if self.caller is not None and key != self.caller.encode():
            return None
        call = Call.from_message(key, value)
        return call if self._matches(call) else None

    def _matches(self, call: Call) -> bool:
        return (
            self.sees(call.caller)
            and self.caller in (None, call.caller)
            and self.method in (None, call.method)
            and self.route in (None, call.route)
            and self.status in (None, call.status)
            and _within(call.at, self.since, self.until)
        )


def _within(moment: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or moment >= since) and (until is None or moment < until)
