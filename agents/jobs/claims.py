"""Pieces of work as workers take them: one at a time, for a lease that they renew, until they are done or given up.

A piece belongs to whoever holds its lease, by name and number of the attempt. What a worker does after it lost the
lease counts for nothing: every change asks for both. A file's result appears in one transaction, after its blob is
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, or_, select, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from sfumato.agents.database import Database
from sfumato.agents.jobs.records import NoJobError, end, locked
from sfumato.agents.jobs.rows import ACTIVE, WHOLE_JOB, DeliveryRow, FileRow, JobRow, PartRow, deliveries, part
from sfumato.agents.settings import Settings
from sfumato.schemas.job import DeliveryState, JobOptions, JobState, Result, Step
from sfumato.schemas.policy import Policy
from sfumato.schemas.report import Account

LONGEST_PAUSE = 3600.0
"""Seconds between two attempts at a delivery, at most."""


class LostError(RuntimeError):
    """The piece is not the worker's any more: the job was cancelled or has ended, or another worker took it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece of a file. ``stage``, ``span``: of :class:`~sfumato.agents.jobs.records.PartRow`. ``named``: somebody
    answers for the policy."""

    job: str
    owner: str
    file: int
    number: int
    stage: str
    attempt: int
    worker: str
    span: dict[str, Any] | None
    policy: Policy
    named: bool
    options: JobOptions
    steps: tuple[Step, ...]
    name: str
    upload: str | None
    remote: bool
    media_type: str | None
    sealed: bytes | None

    @property
    def blob(self) -> str:
        """Where what this attempt makes is to lie: no other attempt's."""
        return f"jobs/{self.job}/{self.file}/{self.number}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Errand:
    """A delivery to be made. ``place``: the destination without its secrets."""

    job: str
    destination: int
    file: int
    attempt: int
    worker: str
    place: dict[str, Any]
    sealed: bytes | None
    result: Result | None
    blob: str | None


