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

from sqlalchemy import select
from sqlalchemy.orm import Session

from sfumato.agents.database import Database
from sfumato.agents.files.rows import Upload
from sfumato.agents.jobs.rows import WHOLE_JOB, DeliveryRow, FileRow, JobRow, deliveries, part
from sfumato.agents.jobs.views import view
from sfumato.agents.settings import Settings
from sfumato.schemas.job import DeliveryState, Job, JobRequest, JobState, Result, Step
from sfumato.schemas.policy import Policy

MOST_SHOWN = 2000
"""Files in a page of jobs, after which it ends: a thousand jobs of a thousand files are more than fits in memory."""
SECRETS = ("secret", "access_key_id", "secret_access_key")
"""Of destinations: never in the request's row."""
MOST_NUMBER = 2**31 - 1
"""That the database's integers hold."""


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
