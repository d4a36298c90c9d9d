"""Jobs without Kafka: what a worker makes of them, who owns what, and what is left when they have ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from postgresql import PostgreSQL, postgresql
from sqlalchemy import update
from sqlalchemy.orm import Session

from sfumato.agents.access.callers import Caller
from sfumato.agents.access.usage import Usage
from sfumato.agents.api import jobs as api
from sfumato.agents.files.blobs import BlobError
from sfumato.agents.files.uploads import NoUploadError
from sfumato.agents.jobs import claims, pieces, records, sweep
from sfumato.agents.jobs.claims import Claim, LostError
from sfumato.agents.jobs.desk import Desk, RequestError
from sfumato.agents.jobs.records import JobError, NoJobError
from sfumato.agents.jobs.rows import JobRow, PartRow
from sfumato.models import images
from sfumato.schemas.job import JobEnded, JobReport, JobRequest, JobState, Progress
from sfumato.schemas.topics import JOB_EVENTS
from tests import films
from tests.films import red, scene, write
from tests.jobbing import OWNER, Workshop, workshop

FRAMES = 100
"""Of a film: two parts."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workshop]:
    url = request.getfixturevalue("server").database() if request.param == "postgresql" else ""
    with workshop(tmp_path, database_url=url) as made:
        yield made


def film(folder: Path, name: str = "a.mp4", count: int = FRAMES, **keys: object) -> Path:
    return write(folder / name, [scene(n) for n in range(count)], options={"g": "20"}, **keys)


def picture(number: int = 0) -> bytes:
    return images.encode(scene(number), 95)


def kept(shop: Workshop, job: object, number: int, path: Path) -> Path:
    path.write_bytes(shop.fetch(job, number))
    return path


def test_a_batch_is_masked_and_each_file_accounted_for(shop: Workshop, tmp_path: Path) -> None:
    sources = [film(tmp_path, f"a{ending}") for ending in (".mp4", ".webm", ".mkv", ".mov")]
    garbage = shop.upload(picture())
    job = shop.create(*sources, picture(), b"\xff\xd8\xff garbage", film(tmp_path, "short.mp4", 12))
    assert (job.state, len(job.files)) == (JobState.QUEUED, 7)
    shop.work()
    done = shop.jobs.get(job.id)
    assert done.state is JobState.FAILED
    assert "1 of 7" in (done.error or "")
    assert [file.state for file in done.files] == ["succeeded"] * 5 + ["failed"] + ["succeeded"]
    bad = done.files[5]
    assert bad.error
    assert bad.remedy
    assert bad.result is None
    for file, source in zip(done.files, sources, strict=False):
        assert file.result is not None
        account = file.result.account
        assert (file.frames_done, file.frames_total, account.frames, account.masked) == (FRAMES,) * 4
        assert file.bytes_before == source.stat().st_size
        target = kept(shop, job, file.number, tmp_path / f"masked{source.suffix}")
        assert file.result.bytes == target.stat().st_size
        assert films.times(target) == films.times(source)
        assert not any(red(image).any() for image in films.read(target))
    masked = images.decode(shop.fetch(job, 4), "image/jpeg", max_pixels=10**6)
    assert not red(masked).any()
    assert Usage(shop.database).today(OWNER).frames == 4 * FRAMES + 1 + 12
    report = JobReport.of(done)
    assert (report.frames, report.masked) == (4 * FRAMES + 1 + 12, 4 * FRAMES + 1 + 12)
    assert shop.uploads.get(garbage).complete is False


def test_uploads_and_parts_go_when_the_job_ends_however(shop: Workshop, tmp_path: Path) -> None:
    ended = [shop.create(film(tmp_path)), shop.create(b"\xff\xd8\xff garbage"), shop.create(film(tmp_path))]
    shop.jobs.cancel(ended[2].id)
    shop.work()
    states = [shop.jobs.get(job.id).state for job in ended]
    assert states == [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]
    shop.sweeper.sweep()
    assert shop.names("uploads") == []
    assert len(shop.names("jobs")) == 1
    assert shop.fetch(ended[0])
    told = [JobEnded.from_message(m.key, m.value) for topic, m in shop.unheard.sent if topic is JOB_EVENTS]
    assert {(each.job, each.state, each.owner) for each in told} == {
        (job.id, state, OWNER) for job, state in zip(ended, states, strict=True)
    }
    shop.sweeper.sweep()
    assert len(shop.unheard.sent) == 3


