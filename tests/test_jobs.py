"""Jobs without Kafka: what a worker makes of them, who owns what, and what is left when they have ended."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from sfumato.agents.access.callers import Caller
from sfumato.agents.access.usage import Usage
from sfumato.agents.api import jobs as api
from sfumato.agents.files.blobs import BlobError
from sfumato.agents.files.uploads import NoUploadError
from sfumato.agents.jobs import records, sweep
from sfumato.agents.jobs.desk import Desk, RequestError
from sfumato.agents.jobs.records import JobError, NoJobError
from sfumato.agents.jobs.rows import JobRow
from sfumato.models import images
from sfumato.schemas.job import JobEnded, JobReport, JobRequest, JobState, Progress
from sfumato.schemas.topics import JOB_EVENTS
from tests import films
from tests.films import red
from tests.jobbing import FRAMES, OWNER, Workshop, film, picture


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
        target = shop.keep(job, file.number, tmp_path / f"masked{source.suffix}")
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
