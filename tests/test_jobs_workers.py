"""The workers of jobs, without Kafka: they share films, die, hang, are told to stop, and their stores fail."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from postgresql import PostgreSQL
from sqlalchemy import update
from sqlalchemy.orm import Session

from sfumato.agents.files.blobs import BlobError
from sfumato.agents.jobs import claims, pieces
from sfumato.agents.jobs.claims import Claim, LostError
from sfumato.agents.jobs.rows import JobRow, PartRow
from sfumato.schemas.job import JobState
from tests import films
from tests.jobbing import FRAMES, Workshop, film, picture, workshop


def test_a_job_that_takes_too_long_fails_and_its_uploads_go(shop: Workshop) -> None:
    job = shop.create(picture())
    with shop.database.begin() as session:
        session.execute(update(JobRow).values(created_at=datetime.now(UTC) - timedelta(hours=100)))
    shop.sweeper.sweep()
    assert shop.jobs.get(job.id).state is JobState.FAILED
    assert shop.names("uploads") == []


def test_what_a_dead_worker_held_is_taken_up_and_its_late_result_counts_for_nothing(
    shop: Workshop, tmp_path: Path
) -> None:
    job = shop.create(film(tmp_path))
    archivist = shop.archivist()
    archivist.step()  # the plan
    dead = shop.claims.next("dead")
    assert isinstance(dead, Claim)
    assert dead.stage == "mask"
    with shop.database.begin() as session:
        session.execute(update(PartRow).values(leased_until=datetime.now(UTC) - timedelta(seconds=1)))
    shop.work()
    assert shop.jobs.get(job.id).state is JobState.SUCCEEDED
    before = shop.jobs.get(job.id)
    with pytest.raises(LostError):
        shop.claims.masked(dead, before.files[0].result.account, dead.blob)  # type: ignore[union-attr]
    with pytest.raises(LostError):
        shop.claims.renew(dead, 1)
    assert shop.jobs.get(job.id) == before


def test_a_file_that_kills_its_workers_fails_alone(shop: Workshop) -> None:
    job = shop.create(picture(), picture(1))
    for attempt in range(shop.settings.archive_attempts):
        claim = shop.claims.next(f"dies {attempt}")
        assert isinstance(claim, Claim)
        assert (claim.file, claim.attempt) == (0, attempt + 1)
        with shop.database.begin() as session:
            session.execute(update(PartRow).values(leased_until=datetime.now(UTC) - timedelta(seconds=1)))
    shop.work()
    files = shop.jobs.get(job.id).files
    assert [file.state for file in files] == ["failed", "succeeded"]
    assert "3 times" in (files[0].error or "")


def test_a_cancelled_job_is_noticed_while_it_is_masked(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path))
    begun, noticed, looked = threading.Event(), threading.Event(), []

    class Waiting(films.Squares):
        def detect(self, pictures, smallest=None):  # type: ignore[no-untyped-def]
            begun.set()
            looked.append(noticed.wait(20))
            return super().detect(pictures, smallest)

    archivist = shop.archivist(films.Ensemble([Waiting()]))
    archivist.step()
    renew = archivist.claims.renew

    def renewing(*arguments: object) -> None:
        try:
            renew(*arguments)  # type: ignore[arg-type]
        except LostError:
            noticed.set()
            raise

    archivist.claims.renew = renewing  # type: ignore[method-assign, assignment]
    worker = threading.Thread(target=archivist.step)
    worker.start()
    assert begun.wait(20)
    shop.jobs.cancel(job.id)
    worker.join(30)
    assert not worker.is_alive()
    assert all(looked)
    assert len(looked) < 10  # it ended within the pictures that it was looking at
    assert shop.jobs.get(job.id).state is JobState.CANCELLED
    shop.sweeper.sweep()
    assert shop.names() == []
    assert shop.names("uploads") == []


def test_a_store_that_fails_while_a_film_is_read_shortens_nothing(shop: Workshop, tmp_path: Path) -> None:
    """A decoder takes what cannot be read for the file's end; the attempt counts for nothing."""
    job = shop.create(film(tmp_path, "a.mkv"))
    archivist = shop.archivist()
    archivist.step()
    fails = [0]
    get = shop.blobs.get

    def failing(name: str) -> bytes:
        fails[0] += 1
        if fails[0] in (2, 3):
            raise BlobError("the store does not answer")
        return get(name)

    shop.blobs.get = failing  # type: ignore[method-assign]
    archivist.step()
    archivist.step()
    assert fails[0] >= 2
    with shop.database.begin() as session:
        session.execute(update(PartRow).values(not_before=datetime.now(UTC) - timedelta(seconds=1)))
    shop.work()
    done = shop.jobs.get(job.id).files[0]
    assert (done.state, done.cut_short) == (JobState.SUCCEEDED, None)
    assert done.result is not None
    assert done.result.account.frames == FRAMES


