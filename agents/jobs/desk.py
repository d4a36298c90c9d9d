"""Where jobs are handed in: what is asked for is checked, written down, and announced to the workers."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.outbound import RESOLVING, Outbound, OutboundError
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import ConflictError, NoUploadError, Uploads
from sfumato.agents.jobs.claims import Claims
from sfumato.agents.jobs.destinations import DESTINATIONS
from sfumato.agents.jobs.hidden import seal
from sfumato.agents.jobs.records import JobError, Jobs
from sfumato.agents.jobs.sweep import Announcer, Sweeper
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.models.content import ContentError
from sfumato.schemas.job import Job, JobRequest
from sfumato.schemas.policy import Audio, Policy


class RequestError(ValueError):
    """The job cannot be taken; the text names the field and the remedy."""


class Desk:
    """Thread-safe. :meth:`start` has to be called before, and :meth:`close` after use."""

    def __init__(
        self, settings: Settings, database: Database, uploads: Uploads, blobs: Blobs, keys: MasterKeys
    ) -> None:
        self.jobs = Jobs(settings, database)
        self.blobs = blobs
        self._settings = settings
        self._database = database
        self._uploads = uploads
        self._keys = keys
        self._outbound = Outbound(settings)

    def start(self, client_id: str = "sfumato-jobs") -> None:
        """Begin to announce and to sweep."""
        self._producer = Producer(self._settings, client_id=client_id, idempotent=False)
        self.claims = Claims(self._settings, self._database)
        self._announcer = Announcer(self._settings, self.claims, self._producer)
        self._sweeper = Sweeper(
            self._settings, self._database, self._uploads, self.blobs, self._announcer, self._producer
        )
        self._sweeper.start()

    def close(self) -> None:
        self._sweeper.close()
        self._producer.close(5)

    def announce(self, job: str) -> None:
        """Tell the workers that the job has work."""
        self._announcer.announce(job)

    def create(self, owner: str, request: JobRequest, policy: Policy) -> Job:
        """``policy``: what the request's choice is. Raises :class:`RequestError`, and
        :class:`~sfumato.agents.jobs.records.JobError` where an upload is in use."""
        deadline = time.monotonic() + RESOLVING  # for all names: a thousand slow ones would hold a thread for hours
        for number, destination in enumerate(request.destinations):
            try:
                DESTINATIONS[destination.type].check(self._outbound, destination, deadline - time.monotonic())
            except OutboundError as refusal:
                raise RequestError(f"destinations.{number}: {refusal}") from None
        if request.policy.named and request.options.keep_audio and policy.audio is Audio.DROP:
            raise RequestError("options.keep_audio: the policy drops audio; leave it out, or set the policy's `audio`")
        self._check_files(owner, request, deadline)
        if not request.policy.named:  # it says nothing of how long files are kept
            policy = policy.model_copy(update={"retention_hours": math.ceil(self._settings.job_hours)})
        job = self.jobs.create(owner, request, policy, self._seal)
        self._keep(request)
        self.announce(job.id)
        return job

    def delete(self, id: str, owner: str) -> None:
        """Delete the results, and forget the job, once its end is told. Raises what :meth:`Jobs.get` and
        :meth:`Jobs.delete` do."""
        job = self.jobs.get(id, owner)
        if not job.state.ended:
            raise JobError("the job has not ended; POST …:cancel ends it")
        if not self._sweeper.tell(id):
            raise JobError("how it ended is not in the audit yet; try again in a moment")
        self._sweeper.clear(id, self.jobs.uploads(id), set())
        self.jobs.delete(id, owner)

    def _check_files(self, owner: str, request: JobRequest, deadline: float) -> None:
        for number, file in enumerate(request.files):
            try:
                if file.url is not None:
                    self._outbound.check(file.url, deadline - time.monotonic())
                elif file.upload is not None:
                    self._uploads.get(file.upload, owner)
                    self._uploads.complete(file.upload)
            except OutboundError as refusal:
                raise RequestError(f"files.{number}.url: {refusal}") from None
            except (NoUploadError, ConflictError, ContentError) as error:
                raise RequestError(f"files.{number}.upload: {error}") from None

    def _keep(self, request: JobRequest) -> None:
        """What the job reads, as long as it may need it; the sweep does the same."""
        until = datetime.now(UTC) + timedelta(hours=self._settings.job_deadline_hours)
        for file in request.files:
            if file.upload is not None:
                with suppress(NoUploadError):
                    self._uploads.keep(file.upload, until)

    def _seal(self, job: str, secrets: dict[str, Any]) -> bytes:
        return seal(self._keys, job, secrets)
