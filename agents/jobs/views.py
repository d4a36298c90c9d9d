"""Jobs as the API shows them, and the message that tells how one ended."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sfumato.agents.jobs.rows import WHOLE_JOB, DeliveryRow, FileRow, JobRow, PartRow
from sfumato.schemas.job import (
    Delivery,
    DeliveryState,
    FileEnded,
    Job,
    JobEnded,
    JobFile,
    JobOptions,
    JobState,
    PolicyUsed,
    Reached,
)


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


def _place(destination: dict[str, Any]) -> dict[str, Any]:
    return {name: destination.get(name) for name in Reached.model_fields}
