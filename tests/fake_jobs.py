"""Jobs of a bridge as long as the API has none of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from sfumato.schemas.job import Job, JobFile, JobRequest, JobState, PolicyUsed, Progress, Result
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.report import Account


class Jobs:
    """What was asked for; ``advance`` plays the worker."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.requests: list[JobRequest] = []
        self.jobs: dict[str, Job] = {}
        self.result = b""
        self.content_type = "image/jpeg"
        for method, path, do in (
            ("GET", "/v1/jobs", self.list),
            ("POST", "/v1/jobs", self.post),
            ("GET", "/v1/jobs/{id}", self.get),
            ("POST", "/v1/jobs/{id}:cancel", self.cancel),
            ("GET", "/v1/jobs/{id}/events", self.events),
            ("GET", "/v1/jobs/{id}/files/{number}", self.file),
        ):
            self.router.add_api_route(path, do, methods=[method])

    async def list(self) -> Any:
        return {"items": [job.model_dump(mode="json") for job in reversed(self.jobs.values())], "next": None}

    async def post(self, asked: JobRequest) -> Job:
        self.requests.append(asked)
        self.add(*(file.name or f"file-{i + 1}" for i, file in enumerate(asked.files)), purpose=asked.purpose)
        return list(self.jobs.values())[-1]

    def add(self, *names: str, purpose: str = "tests") -> str:
        id = secrets.token_hex(16)
        files = tuple(
            JobFile(number=i, name=n, state=JobState.QUEUED, bytes_before=3_000_000) for i, n in enumerate(names)
        )
        used = PolicyUsed(camera="files", version=1)
        request = JobRequest.model_validate({"files": [{"upload": id}], "purpose": purpose})
        self.jobs[id] = Job(
            id=id, state=JobState.QUEUED, version=1, purpose=purpose, policy=used, options=request.options,
            steps=request.steps, destinations=(), created_at=datetime.now(UTC), files=files,
        )  # fmt: skip
        return id

    def advance(self, id: str, done: int, total: int = 100) -> None:
        """So many frames of each file; all of them: it has ended."""
        job, ended = self.jobs[id], done == total
        state = JobState.SUCCEEDED if ended else JobState.RUNNING
        account = Account(
            frames=total, masked=total - 2, fully_masked=2, dropped=0, looked_at=total, reasons={"damaged": 2}
        )
        files = []
        for file in job.files:
            result = Result(
                href=f"/v1/jobs/{id}/files/{file.number}", name=f"{file.name}.jpg", content_type=self.content_type,
                bytes=len(self.result), sha256="0" * 64, width=640, height=360, sound=False, account=account,
                metadata=MetadataRecord(), credentials=True,
            )  # fmt: skip
            progress = {"state": state, "frames_done": done, "frames_total": total, "result": result if ended else None}
            files.append(file.model_copy(update=progress))
        expires = {"ended_at": datetime.now(UTC), "expires_at": datetime.now(UTC) + timedelta(days=7)} if ended else {}
        self.jobs[id] = job.model_copy(
            update={"state": state, "version": job.version + 1, "files": tuple(files), **expires}
        )

    async def get(self, id: str) -> Job:
        return self.jobs[id]

    async def cancel(self, id: str) -> Job:
        job = self.jobs[id]
        files = tuple(file.model_copy(update={"state": JobState.CANCELLED}) for file in job.files)
        self.jobs[id] = job.model_copy(update={"state": JobState.CANCELLED, "version": job.version + 1, "files": files})
        return self.jobs[id]

    async def events(self, id: str, request: Request) -> EventSourceResponse:
        async def told() -> AsyncIterator[dict[str, str]]:
            version = 0
            while not await request.is_disconnected():
                job = self.jobs[id]
                if job.version != version:
                    version = job.version
                    yield {"id": str(version), "event": "progress", "data": Progress.of(job).model_dump_json()}
                await asyncio.sleep(0.05)

        return EventSourceResponse(told())

    async def file(self, id: str, number: int) -> Response:
        return Response(self.result, media_type=self.content_type)
