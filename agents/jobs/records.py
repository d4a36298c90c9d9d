"""Jobs as their owners know them: created, shown, cancelled and deleted. What workers do with them:
``agents/jobs/claims.py``.

The rows are the truth. A job's row is written first and announced on Kafka after it; an announcement that was lost is
made again by the sweep (:mod:`sfumato.agents.jobs.sweep`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
    func,
    select,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from sfumato.agents.database import Base, Database, Instant
from sfumato.agents.files.uploads import Upload
from sfumato.agents.settings import Settings
from sfumato.schemas.job import (
    Delivery,
    DeliveryState,
    FileEnded,
    Job,
    JobEnded,
    JobFile,
    JobOptions,
    JobRequest,
    JobState,
    PolicyUsed,
    Reached,
    Result,
    Step,
)
from sfumato.schemas.policy import Policy

WHOLE_JOB = -1
"""The file of a delivery that concerns the job as a whole."""
MOST_SHOWN = 2000
"""Files in a page of jobs, after which it ends: a thousand jobs of a thousand files are more than fits in memory."""
SECRETS = ("secret", "access_key_id", "secret_access_key")
"""Of destinations: never in the request's row."""


MOST_NUMBER = 2**31 - 1
"""That the database's integers hold."""


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


class NoJobError(LookupError):
    """There is none of this id, or it is another caller's."""


class JobError(RuntimeError):
    """It cannot be done to the job in its state; the text says what can."""


class Jobs:
    """Thread-safe; for several processes at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def create(
        self, owner: str, request: JobRequest, policy: Policy, seal: Callable[[str, dict[str, Any]], bytes]
    ) -> Job:
        """A new job. ``seal``: (job id, secrets) to bytes. Raises :class:`JobError` where an upload is another
        unfinished job's, or gone."""
        id, now = secrets.token_hex(16), datetime.now(UTC)
        row = JobRow(
            id=id,
            owner=owner,
            state=JobState.QUEUED,
            version=1,
            request=_without_secrets(request),
            policy=policy.model_dump(mode="json"),
            sealed=seal(id, _secrets(request)),
            created_at=now,
            served_at=now,
            told=False,
            cleared=False,
        )
        uploads = [file.upload for file in request.files if file.upload is not None]
        with self._database.begin() as session:
            # Locked: of two jobs made at once, and of one made while another is cleared, the second sees the first.
            wanted = select(Upload.id).where(Upload.id.in_(uploads)).order_by(Upload.id).with_for_update()
            if missing := set(uploads) - set(session.scalars(wanted)):
                raise JobError(f"files: upload {min(missing)} is gone; upload the file again")
            if uploads and (taken := _in_use(session, uploads)) is not None:
                raise JobError(f"files: upload {taken} belongs to a job that has not ended; upload the file again")
            session.add(row)
            session.flush()
            for number, (file, name) in enumerate(zip(request.files, request.names(), strict=True)):
                session.add(
                    FileRow(
                        job=id,
                        number=number,
                        name=name,
                        upload=file.upload,
                        remote=file.url is not None,
                        state=JobState.QUEUED,
                    )
                )
            session.flush()
            session.add_all(part(id, number, 0, "plan", now) for number in range(len(request.files)))
            session.flush()
            return view(session, row)

    def get(self, id: str, owner: str | None = None) -> Job:
        """``owner`` None: whoever's it is. Raises :class:`NoJobError`."""
        with self._database.read() as session:
            return view(session, _find(session, id, owner))

    def version(self, id: str, owner: str | None = None) -> int:
        """Raises :class:`NoJobError`."""
        with self._database.read() as session:
            return _find(session, id, owner).version

    def page(
        self, owner: str, limit: int, before: tuple[datetime, str] | None = None, state: JobState | None = None
    ) -> tuple[list[Job], bool]:
        """The owner's jobs, newest first, and whether there are more; ``before``: only those created before this
        moment and id."""
        wanted = select(JobRow.id).where(JobRow.owner == owner)
        if state is not None:
            wanted = wanted.where(JobRow.state == state)
        if before is not None:
            at, id = before
            wanted = wanted.where((JobRow.created_at < at) | ((JobRow.created_at == at) & (JobRow.id < id)))
        wanted = wanted.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit + 1)
        shown: list[Job] = []
        files = 0
        with self._database.read() as session:
            ids = list(session.scalars(wanted))
            for found in ids[:limit]:
                row = session.get(JobRow, found)
                if row is None:  # deleted meanwhile
                    continue
                shown.append(view(session, row))
                files += len(shown[-1].files)
                if files >= MOST_SHOWN:
                    return shown, found != ids[-1]
        return shown, len(ids) > limit

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Raises :class:`NoJobError`, and :class:`JobError` where it has ended otherwise."""
        with self._database.begin() as session:
            row = _find(session, id, owner, lock=True)
            if row.active:
                end(session, row, JobState.CANCELLED, self._settings, datetime.now(UTC))
            elif row.state != JobState.CANCELLED:
                raise JobError(f"the job has {row.state} already; DELETE removes its results")
            return view(session, row)

    def uploads(self, id: str) -> list[str]:
        """The uploads that the job's files were read from."""
        with self._database.read() as session:
            found = session.scalars(select(FileRow.upload).where(FileRow.job == id, FileRow.upload.is_not(None)))
            return [upload for upload in found if upload is not None]

    def delete(self, id: str, owner: str | None = None) -> None:
        """Forget the job; its results, parts and uploads have to be deleted before. Raises :class:`NoJobError`, and
        :class:`JobError` while it runs."""
        with self._database.begin() as session:
            row = _find(session, id, owner, lock=True)
            if row.active:
                raise JobError("the job has not ended; POST …:cancel ends it")
            session.delete(row)

    def result(self, id: str, number: int, owner: str | None = None) -> tuple[Result, str]:
        """A file's result and the blob that holds it. Raises :class:`NoJobError` where there is none (any more)."""
        with self._database.read() as session:
            row = _find(session, id, owner)
            file = session.get(FileRow, (id, number)) if 0 <= number <= MOST_NUMBER else None
            expired = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
            if file is None or file.result is None or file.blob is None or expired:
                raise NoJobError("no such result: the file is not done, failed, or has expired; GET the job tells")
            return Result.model_validate(file.result), file.blob


