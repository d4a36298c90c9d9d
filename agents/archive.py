"""The worker of jobs: woken by the topic ``jobs``, it masks what the database says is next, until nothing is.

A message only says that there is work; it is acknowledged once there is none left for this worker, so a worker that
is killed is replaced by one that is woken by the same message. What was begun and not finished is free again once its
lease has run out. The agent never raises; work runs in a thread of its own, so that the consumer's heartbeats go on,
and the stream is read on meanwhile, so that Kafka does not take the worker for dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sfumato.agents import exits, metrics
from sfumato.agents.access.usage import Usage
from sfumato.agents.credentials import Credentials, CredentialsError
from sfumato.agents.database import AWAY, Database, DatabaseError
from sfumato.agents.files.blobs import BlobError, Blobs
from sfumato.agents.files.outbound import FailedError, Outbound, RefusedError
from sfumato.agents.files.sealing import MasterKeys, SealError
from sfumato.agents.files.uploads import TooLargeError, Uploads, fill
from sfumato.agents.jobs.claims import Claim, Claims
from sfumato.agents.jobs.desk import Desk
from sfumato.agents.jobs.destinations import Courier
from sfumato.agents.jobs.hidden import unseal
from sfumato.agents.jobs.hold import Hold
from sfumato.agents.jobs.pieces import Masking, Refused
from sfumato.agents.jobs.records import Jobs
from sfumato.agents.policy_files import FloorError
from sfumato.agents.settings import Settings, SettingsError
from sfumato.agents.watch import Watchdog
from sfumato.models import detectors, weights
from sfumato.models.ensemble import Ensemble

log = logging.getLogger(__name__)

TAKEN = 64
"""Messages taken from the stream at once, at most."""
FETCH_SECONDS = 3600.0
"""Longest download of a source,"""
SLOWEST = 100_000.0
"""and the bytes a second that it must send: a worker does nothing else meanwhile."""
DATABASE_PAUSE = 1.0
"""Seconds after which a database that did not answer is asked again."""
LEFTOVER = 86_400.0
"""Seconds after which a folder of masked, unfinished files belongs to a worker that died."""
UNMENDED = (
    FloorError,
    DatabaseError,
    BlobError,
    SealError,
    SettingsError,
    CredentialsError,
    detectors.DetectorError,
    weights.WeightError,
)
"""What a restart does not mend."""


class Archivist:
    """Does one piece of work after the other; :meth:`step` is called by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        uploads: Uploads,
        blobs: Blobs,
        keys: MasterKeys,
        ensemble: Ensemble,
    ) -> None:
        self.claims = Claims(settings, database)
        self.stopping = threading.Event()
        self.progress = 0
        """Rises as long as work goes on."""
        self.announce: Callable[[str], None] = lambda job: None
        """Called where a piece has made others due."""
        outbound = Outbound(settings)
        self._settings = settings
        self._uploads = uploads
        self._keys = keys
        self._outbound = outbound
        self.usage = usage = Usage(database)
        self._masking = Masking(
            settings,
            self.claims,
            uploads,
            blobs,
            ensemble,
            Credentials(settings),
            self._fetch,
            lambda owner, frames: usage.add(owner, frames=frames),
        )
        self._courier = Courier(self.claims, Jobs(settings, database), blobs, keys, outbound)
        self._worker = f"{socket.gethostname()[:60]}/{os.getpid()}/{secrets.token_hex(4)}"

    def step(self) -> bool:
        """Take what is next, and do it; False where there was nothing. Raises what the database raises."""
        claim = None if self.stopping.is_set() else self.claims.next(self._worker)
        if claim is None:
            return False
        with Hold(self.claims, claim, self._settings.archive_lease, self.stopping, self._goes_on) as hold:
            if isinstance(claim, Claim):
                self._masking.do(claim, hold)
                if claim.stage == "plan":
                    self.announce(claim.job)
            else:
                self._courier.run(claim, hold.check)
        return True

    def _goes_on(self) -> None:
        self.progress += 1

    def _fetch(self, claim: Claim, check: Callable[[], None]) -> str:
        """The file that the URL leads to as an upload: sealed as any other."""
        if claim.sealed is None:
            raise Refused("its URL is gone", "make the job anew")
        url = unseal(self._keys, claim.job, claim.sealed)["urls"][str(claim.file)]
        upload = self._uploads.create(claim.owner, None).id
        self.claims.adopt(claim, upload)
        try:
            fill(self._uploads, upload, self._download(url, check))
        except RefusedError as error:
            raise Refused(f"url: {error}", "give a URL that anybody may fetch, or upload the file") from None
        except FailedError as error:
            raise Refused(f"url: {error}", "see that the URL answers, or upload the file", final=False) from None
        except TooLargeError as error:
            raise Refused(f"url: {error}", "SFUMATO_UPLOAD_MAX_BYTES allows more") from None
        return upload

    def _download(self, url: str, check: Callable[[], None]) -> Iterator[bytes]:
        most = self._settings.upload_max_bytes
        for chunk in self._outbound.download(url, most=most, seconds=FETCH_SECONDS, slowest=SLOWEST):
            check()
            yield chunk


