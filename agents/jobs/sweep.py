"""What nobody asks for and has to happen all the same: lost announcements are made again, ended jobs are told of and
cleared, results and uploads expire, what a crash left behind is deleted.

Runs in the bridge and in each archive worker; several at once do no harm. Everything it does was decided by rows of the
database, so a crash between two steps is made good by the next sweep.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents.connection import client_config
from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.uploads import NoUploadError, Uploads
from sfumato.agents.jobs.claims import Claims
from sfumato.agents.jobs.housekeeping import Housekeeping
from sfumato.agents.jobs.rows import JobRow
from sfumato.agents.jobs.views import ending
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.job import Work
from sfumato.schemas.topics import JOB_EVENTS, JOBS

log = logging.getLogger(__name__)

RARELY = 60.0
"""Seconds between two looks for what is never urgent."""
TOLD_WITHIN = 5.0
"""Seconds for Kafka to take the end of a job that somebody wants deleted."""
ORPHANED_AFTER = timedelta(hours=1)
"""A blob without a job that is younger may be one that is just written."""


class Announcer:
    """Tells the workers by Kafka that a job has work: one message into each partition of ``jobs``, since nobody knows
    which worker is free. Thread-safe."""

    def __init__(self, settings: Settings, claims: Claims, producer: Producer) -> None:
        self._settings = settings
        self._claims = claims
        self._producer = producer
        self._partitions = 0

    def announce(self, job: str) -> None:
        """Never raises: what is not announced now the sweep announces."""
        try:
            for partition in range(self._count()):
                message = Work(job=job).to_message(str(uuid.uuid4()))
                self._producer.try_send(JOBS, message, _logged, partition)
            self._claims.announced(job)
        except (KafkaException, SQLAlchemyError) as error:
            log.warning("job %s is not announced yet: %s", job, type(error).__name__)

    def _count(self) -> int:
        if not self._partitions:
            name = self._settings.topic(JOBS)
            admin = AdminClient(client_config(self._settings))
            self._partitions = len(admin.list_topics(name, timeout=5).topics[name].partitions)
        return self._partitions


def _logged(error: object) -> None:
    if error is not None:
        log.warning("an announcement was not delivered: %s", error)


class Sweeper(threading.Thread):
    """Sweeps until it is closed. What goes wrong is logged and tried again."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        uploads: Uploads,
        blobs: Blobs,
        announcer: Announcer,
        producer: Producer,
    ) -> None:
        super().__init__(name="sweep", daemon=True)
        self._settings = settings
        self._database = database
        self._claims = Claims(settings, database)
        self._housekeeping = Housekeeping(settings, database)
        self._uploads = uploads
        self._blobs = blobs
        self._announcer = announcer
        self._producer = producer
        self._closing = threading.Event()
        self._pause = min(2.0, settings.job_resend / 3)

    def run(self) -> None:
        rarely = 0.0
        while not self._closing.wait(self._pause):
            rarely -= self._pause
            try:
                self.sweep()
                if rarely <= 0:
                    rarely = RARELY
                    self.sweep_rarely()
            except Exception as error:  # noqa: BLE001 - the next sweep tries again
                log.warning("a sweep failed: %s: %s", type(error).__name__, str(error)[:200])

    def close(self) -> None:
        self._closing.set()
        self.join(10)

    def sweep(self) -> None:
        for job in self._claims.waiting(datetime.now(UTC) - timedelta(seconds=self._settings.job_resend)):
            self._announcer.announce(job)
        self._housekeeping.overdue()
        for job, uploads, kept in self._housekeeping.uncleared():
            self._alone(job, partial(self.clear, job, uploads, kept))
        for job in self._housekeeping.expired():
            self._alone(job, partial(self._expire, job))
        for job in self._housekeeping.untold():
            self._alone(job, partial(self._tell, job))

    def _alone(self, job: str, do: Callable[[], None]) -> None:
        """One job's trouble with the store is not another's."""
        try:
            do()
        except OSError as error:
            log.warning("job %s is swept again later: %s", job, error)

    def _expire(self, job: str) -> None:
        self._blobs.delete(*(blob.name for blob in self._blobs.list(f"jobs/{job}")))
        self._housekeeping.expire(job)

    def sweep_rarely(self) -> None:
        for upload in self._housekeeping.unfinished_uploads():
            try:
                self._uploads.keep(upload, datetime.now(UTC) + timedelta(hours=self._settings.job_deadline_hours))
            except NoUploadError:
                continue
        self._housekeeping.unneeded_secrets()
        old = datetime.now(UTC) - ORPHANED_AFTER
        for blob in self._blobs.list("jobs"):
            found = re.match(r"jobs/([0-9a-f]{32})/", blob.name)
            if found is not None and blob.modified_at < old and not self._housekeeping.known(found[1]):
                self._blobs.delete(blob.name)

    def clear(self, job: str, uploads: list[str], kept: set[str]) -> None:
        """Delete what an ended job does not need any more: the raw footage first."""
        for upload in uploads:
            self._uploads.delete(upload)
        self._blobs.delete(*(blob.name for blob in self._blobs.list(f"jobs/{job}") if blob.name not in kept))
        self._housekeeping.cleared(job)

    def tell(self, job: str) -> bool:
        """See to it that the end of a job is in ``job.events``; False where that is not known in time."""
        if job not in self._housekeeping.untold():
            return True
        arrived = threading.Event()
        self._tell(job, arrived.set)
        return arrived.wait(TOLD_WITHIN)

    def _tell(self, job: str, arrived: Callable[[], None] = lambda: None) -> None:
        with self._database.begin() as session:
            message = ending(session, session.get_one(JobRow, job)).to_message()

        def told(error: object) -> None:
            if error is None:
                self._housekeeping.told(job)
                arrived()

        self._producer.try_send(JOB_EVENTS, message, told)