def test_a_store_that_fails_after_a_film_is_published_takes_nothing_back(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path))
    delete, refused = shop.blobs.delete, []

    def failing(*names: str) -> None:
        if names and not refused and shop.jobs.get(job.id).state is JobState.SUCCEEDED:
            refused.extend(names)
            raise BlobError("the store does not answer")
        delete(*names)

    shop.blobs.delete = failing  # type: ignore[method-assign]
    shop.work()
    assert refused
    assert shop.jobs.get(job.id).state is JobState.SUCCEEDED
    assert shop.keep(job, 0, tmp_path / "masked.mp4").stat().st_size
    shop.sweeper.sweep()
    assert len(shop.names()) == 1


def test_a_policy_that_expires_while_a_file_is_masked_shows_nothing(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=2)

    class Clock(datetime):
        passed = timedelta(0)

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + cls.passed

    class Slow(films.Squares):
        def detect(self, pictures, smallest=None):  # type: ignore[no-untyped-def]
            Clock.passed = timedelta(hours=3)
            return super().detect(pictures, smallest)

    monkeypatch.setattr(pieces, "datetime", Clock)
    for source in (picture(), film(tmp_path, count=30)):
        Clock.passed = timedelta(0)
        job = shop.create(source, policy=films.policy(valid_until=ends))
        shop.work(films.Ensemble([Slow()]))
        (done,) = shop.jobs.get(job.id).files
        assert (done.state, done.result) == (JobState.FAILED, None)
        assert "valid_until" in (done.error or "")
    shop.sweeper.sweep()
    assert shop.names() == []


def test_a_job_that_goes_while_a_worker_takes_it_ends_no_worker(
    postgres: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite who writes is alone."""
    with workshop(tmp_path, database_url=postgres.database()) as shop:
        take, jobs = claims.locked, []

        def late(session: Session, id: str) -> JobRow:
            if jobs:
                job, deleted = jobs.pop()
                shop.jobs.cancel(job)
                shop.sweeper.sweep()
                if deleted:
                    shop.jobs.delete(job)
            return take(session, id)

        monkeypatch.setattr(claims, "locked", late)
        for deleted in (False, True):
            jobs.append((shop.create(picture()).id, deleted))
            assert shop.claims.next("worker") is None
            assert not jobs


def test_a_worker_that_ends_in_good_order_gives_back_what_it_holds(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path))

    class Ending(films.Squares):
        def detect(self, pictures, smallest=None):  # type: ignore[no-untyped-def]
            archivist.stopping.set()
            return super().detect(pictures, smallest)

    archivist = shop.archivist(films.Ensemble([Ending()]))
    archivist.step()
    archivist.step()
    assert not archivist.step()
    claim = shop.claims.next("another")
    assert isinstance(claim, Claim)
    assert (claim.number, claim.attempt) == (1, 1)
    assert shop.jobs.get(job.id).files[0].error is None


def test_two_workers_share_a_film(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path, count=2 * FRAMES))
    archivists = [shop.archivist(), shop.archivist()]
    archivists[0].step()
    claims = [shop.claims.next("a"), shop.claims.next("b")]
    assert {claim.number for claim in claims if isinstance(claim, Claim)} == {1, 2}
    for claim in claims:
        shop.claims.release(claim)  # type: ignore[arg-type]

    def work(archivist) -> None:  # type: ignore[no-untyped-def]
        while archivist.step():
            pass

    threads = [threading.Thread(target=work, args=(archivist,)) for archivist in archivists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    shop.work()
    done = shop.jobs.get(job.id)
    assert done.state is JobState.SUCCEEDED
    assert done.files[0].result is not None
    assert done.files[0].result.account.frames == 2 * FRAMES
