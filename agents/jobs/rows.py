"""The rows of jobs: the job, its files, the parts of the work on them, what is to be delivered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, ForeignKeyConstraint, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from sfumato.agents.database import Base, Instant
from sfumato.schemas.job import DeliveryState, JobState, Step

WHOLE_JOB = -1
"""The file of a delivery that concerns the job as a whole."""
ACTIVE = (JobState.QUEUED, JobState.RUNNING)


class JobRow(Base):
    """``request``: without policy, files and secrets, but with whether a policy was ``named``. ``sealed``: URLs of
    sources and the destinations' secrets, gone once all is done. ``served_at``: when a worker last took something of
    it. ``announced_at``: when Kafka last got a message about it. ``told``: its end is in ``job.events``. ``cleared``:
    its uploads and parts are deleted."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(500), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    version: Mapped[int] = mapped_column(Integer)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    error: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    served_at: Mapped[datetime] = mapped_column(Instant)
    announced_at: Mapped[datetime | None] = mapped_column(Instant)
    told: Mapped[bool]
    cleared: Mapped[bool]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(Step(step) for step in self.request["steps"])

    @property
    def active(self) -> bool:
        return not JobState(self.state).ended


class FileRow(Base):
    """``remote``: it has to be fetched first; the URL is sealed. ``result``: a :class:`~sfumato.schemas.job.Result`,
    and ``blob``: where it lies; both come at once."""

    __tablename__ = "job_files"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200))
    upload: Mapped[str | None] = mapped_column(String(32), index=True)
    remote: Mapped[bool]
    media_type: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(20))
    frames_total: Mapped[int | None]
    bytes_before: Mapped[int | None] = mapped_column(BigInteger)
    sha256_before: Mapped[str | None] = mapped_column(String(64))
    cut_short: Mapped[str | None] = mapped_column(String(500))
    error: Mapped[str | None] = mapped_column(String(500))
    remedy: Mapped[str | None] = mapped_column(String(500))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    blob: Mapped[str | None] = mapped_column(String(200))


class PartRow(Base):
    """One piece of work. ``stage``: ``plan``, ``mask`` (a span of a film), ``whole`` or ``join``. ``frames``: done so
    far. A worker holds it by ``worker`` and ``attempts`` until ``leased_until``."""

    __tablename__ = "parts"
    __table_args__ = (ForeignKeyConstraint(["job", "file"], ["job_files.job", "job_files.number"], ondelete="CASCADE"),)

    job: Mapped[str] = mapped_column(String(32), primary_key=True)
    file: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(String(10))
    span: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    done: Mapped[bool] = mapped_column(index=True)
    frames: Mapped[int]
    account: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    blob: Mapped[str | None] = mapped_column(String(200))
    attempts: Mapped[int]
    not_before: Mapped[datetime] = mapped_column(Instant)
    leased_until: Mapped[datetime | None] = mapped_column(Instant)
    worker: Mapped[str | None] = mapped_column(String(100))


class DeliveryRow(Base):
    """``file``: of a bucket; :data:`WHOLE_JOB`: a webhook."""

    __tablename__ = "deliveries"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    destination: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    file: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), index=True)
    error: Mapped[str | None] = mapped_column(String(500))
    attempts: Mapped[int]
    not_before: Mapped[datetime] = mapped_column(Instant)
    leased_until: Mapped[datetime | None] = mapped_column(Instant)
    worker: Mapped[str | None] = mapped_column(String(100))


def part(job: str, file: int, number: int, stage: str, at: datetime, span: dict[str, Any] | None = None) -> PartRow:
    return PartRow(
        job=job, file=file, number=number, stage=stage, span=span, done=False, frames=0, attempts=0, not_before=at
    )


def deliveries(row: JobRow, type: str, file: int, at: datetime) -> list[DeliveryRow]:
    """What is to be sent to the job's destinations of a type."""
    return [
        DeliveryRow(
            job=row.id, destination=number, file=file, type=type, state=DeliveryState.WAITING, attempts=0, not_before=at
        )
        for number, each in enumerate(row.request["destinations"])
        if each["type"] == type
    ]