class Claims:
    """Thread-safe; for several processes at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def next(self, worker: str) -> Claim | Errand | None:
        """What the worker does next; it has the lease of it then. Jobs take turns."""
        while True:
            with self._database.begin() as session:
                now = datetime.now(UTC)
                errand = session.scalar(_due_deliveries(now).limit(1))
                found: DeliveryRow | PartRow | None = errand or session.scalar(_due_parts(now).limit(1))
                if found is None:
                    return None
                # Job first, as everywhere: two that lock in different orders would wait for each other.
                try:
                    job = locked(session, found.job)
                    session.refresh(found, with_for_update=True)
                except (NoJobError, InvalidRequestError):
                    continue  # it was cleared or deleted meanwhile
                if found.leased_until is not None and found.leased_until >= now:
                    continue  # somebody else was quicker
                if isinstance(found, DeliveryRow):
                    if found.state != DeliveryState.WAITING:
                        continue
                    if found.attempts < self._settings.delivery_attempts:
                        return self._run(session, found, job, worker, now)
                    found.state, found.error = DeliveryState.FAILED, "a worker ended while it was at this delivery"
                    self._settle_delivery(session, found)
                elif not found.done and job.active:
                    if found.attempts < self._settings.archive_attempts:
                        return self._claim(session, found, job, worker, now)
                    times = f"{found.attempts} times" if found.attempts > 1 else "once"
                    self._give_up(
                        session,
                        found,
                        f"a worker ended {times} while it was at this file",
                        "check that the file plays elsewhere; a smaller one may need less memory",
                        now,
                    )

    def waiting(self, since: datetime) -> list[str]:
        """Jobs that have work for which nobody came, and about which Kafka was not told since then."""
        now = datetime.now(UTC)
        with self._database.read() as session:
            told = or_(JobRow.announced_at.is_(None), JobRow.announced_at < since)
            jobs = {row.job for row in session.scalars(_due_parts(now).where(told))}
            jobs |= {row.job for row in session.scalars(_due_deliveries(now).where(told))}
            return sorted(jobs)

    def announced(self, job: str) -> None:
        """Kafka has been told that the job has work."""
        with self._database.begin() as session:
            session.execute(update(JobRow).where(JobRow.id == job).values(announced_at=datetime.now(UTC)))

    def renew(self, claim: Claim | Errand, frames: int = 0) -> None:
        """Keep the lease; ``frames``: pictures done so far. Raises :class:`LostError`."""
        with self._database.begin() as session:
            now = datetime.now(UTC)
            if isinstance(claim, Errand):
                self._own_errand(session, claim).leased_until = self._lease(now)
                return
            row, job = self._own(session, claim)
            row.leased_until = self._lease(now)
            if row.frames != frames:
                row.frames = frames
                job.version += 1

    def adopt(self, claim: Claim, upload: str) -> None:
        """The upload that a file is fetched into: from now on it is deleted with the job's others. Raises
        :class:`LostError`."""
        with self._database.begin() as session:
            self._own(session, claim)
            _file(session, claim).upload = upload

    def describe(
        self,
        claim: Claim,
        *,
        media_type: str,
        bytes_before: int,
        sha256_before: str,
        frames_total: int | None = None,
        cut_short: str | None = None,
    ) -> None:
        """What was learnt of the file. Raises :class:`LostError`."""
        with self._database.begin() as session:
            _, job = self._own(session, claim)
            file = _file(session, claim)
            file.media_type = media_type
            file.bytes_before, file.sha256_before = bytes_before, sha256_before
            file.frames_total, file.cut_short = frames_total, cut_short
            job.version += 1

    def split(self, claim: Claim, spans: Sequence[dict[str, Any]]) -> None:
        """The plan is made: these parts, or the film as a whole where there are none. Raises :class:`LostError`."""
        with self._database.begin() as session:
            row, job = self._own(session, claim)
            now = datetime.now(UTC)
            row.done = True
            session.add_all(part(claim.job, claim.file, n, "mask", now, span) for n, span in enumerate(spans, 1))
            if not spans:
                session.add(part(claim.job, claim.file, 1, "whole", now))
            job.version += 1

    def unsplit(self, claim: Claim) -> list[str]:
        """The parts cannot be joined: the film is masked as a whole instead. The blobs that nobody needs any more."""
        with self._database.begin() as session:
            row, job = self._own(session, claim)
            parts = list(session.scalars(_parts(claim).where(PartRow.stage == "mask")))
            row.done = True
            for each in parts:
                each.frames = 0
            session.add(part(claim.job, claim.file, claim.number + 1, "whole", datetime.now(UTC)))
            job.version += 1
            return [each.blob for each in parts if each.blob]

    def masked(self, claim: Claim, account: Account, blob: str | None) -> None:
        """A part is done; ``blob`` None: it has no pictures. The last one makes the join due. Raises
        :class:`LostError`."""
        with self._database.begin() as session:
            row, job = self._own(session, claim)
            row.done, row.blob, row.frames = True, blob, account.frames
            row.account = account.model_dump(mode="json")
            session.flush()
            parts = list(session.scalars(_parts(claim).where(PartRow.stage == "mask")))
            if all(each.done for each in parts):
                session.add(part(claim.job, claim.file, len(parts) + 1, "join", datetime.now(UTC)))
            job.version += 1

    def parts(self, claim: Claim) -> list[tuple[str | None, Account]]:
        """Blob and account of each part of the film, in order."""
        with self._database.read() as session:
            rows = session.scalars(_parts(claim).where(PartRow.stage == "mask").order_by(PartRow.number))
            return [(row.blob, Account.model_validate(row.account)) for row in rows]

    def finish(self, claim: Claim, result: Result, cut_short: str | None = None) -> None:
        """The file is done: its result is there from now on. Raises :class:`LostError`."""
        with self._database.begin() as session:
            row, job = self._own(session, claim)
            file = _file(session, claim)
            row.done = True
            file.state, file.result, file.blob = JobState.SUCCEEDED, result.model_dump(mode="json"), claim.blob
            file.frames_total = result.account.frames
            file.cut_short = file.cut_short or cut_short
            self._settle(session, job, datetime.now(UTC))

    def fail(self, claim: Claim, error: str, remedy: str, *, final: bool) -> None:
        """The attempt failed; ``final``: another one would, too. Raises :class:`LostError`."""
        with self._database.begin() as session:
            row, _ = self._own(session, claim)
            now = datetime.now(UTC)
            if final or row.attempts >= self._settings.archive_attempts:
                self._give_up(session, row, error, remedy, now)
            else:
                row.worker = row.leased_until = None
                row.not_before = now + timedelta(seconds=2.0**row.attempts)

    def release(self, claim: Claim | Errand) -> None:
        """The worker ends in good order: another one may take it at once, and the attempt does not count."""
        with self._database.begin() as session:
            row: Any = self._own_errand(session, claim) if isinstance(claim, Errand) else self._own(session, claim)[0]
            row.worker = row.leased_until = None
            row.attempts -= 1

    def delivered(self, errand: Errand) -> None:
        """Raises :class:`LostError`."""
        with self._database.begin() as session:
            row = self._own_errand(session, errand)
            row.state, row.error = DeliveryState.DELIVERED, None
            self._settle_delivery(session, row)

    def undelivered(self, errand: Errand, error: str, *, final: bool) -> None:
        """It failed; it is tried again after a pause that doubles, unless that is of no use. Raises
        :class:`LostError`."""
        with self._database.begin() as session:
            row = self._own_errand(session, errand)
            row.error, row.worker, row.leased_until = error[:500], None, None
            if final or row.attempts >= self._settings.delivery_attempts:
                row.state = DeliveryState.FAILED
            else:
                pause = min(self._settings.delivery_pause * 2.0 ** (row.attempts - 1), LONGEST_PAUSE)
                row.not_before = datetime.now(UTC) + timedelta(seconds=pause)
            self._settle_delivery(session, row)

    def _claim(self, session: Session, row: PartRow, job: JobRow, worker: str, now: datetime) -> Claim:
        file = session.get_one(FileRow, (row.job, row.file))
        row.worker, row.leased_until, row.frames = worker, self._lease(now), 0
        row.attempts += 1
        job.served_at = now
        job.state = JobState.RUNNING
        job.started_at = job.started_at or now
        job.version += 1
        file.state = JobState.RUNNING
        return Claim(
            job=job.id,
            owner=job.owner,
            file=row.file,
            number=row.number,
            stage=row.stage,
            attempt=row.attempts,
            worker=worker,
            span=row.span,
            policy=Policy.model_validate(job.policy),
            named=job.request["named"],
            options=JobOptions.model_validate(job.request["options"]),
            steps=job.steps,
            name=file.name,
            upload=file.upload,
            remote=file.remote,
            media_type=file.media_type,
            sealed=job.sealed,
        )

    def _run(self, session: Session, row: DeliveryRow, job: JobRow, worker: str, now: datetime) -> Errand:
        row.worker, row.leased_until = worker, self._lease(now)
        row.attempts += 1
        job.version += 1
        file = None if row.file == WHOLE_JOB else session.get_one(FileRow, (row.job, row.file))
        return Errand(
            job=job.id,
            destination=row.destination,
            file=row.file,
            attempt=row.attempts,
            worker=worker,
            place=job.request["destinations"][row.destination],
            sealed=job.sealed,
            result=Result.model_validate(file.result) if file is not None else None,
            blob=file.blob if file is not None else None,
        )

    def _lease(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.archive_lease)

    def _own(self, session: Session, claim: Claim) -> tuple[PartRow, JobRow]:
        """The job's row first: whoever changes anything of a job waits for the others there."""
        job = session.get(JobRow, claim.job, with_for_update=True)
        row = session.get(PartRow, (claim.job, claim.file, claim.number), with_for_update=True)
        mine = row is not None and not row.done and (row.worker, row.attempts) == (claim.worker, claim.attempt)
        if job is None or row is None or not mine or not job.active:
            raise LostError("the lease is lost, or the job has ended")
        return row, job

    def _own_errand(self, session: Session, errand: Errand) -> DeliveryRow:
        try:
            locked(session, errand.job)
        except NoJobError:
            raise LostError("the job was deleted") from None
        key = (errand.job, errand.destination, errand.file)
        row = session.get(DeliveryRow, key, with_for_update=True)
        if row is None or row.state != DeliveryState.WAITING:
            raise LostError("the delivery is over")
        if (row.worker, row.attempts) != (errand.worker, errand.attempt):
            raise LostError("the lease is lost")
        return row

    def _give_up(self, session: Session, row: PartRow, error: str, remedy: str, now: datetime) -> None:
        """The file fails, and only this file."""
        job, file = locked(session, row.job), session.get_one(FileRow, (row.job, row.file))
        file.state, file.error, file.remedy = JobState.FAILED, error[:500], remedy[:500]
        session.execute(
            update(PartRow).where(PartRow.job == row.job, PartRow.file == row.file, ~PartRow.done).values(done=True)
        )
        self._settle(session, job, now)

    def _settle(self, session: Session, job: JobRow, now: datetime) -> None:
        """Once all files have ended: deliver what is to be there when the job ends, then end it."""
        job.version += 1
        session.flush()
        files = list(session.scalars(select(FileRow).where(FileRow.job == job.id)))
        if not all(JobState(file.state).ended for file in files) or not job.active:
            return
        sent = list(session.scalars(select(DeliveryRow).where(DeliveryRow.job == job.id)))
        if not sent and Step.PUBLISH in job.steps:
            for file in files:
                if file.result is not None:
                    sent += deliveries(job, "s3", file.number, now)
            session.add_all(sent)
            session.flush()
        if any(each.state == DeliveryState.WAITING for each in sent):
            return
        failed = [file for file in files if file.state != JobState.SUCCEEDED]
        undelivered = [each for each in sent if each.state == DeliveryState.FAILED]
        said = [f"{len(failed)} of {len(files)} files failed"] if failed else []
        said += [f"{len(undelivered)} of {len(sent)} deliveries failed"] if undelivered else []
        end(session, job, JobState.FAILED if said else JobState.SUCCEEDED, self._settings, now, "; ".join(said))

    def _settle_delivery(self, session: Session, row: DeliveryRow) -> None:
        job = locked(session, row.job)
        if job.active:
            self._settle(session, job, datetime.now(UTC))
        else:
            job.version += 1


def _due_parts(now: datetime) -> Select[PartRow]:
    free = or_(PartRow.leased_until.is_(None), PartRow.leased_until < now)
    return (
        select(PartRow)
        .join(JobRow, JobRow.id == PartRow.job)
        .where(~PartRow.done, PartRow.not_before <= now, free, JobRow.state.in_(ACTIVE))
        .order_by(JobRow.served_at, PartRow.file, PartRow.number)
    )


def _due_deliveries(now: datetime) -> Select[DeliveryRow]:
    free = or_(DeliveryRow.leased_until.is_(None), DeliveryRow.leased_until < now)
    return (
        select(DeliveryRow)
        .join(JobRow, JobRow.id == DeliveryRow.job)
        .where(DeliveryRow.state == DeliveryState.WAITING, DeliveryRow.not_before <= now, free)
        .order_by(DeliveryRow.not_before)
    )


def _parts(claim: Claim) -> Select[PartRow]:
    return select(PartRow).where(PartRow.job == claim.job, PartRow.file == claim.file)


def _file(session: Session, claim: Claim) -> FileRow:
    return session.get_one(FileRow, (claim.job, claim.file))
