"""Drills of jobs and of what the bridge keeps elsewhere: the jobs' worker, the database, the shared rates."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from postgresql import PostgreSQL, postgresql
from redis_server import Redis

from drills.films import Films
from drills.plan import Plan
from drills.report import Row
from drills.site import DrillError, Site
from drills.viewer import Viewer
from sfumato.agents.access.keys import Keys
from sfumato.agents.database import Database
from sfumato.schemas.scope import Scope

AWAY = 5.0
"""Seconds for which a store is away, at least."""
PATIENCE = 60.0
"""Longest wait for an answer of the API, in seconds."""
RATE = 100
"""Requests a minute that one key may make."""
JOBS = {"archive_part_seconds": 2.0, "archive_lease": 2.0, "job_resend": 1.0}


def kill_archive(plan: Plan) -> Row:
    """kill -9 of the jobs' worker in the middle of a film: the job goes on, and ends with every picture, masked. The
    recovery counts until more of its pictures are done than before."""
    with Site(plan.broker(), **JOBS) as site, _films(site) as films:
        for _ in range(plan.times):
            site.worker("archive")
            job = films.hand_in()
            films.await_progress(job)
            site.now_and_then(0.0, 1.5)
            os.kill(site.worker("archive"), signal.SIGKILL)
            since, done = time.monotonic(), films.await_progress(job)
            films.await_progress(job, more_than=done)
            site.recoveries.append(time.monotonic() - since)
            films.collect(job)
        return _counted(site.row(), films)


def database_gone(plan: Plan) -> Row:
    """PostgreSQL ends, as in a crash, and is started again."""
    return _database(plan, PostgreSQL.stop, PostgreSQL.start)


def database_hangs(plan: Plan) -> Row:
    """PostgreSQL stands still: it takes connections and statements, and answers nothing."""
    return _database(plan, PostgreSQL.pause, PostgreSQL.resume)


def redis_gone(plan: Plan) -> Row:
    """kill -9 of Redis, which comes back empty."""
    return _redis(plan, Redis.stop, Redis.start)


def redis_hangs(plan: Plan) -> Row:
    """Redis stands still: it takes connections and commands, and answers nothing."""
    return _redis(plan, Redis.pause, Redis.resume)


def _database(plan: Plan, fail: Callable[[PostgreSQL], None], mend: Callable[[PostgreSQL], None]) -> Row:
    """The database is away for 5 s and more, while a job runs: cameras are masked and watched meanwhile, no key opens
    what it cannot be looked up for, and the job ends with every picture, masked."""
    with (
        postgresql() as server,
        Site(plan.broker(), database_url=server.database(), **JOBS) as site,
        _films(site) as films,
        Viewer(site.stack.bridge_url, site.stack.key, site.cameras) as viewer,
    ):
        viewer.await_pictures(time.monotonic())
        for _ in range(min(plan.times, 6)):
            site.worker("archive")
            job = films.hand_in()
            films.await_progress(job)
            site.now_and_then(0.0, 1.5)
            fail(server)
            failed = time.monotonic()
            site.await_flow(failed, lambda arrival: True)
            viewer.await_pictures(failed)
            time.sleep(AWAY)  # longer than a key that was looked up is remembered
            _await_refusal(site)
            viewer.await_pictures(time.monotonic())
            mend(server)
            since = time.monotonic()
            films.collect(job)
            site.recoveries.append(time.monotonic() - since)
        return _watched(_counted(site.row(), films), viewer)


def _await_refusal(site: Site) -> None:
    """A key that cannot be looked up opens nothing, and its holder is told."""
    key = {"Authorization": f"Bearer {site.stack.key}"}
    answer = httpx.get(f"{site.stack.bridge_url}/v1/cameras", headers=key, timeout=PATIENCE)
    if answer.status_code != 503:
        raise DrillError(f"a key that cannot be looked up is answered {answer.status_code}")


def _redis(plan: Plan, fail: Callable[[Redis], None], mend: Callable[[Redis], None]) -> Row:
    """The Redis through which bridges share rates is away: cameras are watched meanwhile, the bridge limits by itself,
    so that nobody is without a limit, and through Redis again once that is back."""
    with Site(plan.broker()) as site, Redis(site.folder) as redis:
        site.stack.start("bridge", rate_limit_url=redis.url)
        site.stack.wait_for_bridge()
        with Viewer(site.stack.bridge_url, site.stack.key, site.cameras) as viewer, _caller(site) as caller:
            viewer.await_pictures(time.monotonic())
            for _ in range(min(plan.times, 6)):
                site.now_and_then()
                fail(redis)
                failed = time.monotonic()
                taken = sum(caller.get("/v1/cameras").status_code == 200 for _ in range(3 * RATE))
                if not 0 < taken < 2 * RATE:
                    raise DrillError(f"{taken} of {3 * RATE} requests were taken of a key with {RATE} a minute")
                viewer.await_pictures(failed)
                mend(redis)
                since = time.monotonic()
                # In Redis the bucket is as good as full, and the bridge's own one is spent.
                site.wait(lambda: _left(caller) > RATE / 2, "Redis does not count again")
                site.recoveries.append(time.monotonic() - since)
            return _watched(site.row(), viewer)


@contextmanager
def _films(site: Site) -> Iterator[Films]:
    site.stack.start("bridge")
    site.stack.start("archive", metrics_port=0)
    site.stack.wait_for_bridge()
    with Films(site) as films:
        yield films


@contextmanager
def _caller(site: Site) -> Iterator[httpx.Client]:
    """Somebody with a key of :data:`RATE`."""
    database = Database(site.stack.settings)
    try:
        secret = Keys(database).create("drill", Scope, purpose="drill", rate=RATE).secret
    finally:
        database.close()
    with httpx.Client(base_url=site.stack.bridge_url, headers={"Authorization": f"Bearer {secret}"}) as client:
        yield client


def _left(caller: httpx.Client) -> int:
    return int(caller.get("/v1/cameras").headers["ratelimit-remaining"])


def _counted(row: Row, films: Films) -> Row:
    masked = films.masked
    row.lost, row.leaked = row.lost + masked.lost, row.leaked + masked.leaked
    row.searched += masked.frames
    row.more["film_pictures"] = masked.frames
    return row


def _watched(row: Row, viewer: Viewer) -> Row:
    row.leaked += viewer.leaked
    row.searched += viewer.pictures
    row.more["viewer_pictures"] = viewer.pictures
    return row