def test_results_expire(shop: Workshop) -> None:
    job = shop.create(picture())
    shop.work()
    shop.sweeper.sweep()
    with shop.database.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(JobRow).values(expires_at=past))
    with pytest.raises(NoJobError):
        shop.jobs.result(job.id, 0)
    shop.sweeper.sweep()
    assert shop.names() == []
    assert shop.jobs.get(job.id).state is JobState.EXPIRED
    assert shop.jobs.get(job.id).files[0].result is None


def test_a_policys_retention_shortens_that_of_results(shop: Workshop) -> None:
    job = shop.create(picture(), policy=films.policy())  # one hour
    shop.work()
    done = shop.jobs.get(job.id)
    assert done.expires_at is not None
    assert done.ended_at is not None
    assert done.expires_at - done.ended_at == timedelta(hours=1)


def test_the_policy_decides_on_sound(shop: Workshop, tmp_path: Path) -> None:
    job = shop.create(film(tmp_path, adorn=films.tone), policy=films.policy(audio="keep"))
    shop.work()
    (file,) = shop.jobs.get(job.id).files
    assert file.result is not None
    assert file.result.sound
    desk = Desk(shop.settings, shop.database, shop.uploads, shop.blobs, shop.keys)
    request = JobRequest.model_validate(
        {
            "files": [{"upload": shop.upload(picture())}],
            "policy": {"inline": films.policy()},
            "options": {"keep_audio": True},
            "purpose": "tests",
        }
    )
    with pytest.raises(RequestError, match=r"options\.keep_audio: the policy drops audio"):
        desk.create(OWNER, request, films.policy())


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
    assert kept(shop, job, 0, tmp_path / "masked.mp4").stat().st_size
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
    server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite who writes is alone."""
    with workshop(tmp_path, database_url=server.database()) as shop:
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


def test_owners_see_their_own_and_an_upload_has_one_job(shop: Workshop) -> None:
    job = shop.create(picture())
    with pytest.raises(NoJobError):
        shop.jobs.get(job.id, "key:other")
    with pytest.raises(NoJobError):
        shop.jobs.cancel(job.id, "key:other")
    assert shop.jobs.page("key:other", 10) == ([], False)
    (upload,) = shop.jobs.uploads(job.id)
    request = JobRequest.model_validate({"files": [{"upload": upload}], "purpose": "x"})
    with pytest.raises(JobError, match="upload"):
        shop.jobs.create(OWNER, request, films.policy(), lambda *_: b"")
    with pytest.raises(JobError, match="cancel"):
        shop.jobs.delete(job.id, OWNER)


def desk_of(shop: Workshop) -> Desk:
    desk = Desk(shop.settings, shop.database, shop.uploads, shop.blobs, shop.keys)
    desk._sweeper, desk._announcer = shop.sweeper, shop.unheard  # type: ignore[assignment]
    return desk


def test_a_job_is_deleted_only_when_its_end_is_told(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, jobs = desk_of(shop), [shop.create(picture()) for _ in range(2)]
    shop.work()
    desk.delete(jobs[0].id, OWNER)
    told = [JobEnded.from_message(m.key, m.value).job for topic, m in shop.unheard.sent if topic is JOB_EVENTS]
    assert told == [jobs[0].id]
    monkeypatch.setattr(sweep, "TOLD_WITHIN", 0.01)
    monkeypatch.setattr(shop.unheard, "try_send", lambda *_: True)  # Kafka does not answer
    with pytest.raises(JobError, match="again"):
        desk.delete(jobs[1].id, OWNER)
    assert shop.fetch(jobs[1])


def test_only_a_job_that_was_taken_keeps_an_upload_longer(shop: Workshop) -> None:
    desk, whole, part = desk_of(shop), shop.upload(picture()), shop.uploads.create(OWNER, 100).id
    until = shop.uploads.get(whole).expires_at

    def request(*uploads: str) -> JobRequest:
        return JobRequest.model_validate({"files": [{"upload": each} for each in uploads], "purpose": "tests"})

    with pytest.raises(RequestError, match=r"files\.1"):
        desk.create(OWNER, request(whole, part), films.policy())
    assert shop.uploads.get(whole).expires_at == until
    desk.create(OWNER, request(whole), films.policy())
    assert shop.uploads.get(whole).expires_at > until


def test_a_job_that_cannot_be_cleared_holds_up_no_other(shop: Workshop) -> None:
    jobs = [shop.create(picture(n)) for n in range(3)]
    shop.work()
    delete = shop.blobs.delete
    stuck = shop.jobs.uploads(jobs[1].id)[0]

    def failing(*names: str) -> None:
        if any(stuck in name for name in names):
            raise BlobError("the store does not answer")
        delete(*names)

    shop.blobs.delete = failing  # type: ignore[method-assign]
    for _ in range(2):
        shop.sweeper.sweep()
    assert {name.split("/")[1] for name in shop.names("uploads")} == {stuck}
    assert len(shop.unheard.sent) == 3
    shop.blobs.delete = delete  # type: ignore[method-assign]
    shop.sweeper.sweep()
    assert shop.names("uploads") == []


def test_numbers_beyond_any_file_are_none(shop: Workshop) -> None:
    job = shop.create(picture())
    for number in (-1, 1, 2**40, 2**80):
        with pytest.raises(NoJobError):
            shop.jobs.result(job.id, number)


def test_of_two_jobs_made_at_once_one_gets_the_upload(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, look, second, outcomes = shop.upload(picture()), records._in_use, threading.Event(), []
    request = JobRequest.model_validate({"files": [{"upload": upload}], "purpose": "tests"})

    def create() -> None:
        try:
            outcomes.append(shop.jobs.create(OWNER, request, films.policy(), lambda *_: b""))
        except JobError as error:
            outcomes.append(error)

    other = threading.Thread(target=create)

    def looking(*arguments: object) -> str | None:
        found = look(*arguments)  # type: ignore[arg-type]
        if threading.current_thread() is other:
            second.set()
        else:
            other.start()
            second.wait(1)  # in vain where the other has to wait
        return found

    monkeypatch.setattr(records, "_in_use", looking)
    create()
    other.join(20)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Job", "JobError"]
    shop.uploads.delete(upload)
    shop.jobs.cancel(shop.jobs.page(OWNER, 1)[0][0].id)
    monkeypatch.undo()
    with pytest.raises(JobError, match="gone"):
        shop.jobs.create(OWNER, request, films.policy(), lambda *_: b"")


@pytest.mark.parametrize(("most", "sizes"), [(2000, [3, 2]), (4, [2, 2, 1])])
def test_pages_come_newest_first_and_hold_everything_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int]
) -> None:
    """A page ends early where its jobs have many files: a thousand of a thousand files would fill the memory."""
    monkeypatch.setattr(records, "MOST_SHOWN", most)
    made = [shop.create(picture(), picture()).id for _ in range(5)]
    pages: list[list[str]] = []
    before, more = None, True
    while more:
        page, more = shop.jobs.page(OWNER, 3, before)
        pages.append([job.id for job in page])
        before = page[-1].created_at, page[-1].id
    assert [len(page) for page in pages] == sizes
    assert [job for page in pages for job in page] == made[::-1]


def test_lost_announcements_are_made_again(shop: Workshop) -> None:
    job = shop.create(picture())
    shop.sweeper.sweep()
    assert shop.unheard.announced == [job.id]
    shop.claims.announced(job.id)
    shop.sweeper.sweep()
    assert shop.unheard.announced == [job.id]
    shop.work()
    shop.sweeper.sweep()
    assert shop.unheard.announced == [job.id]


def test_raw_footage_never_lies_on_the_disk(shop: Workshop, tmp_path: Path) -> None:
    plain = film(tmp_path, count=60).read_bytes()
    (tmp_path / "a.mp4").unlink()
    mark, seen = plain[len(plain) // 2 :][:64], []

    class Looking(films.Squares):
        def detect(self, pictures, smallest=None):  # type: ignore[no-untyped-def]
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            seen.append(len(files))
            assert not [path for path in files if mark in path.read_bytes()]
            return super().detect(pictures, smallest)

    job = shop.create(plain)
    shop.work(films.Ensemble([Looking()]))
    assert shop.jobs.get(job.id).state is JobState.SUCCEEDED
    assert min(seen) > 1  # the key and the sealed segments at least
    assert shop.jobs.get(job.id).files[0].result.account.reasons == {}  # type: ignore[union-attr]
    shop.sweeper.sweep()
    with pytest.raises(NoUploadError):
        shop.uploads.get(shop.jobs.uploads(job.id)[0])


def test_events_end_with_the_key_of_who_listens(shop: Workshop, tmp_path: Path) -> None:
    """As WebSockets do: a stream that is open may else go on for days after its key was revoked."""
    job = shop.create(picture())
    known = iter([True, True, False])

    async def still_known() -> bool:
        return next(known)

    async def listen() -> list[Progress]:
        desk: Any = SimpleNamespace(jobs=shop.jobs)
        caller = Caller(OWNER, frozenset(), (), "")
        return [each async for each in api._progress(desk, job.id, caller, -1, still_known)]

    (only,) = asyncio.run(asyncio.wait_for(listen(), 20))
    assert only.id == job.id
