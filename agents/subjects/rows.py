"""Subject requests as they lie in the database, and as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from sfumato.agents.database import Base, Instant
from sfumato.schemas.anonymization import Rectangle
from sfumato.schemas.detection import Target
from sfumato.schemas.subject_request import Approval, Clip, SubjectDraft, SubjectRequest, SubjectState, Verdict

OPEN = (SubjectState.PENDING, SubjectState.APPROVED, SubjectState.READY)


class RequestRow(Base):
    """``draft``: as it was asked for. ``box``, ``target``, ``origin``: what was chosen, and where the frame lies on
    ``frames.raw``. ``made_by``: who made the requester's key. ``upload``: the clip, or what the newest attempt has made
    of it; it counts where ``clip`` is there."""

    __tablename__ = "subject_requests"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    requester: Mapped[str] = mapped_column(String(1000), index=True)
    made_by: Mapped[str | None] = mapped_column(String(1000))
    camera: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(20), index=True)
    version: Mapped[int] = mapped_column(Integer)
    draft: Mapped[dict[str, Any]] = mapped_column(JSON)
    target: Mapped[str | None] = mapped_column(String(20))
    box: Mapped[dict[str, Any]] = mapped_column(JSON)
    origin: Mapped[dict[str, Any]] = mapped_column(JSON)
    needed: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(String(500))
    gone_at: Mapped[datetime | None] = mapped_column(Instant)
    upload: Mapped[str | None] = mapped_column(String(32))
    clip: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    footage_until: Mapped[datetime | None] = mapped_column(Instant)
    attempts: Mapped[int] = mapped_column(Integer)
    leased_until: Mapped[datetime | None] = mapped_column(Instant)
    worker: Mapped[str | None] = mapped_column(String(100))


class ApprovalRow(Base):
    """One caller's verdict. ``number``: in the order they came."""

    __tablename__ = "subject_approvals"

    request: Mapped[str] = mapped_column(ForeignKey("subject_requests.id", ondelete="CASCADE"), primary_key=True)
    caller: Mapped[str] = mapped_column(String(1000), primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    made_by: Mapped[str | None] = mapped_column(String(1000))
    verdict: Mapped[str] = mapped_column(String(20))
    note: Mapped[str] = mapped_column(String(500))
    at: Mapped[datetime] = mapped_column(Instant)


def view(row: RequestRow, approvals: Iterable[ApprovalRow]) -> SubjectRequest:
    """As the API shows it; one over its time is expired, whether or not somebody has noticed."""
    state = SubjectState(row.state)
    if state in OPEN and row.expires_at <= datetime.now(UTC):
        state = SubjectState.EXPIRED
    draft = SubjectDraft.model_validate(row.draft)
    return SubjectRequest(
        **draft.model_dump(exclude={"point", "box"}),
        id=row.id,
        state=state,
        version=row.version,
        target=Target(row.target) if row.target else None,
        box=Rectangle.model_validate(row.box),
        requested_by=row.requester,
        needed=row.needed,
        approvals=tuple(Approval(by=a.caller, verdict=Verdict(a.verdict), note=a.note, at=a.at) for a in approvals),
        created_at=row.created_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
        error=row.error,
        gone_at=row.gone_at,
        clip=Clip.model_validate(row.clip) if row.clip and state is SubjectState.READY else None,
        footage_until=row.footage_until,
    )
