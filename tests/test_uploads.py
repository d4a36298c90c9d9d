"""Uploads by themselves: sealed on the disk, whole or not at all, gone when deleted; the API is in
test_uploads_api.py."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import pytest
from sqlalchemy import delete, select, update

from sfumato.agents.database import Database
from sfumato.agents.files import uploads as module
from sfumato.agents.files.blobs import BlobError, Blobs
from sfumato.agents.files.rows import Segment, Upload
from sfumato.agents.files.sealing import KEY, SEGMENT, SealError
from sfumato.agents.files.uploads import ConflictError, NoUploadError, TooLargeError, Uploads, fill
from sfumato.agents.settings import Settings
from sfumato.models.content import ContentError
from tests.uploading import box, film, make_uploads

OWNER = "key:1"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", database_url=database_url)


@pytest.fixture
def uploads(settings: Settings):
    uploads = make_uploads(settings)
    yield uploads
    uploads._database.close()


def filled(uploads: Uploads, data: bytes, piece: int = 1 << 20) -> str:
    id = uploads.create(OWNER, None, {"filename": "Erika Mustermann.mp4"}).id
    fill(uploads, id, (data[i : i + piece] for i in range(0, len(data), piece)))
    return id


def blobs(settings: Settings) -> set[str]:
    return {blob.name for blob in Blobs(settings).list("uploads")}


def long_film(marker: bytes = b"", bytes_: int = 2 * SEGMENT + 1000) -> bytes:
    """A film of several segments: a free box in front of its index, of random bytes."""
    return film() + box(b"free", marker + os.urandom(bytes_))


def test_a_caller_has_a_share_of_the_store(settings, monkeypatch):
    uploads = make_uploads(settings.model_copy(update={"upload_caller_bytes": 1000}))
    first = uploads.create(OWNER, 600)
    with pytest.raises(TooLargeError, match="SFUMATO_UPLOAD_CALLER_BYTES"):
        uploads.create(OWNER, 401)
    uploads.create("key:2", 1000)
    open_end = uploads.create(OWNER, None)
    with pytest.raises(TooLargeError, match="CALLER_BYTES"):
        fill(uploads, open_end.id, [b"x" * 401])
    fill(uploads, open_end.id, [b"x" * 400])
    with pytest.raises(TooLargeError):
        uploads.create(OWNER, None)
    uploads.delete(first.id)
    late = uploads.create(OWNER, None)
    with pytest.raises(TooLargeError):
        uploads.set_length(late.id, 601)
    uploads.set_length(late.id, 600)
    uploads.delete(late.id)
    monkeypatch.setattr(module, "MOST_UPLOADS", 2)
    uploads.create(OWNER, 1)
    with pytest.raises(TooLargeError, match="2 uploads"):
        uploads.create(OWNER, 1)
    uploads._database.close()


def test_what_was_uploaded_can_be_opened_and_decoded(uploads):
    data = long_film()
    id = filled(uploads, data)
    state = uploads.get(id, OWNER)
    assert (state.offset, state.length, state.segments, state.complete) == (len(data), len(data), 3, False)
    assert state.details == {"filename": "Erika Mustermann.mp4"}
    assert uploads.complete(id) == "video/mp4"
    assert uploads.complete(id) == "video/mp4"
    assert uploads.get(id).kind == "video/mp4"
    with uploads.open(id) as file:
        assert file.readall() == data
        file.seek(0)
        with av.open(file, format="mp4") as container:
            assert sum(1 for _ in container.decode(video=0)) == 10


def test_nothing_of_it_lies_in_the_clear(uploads, settings):
    marker = b"MARKER-of-raw-footage-4711"
    id = filled(uploads, long_film(marker))
    uploads.complete(id)
    uploads._database.close()
    files = [path for path in settings.state_dir.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        found = path.read_bytes()
        assert marker not in found, path
        assert b"Mustermann" not in found, path
        assert b"ftypisom" not in found, path
    assert (settings.state_dir / "files").stat().st_mode & 0o077 == 0


def test_deleting_shreds_the_key(uploads, settings):
    id = filled(uploads, long_film())
    with uploads._database.begin() as session:
        wrapped = session.get_one(Upload, id).wrapped_key
    assert blobs(settings)
    uploads.delete(id)
    uploads.delete(id)
    uploads.sweep()
    assert not blobs(settings)
    with pytest.raises(NoUploadError):
        uploads.get(id)
    for path in settings.state_dir.rglob("*"):
        assert not path.is_file() or wrapped not in path.read_bytes(), path


@pytest.mark.parametrize("id", ["", "x", "a" * 31, "A" * 32, "\0" * 32, "a" * 32, "../" * 10, "'; DROP TABLE uploads"])
def test_an_id_that_was_never_given_out_is_not_there(uploads, id):
    with pytest.raises(NoUploadError):
        uploads.get(id)


def test_what_a_job_keeps_stays(uploads, settings):
    id, now = filled(uploads, film()), datetime.now(UTC)
    uploads.keep(id, now + timedelta(days=30))
    uploads.sweep(now + timedelta(days=29))
    assert blobs(settings)
    uploads.sweep(now + timedelta(days=31))
    assert not blobs(settings)


def test_another_caller_sees_nothing_of_it(uploads):
    id = filled(uploads, film())
    with pytest.raises(NoUploadError):
        uploads.get(id, "key:2")
    assert uploads.get(id, OWNER).id == id


@pytest.mark.parametrize(
    "harm", ["drop the last", "drop the last and say so", "exchange", "other upload", "cut", "key"]
)
def test_tampering_is_noticed(uploads, settings, harm):
    id, other = filled(uploads, long_film()), filled(uploads, long_film())
    uploads.complete(id)
    with uploads._database.begin() as session:
        rows = list(session.scalars(select(Segment).where(Segment.upload == id).order_by(Segment.number)))
        if harm.startswith("drop"):
            session.delete(rows[-1])
        if harm == "drop the last and say so":
            session.execute(update(Upload).values(length=2 * SEGMENT).where(Upload.id == id))
        if harm == "exchange":
            rows[0].blob, rows[1].blob = rows[1].blob, rows[0].blob
        if harm == "other upload":
            taken = session.scalars(select(Segment).where(Segment.upload == other).order_by(Segment.number)).first()
            rows[0].blob = taken.blob
        if harm == "key":
            session.execute(update(Upload).values(wrapped_key=os.urandom(60)).where(Upload.id == id))
    if harm == "cut":
        path = settings.state_dir / "files" / rows[1].blob
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SealError), uploads.open(id) as file:
        file.readall()


def test_an_upload_is_opened_only_when_all_of_it_was_looked_at(uploads):
    id = uploads.create(OWNER, 5).id
    for attempt in (uploads.open, uploads.complete):
        with pytest.raises(ConflictError, match="not complete"):
            attempt(id)


def test_what_cannot_be_masked_is_refused_and_deleted(uploads, settings):
    id = filled(uploads, b"#!/bin/sh\n" + bytes(100))
    with pytest.raises(ContentError):
        uploads.complete(id)
    assert not blobs(settings)
    with pytest.raises(NoUploadError):
        uploads.get(id)


def test_of_two_writers_one_wins_and_nothing_mixes(uploads, settings):
    id = uploads.create(OWNER, 100).id
    first, second = uploads.writer(id, 0), uploads.writer(id, 0)
    first.take(b"1" * 60)
    second.take(b"2" * 100)
    second.finish()
    with pytest.raises(ConflictError):
        first.finish()
    assert uploads.get(id).offset == 100
    with pytest.raises(ConflictError, match="wants 100"):
        uploads.writer(id, 0)
    assert len(blobs(settings)) == 1
    with uploads._database.begin() as session:
        upload = session.get_one(Upload, id)
    with uploads._read(upload) as file:
        assert file.readall() == b"2" * 100


def test_of_many_writers_at_once_one_wins(uploads, settings):
    id = uploads.create(OWNER, 10).id
    writers, results = [uploads.writer(id, 0) for _ in range(8)], []
    start = threading.Barrier(8)

    def write(writer: module.Writer) -> None:
        writer.take(b"x" * 10)
        start.wait()
        try:
            writer.finish()
            results.append(True)
        except ConflictError:
            results.append(False)

    threads = [threading.Thread(target=write, args=[writer]) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert len(blobs(settings)) == 1


def test_a_writer_whose_upload_is_deleted_leaves_nothing(uploads, settings):
    id = uploads.create(OWNER, 10).id
    writer = uploads.writer(id, 0)
    writer.take(b"x" * 10)
    uploads.delete(id)
    with pytest.raises(NoUploadError):
        writer.finish()
    assert not blobs(settings)


def test_lengths_are_kept_to(uploads, settings):
    id = uploads.create(OWNER, 10).id
    with pytest.raises(TooLargeError):
        uploads.writer(id, 0).take(b"x" * 11)
    with pytest.raises(TooLargeError, match="SFUMATO_UPLOAD_MAX_BYTES"):
        uploads.create(OWNER, settings.upload_max_bytes + 1)
    deferred = uploads.create(OWNER, None).id
    writer = uploads.writer(deferred, 0)
    writer.take(b"x" * 10)
    writer.finish()
    with pytest.raises(ConflictError):
        uploads.set_length(deferred, 9)
    uploads.set_length(deferred, 10)
    uploads.set_length(deferred, 10)
    with pytest.raises(ConflictError):
        uploads.set_length(deferred, 11)


def test_too_many_small_pieces_are_refused(uploads, monkeypatch):
    monkeypatch.setattr(module, "MOST_SEGMENTS", 3)
    id = uploads.create(OWNER, 100).id
    for offset in range(3):
        writer = uploads.writer(id, offset)
        writer.take(b"x")
        writer.finish()
    writer = uploads.writer(id, 3)
    writer.take(b"x")
    with pytest.raises(TooLargeError, match="send larger pieces"):
        writer.finish()


def test_the_sweep_deletes_what_has_expired_and_orphans_and_nothing_else(uploads, settings):
    kept, expired, gone, growing = (filled(uploads, film(seed=n)) for n in range(4))
    store, now = Blobs(settings), datetime.now(UTC)
    alive = {name for name in blobs(settings) if kept in name or growing in name}
    uploads.keep(expired, now - timedelta(seconds=1))
    with uploads._database.begin() as session:
        session.execute(delete(Upload).where(Upload.id == gone))  # killed before it deleted the blobs
    store.put(f"uploads/{kept}/0-{'a' * 16}", b"lost a race")
    in_flight = f"uploads/{growing}/1-{'b' * 16}"
    store.put(in_flight, b"its row is about to be written")
    with pytest.raises(NoUploadError):
        uploads.get(expired)
    uploads.sweep()
    assert blobs(settings) == alive | {in_flight}
    uploads.sweep(now + timedelta(hours=1))
    assert blobs(settings) == alive | {in_flight}
    uploads.complete(growing)  # nothing more will come
    uploads.sweep()
    assert blobs(settings) == alive
    with uploads._database.begin() as session:
        assert session.get(Upload, expired) is None
    uploads.sweep(now + timedelta(days=2))
    assert not blobs(settings)


def test_what_obstore_left_half_written_is_deleted(uploads, settings):
    filled(uploads, film())
    folder = next((settings.state_dir / "files" / "uploads").iterdir())
    old, new = folder / f"1-{'c' * 16}#1", folder / f"1-{'d' * 16}#1"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    uploads.sweep()
    assert not old.exists()
    assert new.exists()


def test_each_upload_has_a_key_of_its_own(uploads):
    ids = [uploads.create(OWNER, 1).id for _ in range(2)]
    with uploads._database.begin() as session:
        keys = {uploads._keys.unwrap(u.key_id, u.wrapped_key, u.id) for u in map(session.get_one, [Upload] * 2, ids)}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {KEY}


def test_two_processes_share_uploads(uploads, settings):
    other = make_uploads(settings)
    data = film()
    id = filled(uploads, data)
    other.complete(id)
    with uploads.open(id) as file:
        assert file.readall() == data
    other._database.close()


def test_a_database_that_another_key_sealed_names_the_setting(uploads, settings, tmp_path):
    id = filled(uploads, film())
    other = settings.model_copy(update={"sealing_key_file": tmp_path / "other.key"})
    strange = make_uploads(other)
    with pytest.raises(SealError, match="SFUMATO_SEALING_KEY_FILE"):
        strange.get(id)
    strange._database.close()


def test_sqlite_overwrites_what_is_deleted(tmp_path):
    database = Database(Settings(state_dir=tmp_path))
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
    database.close()


def test_the_sweep_leaves_alone_what_counts_only_at_its_end(uploads, settings):
    """A body with a checksum may take hours, and has no row before."""
    data = long_film()
    id = uploads.create(OWNER, len(data)).id
    writer = uploads.writer(id, 0, at_end=True)
    writer.take(data)
    writer.flush()
    uploads.sweep(datetime.now(UTC) + timedelta(hours=1))
    writer.finish()
    uploads.complete(id)
    with uploads.open(id) as file:
        assert file.readall() == data


def test_a_store_that_fails_while_an_upload_is_looked_at_costs_nothing(uploads, settings):
    """FFmpeg takes what cannot be read for a damaged film."""
    id = uploads.create(OWNER, None).id
    data, writer = film(), uploads.writer(id, 0)
    for start in range(0, len(data), 1000):
        writer.take(data[start : start + 1000])
        writer.flush(all=True)
    uploads.set_length(id, len(data))
    get, left = uploads._blobs.get, 0

    def failing(name: str) -> bytes:
        nonlocal left
        left -= 1
        if left == 0:
            raise BlobError("the store does not answer")
        return get(name)

    uploads._blobs.get = failing
    for fails in range(1, 1000):
        left = fails
        try:
            uploads.complete(id)
        except BlobError:
            continue
        break
    assert fails > 3
    assert uploads.get(id).kind == "video/mp4"