def locked(session: Session, id: str) -> JobRow:
    """Raises :class:`NoJobError` where it was deleted meanwhile."""
    row = session.get(JobRow, id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NoJobError("the job was deleted")
    return row


def part(job: str, file: int, number: int, stage: str, at: datetime, span: dict[str, Any] | None = None) -> PartRow:
    return PartRow(
        job=job, file=file, number=number, stage=stage, span=span, done=False, frames=0, attempts=0, not_before=at
    )


def end(session: Session, row: JobRow, state: JobState, settings: Settings, now: datetime, error: str = "") -> None:
    """The job ends in this state: nothing of it is worked on any more, and webhooks are due."""
    row.state, row.ended_at, row.error = state, now, error[:500] or None
    row.version += 1
    kept = timedelta(hours=min(settings.job_hours, float(row.policy["retention_hours"])))
    row.expires_at = now + kept
    for file in session.scalars(select(FileRow).where(FileRow.job == row.id)):
        if not JobState(file.state).ended:
            file.state = state if state is JobState.CANCELLED else JobState.FAILED
            file.error = file.error or (error[:500] or None)
    for delivery in session.scalars(select(DeliveryRow).where(DeliveryRow.job == row.id)):
        if delivery.state == DeliveryState.WAITING:
            delivery.state, delivery.error = DeliveryState.FAILED, f"the job was {state}"
    if Step.PUBLISH in row.steps:
        session.add_all(deliveries(row, "webhook", WHOLE_JOB, now))
    session.flush()


def deliveries(row: JobRow, type: str, file: int, at: datetime) -> list[DeliveryRow]:
    """What is to be sent to the job's destinations of a type."""
    return [
        DeliveryRow(
            job=row.id, destination=number, file=file, type=type, state=DeliveryState.WAITING, attempts=0, not_before=at
        )
        for number, each in enumerate(row.request["destinations"])
        if each["type"] == type
    ]


def view(session: Session, row: JobRow) -> Job:
    """The job as the API shows it."""
    frames = dict(
        session.execute(
            select(PartRow.file, func.sum(PartRow.frames)).where(PartRow.job == row.id).group_by(PartRow.file)
        ).all()
    )
    files = session.scalars(select(FileRow).where(FileRow.job == row.id).order_by(FileRow.number))
    sent = session.scalars(
        select(DeliveryRow).where(DeliveryRow.job == row.id).order_by(DeliveryRow.destination, DeliveryRow.file)
    )
    return Job(
        id=row.id,
        state=JobState(row.state),
        version=row.version,
        purpose=row.request["purpose"],
        policy=PolicyUsed(camera=row.policy["camera"], version=row.policy["version"]),
        options=JobOptions.model_validate(row.request["options"]),
        steps=row.steps,
        destinations=tuple(Reached.model_validate(_place(each)) for each in row.request["destinations"]),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        expires_at=row.expires_at,
        error=row.error,
        files=tuple(_file(file, int(frames.get(file.number) or 0)) for file in files),
        deliveries=tuple(_delivery(each) for each in sent),
    )


def ending(session: Session, row: JobRow) -> JobEnded:
    """The message that tells how the job ended."""
    shown = view(session, row)
    return JobEnded(
        job=row.id,
        owner=row.owner,
        purpose=shown.purpose,
        state=shown.state,
        policy=shown.policy,
        created_at=row.created_at,
        ended_at=row.ended_at or row.created_at,
        files=tuple(
            FileEnded(
                number=file.number,
                state=file.state,
                error=file.error,
                bytes_before=file.bytes_before,
                sha256_before=file.sha256_before,
                bytes_after=file.result.bytes if file.result else None,
                sha256_after=file.result.sha256 if file.result else None,
                account=file.result.account if file.result else None,
            )
            for file in shown.files
        ),
    )


def _file(row: FileRow, frames: int) -> JobFile:
    kind = None if row.media_type is None else ("film" if row.media_type.startswith("video/") else "picture")
    done = row.frames_total if row.result is not None and row.frames_total is not None else frames
    return JobFile.model_validate(
        {
            "number": row.number,
            "name": row.name,
            "state": row.state,
            "kind": kind,
            "frames_done": done if row.frames_total is None else min(done, row.frames_total),
            "frames_total": row.frames_total,
            "bytes_before": row.bytes_before,
            "sha256_before": row.sha256_before,
            "cut_short": row.cut_short,
            "error": row.error,
            "remedy": row.remedy,
            "result": row.result,
        }
    )


def _delivery(row: DeliveryRow) -> Delivery:
    waiting = row.state == DeliveryState.WAITING
    return Delivery(
        destination=row.destination,
        type=row.type,
        file=None if row.file == WHOLE_JOB else row.file,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        next_at=row.not_before if waiting else None,
        error=row.error,
    )


def _without_secrets(request: JobRequest) -> dict[str, Any]:
    said = request.model_dump(mode="json", exclude={"policy", "files"}) | {"named": request.policy.named}
    said["destinations"] = [
        {name: value for name, value in each.items() if name not in SECRETS} for each in said["destinations"]
    ]
    return said


def _secrets(request: JobRequest) -> dict[str, Any]:
    return {
        "urls": {str(number): file.url for number, file in enumerate(request.files) if file.url is not None},
        "destinations": [
            {name: value.get_secret_value() for name in SECRETS if (value := getattr(each, name, None)) is not None}
            for each in request.destinations
        ],
    }


def _place(destination: dict[str, Any]) -> dict[str, Any]:
    return {name: destination.get(name) for name in Reached.model_fields}


def _in_use(session: Session, uploads: Sequence[str]) -> str | None:
    active = [state for state in JobState if not state.ended]
    return session.scalar(
        select(FileRow.upload)
        .join(JobRow, JobRow.id == FileRow.job)
        .where(FileRow.upload.in_(uploads), JobRow.state.in_(active))
        .limit(1)
    )


def _find(session: Session, id: str, owner: str | None, lock: bool = False) -> JobRow:
    row = session.get(JobRow, id, with_for_update=lock or None)
    if row is None or owner not in (None, row.owner):
        raise NoJobError("no such job of yours; GET /v1/jobs lists them")
    return row