class Worker:
    """Reads the stream, and lets the archivist work whenever something came."""

    def __init__(self, archivist: Archivist) -> None:
        self.revoked = 0
        """How often partitions were taken away; what was read before is not acknowledged then, but read again."""
        self._archivist = archivist
        self._held: list[tuple[int, Any]] = []
        self._wake = asyncio.Event()
        self._wake.set()  # there may be work of which the announcement was acknowledged long ago
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive")

    async def run(self, stream: Any) -> None:
        working = asyncio.create_task(self._work(stream))
        working.add_done_callback(exits.restart_on_failure)
        try:
            async for events in stream.noack_take(TAKEN, within=0.02):
                self._held += [(self.revoked, event) for event in events]
                self._wake.set()
        finally:
            self._archivist.stopping.set()
            working.cancel()

    async def _work(self, stream: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            held, self._held = self._held, []
            while await self._step():
                pass
            for revoked, event in held:
                if revoked == self.revoked:
                    await stream.ack(event)

    async def _step(self) -> bool:
        """Whether there may be more to do. What was under way while the database did not answer is taken again when its
        lease has run out."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._archivist.step)
        except AWAY as error:
            log.warning("jobs wait for the database: %s", type(error).__name__)
            await asyncio.sleep(DATABASE_PAUSE)
            return True


def build(settings: Settings) -> tuple[Archivist, Desk]:
    """The archivist of these settings, and its desk, which announces and sweeps. Raises what its parts do."""
    database = Database(settings)
    database.migrate()
    blobs, keys = Blobs(settings), MasterKeys(settings)
    uploads = Uploads(settings, database, blobs, keys)
    options = settings.detector_options()
    ensemble = Ensemble([detectors.make(name, options) for name in settings.detector_names()])
    archivist = Archivist(settings, database, uploads, blobs, keys, ensemble)
    desk = Desk(settings, database, uploads, blobs, keys)
    tidy(settings)
    return archivist, desk


def tidy(settings: Settings) -> None:
    """Delete the folders of workers that died."""
    for folder in (settings.state_dir / "work").glob("archive-*"):
        if time.time() - folder.stat().st_mtime > LEFTOVER:
            shutil.rmtree(folder, ignore_errors=True)


async def run(app: Any, stream: Any, settings: Settings) -> None:
    """The Faust agent's body. Does not return and does not raise: it leaves the process instead."""
    with exits.starting(*UNMENDED):
        archivist, desk = await asyncio.to_thread(build, settings)
        desk.start("sfumato-archive")
        archivist.announce = desk.announce
        metrics.serve(settings)
        Watchdog(
            app,
            settings,
            exits.restart,
            assigned=metrics.ARCHIVE_ASSIGNED,
            lag=metrics.ARCHIVE_LAG,
            progress=lambda: archivist.progress,
        ).start()
    with exits.working():
        worker = Worker(archivist)

        def revoked(*_: Any, **__: Any) -> None:
            worker.revoked += 1

        app.on_partitions_revoked.connect(revoked, weak=False)
        await worker.run(stream)
