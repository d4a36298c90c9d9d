"""What is due of jobs that have ended, or should have: their uploads, results, secrets, and that it is told."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update

from sfumato.agents.database import Database
from sfumato.agents.jobs.records import NoJobError, end, locked
from sfumato.agents.jobs.rows import ACTIVE, DeliveryRow, FileRow, JobRow, PartRow
from sfumato.agents.settings import Settings
from sfumato.schemas.job import DeliveryState, JobState


class Housekeeping:
    """What is due of jobs that have ended, or should have; for :mod:`sfumato.agents.jobs.sweep`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def overdue(self) -> None:
        """End the jobs that take too long."""
        hours = self._settings.job_deadline_hours
        now = datetime.now(UTC)
        with self._database.begin() as session:
            wanted = select(JobRow).where(JobRow.state.in_(ACTIVE), JobRow.created_at < now - timedelta(hours=hours))
            for job in session.scalars(wanted.with_for_update(skip_locked=True)):
                end(session, job, JobState.FAILED, self._settings, now, f"did not end within {hours:g} hours")

    def uncleared(self) -> list[tuple[str, list[str], set[str]]]:
        """Jobs that have ended, the uploads that go with them, and the blobs that stay: results."""
        found = []
        with self._database.read() as session:
            for job in session.scalars(select(JobRow).where(JobRow.state.not_in(ACTIVE), ~JobRow.cleared)):
                files = list(session.scalars(select(FileRow).where(FileRow.job == job.id)))
                uploads = [file.upload for file in files if file.upload]
                found.append((job.id, uploads, {file.blob for file in files if file.blob}))
        return found

    def cleared(self, job: str) -> None:
        with suppress(NoJobError), self._database.begin() as session:
            row = locked(session, job)
            row.cleared = True
            waiting = select(DeliveryRow.job).where(DeliveryRow.job == job, DeliveryRow.state == DeliveryState.WAITING)
            if session.scalar(waiting.limit(1)) is None:
                row.sealed = None
            session.execute(delete(PartRow).where(PartRow.job == job))

    def unneeded_secrets(self) -> None:
        """Forget the secrets of jobs of which nothing is to be delivered any more."""
        waiting = select(DeliveryRow.job).where(DeliveryRow.state == DeliveryState.WAITING)
        with self._database.begin() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.sealed.is_not(None), JobRow.cleared, JobRow.id.not_in(waiting))
                .values(sealed=None)
            )

    def expired(self) -> list[str]:
        """Jobs whose results' time is over."""
        now = datetime.now(UTC)
        with self._database.read() as session:
            wanted = select(JobRow.id).where(JobRow.cleared, JobRow.expires_at <= now, JobRow.state != JobState.EXPIRED)
            return list(session.scalars(wanted))

    def expire(self, job: str) -> None:
        """The results are deleted."""
        with suppress(NoJobError), self._database.begin() as session:
            row = locked(session, job)
            row.state = JobState.EXPIRED
            row.version += 1
            session.execute(update(FileRow).where(FileRow.job == job).values(result=None, blob=None))

    def untold(self) -> list[str]:
        """Jobs that have ended and whose end is not in ``job.events``."""
        with self._database.read() as session:
            return list(session.scalars(select(JobRow.id).where(JobRow.state.not_in(ACTIVE), ~JobRow.told)))

    def told(self, job: str) -> None:
        with self._database.begin() as session:
            session.execute(update(JobRow).where(JobRow.id == job).values(told=True))

    def unfinished_uploads(self) -> list[str]:
        """Uploads that jobs still read."""
        wanted = (
            select(FileRow.upload)
            .join(JobRow, JobRow.id == FileRow.job)
            .where(JobRow.state.in_(ACTIVE), FileRow.upload.is_not(None))
        )
        with self._database.read() as session:
            return [upload for upload in session.scalars(wanted) if upload is not None]

    def known(self, job: str) -> bool:
        with self._database.read() as session:
            return session.get(JobRow, job) is not None
