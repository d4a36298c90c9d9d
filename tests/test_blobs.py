"""Blobs, in a folder and in the bucket of a real S3 service: the same tests for both."""

from __future__ import annotations

import io
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import S3Store

from sfumato.agents.files.blobs import PART, BlobError, Blobs
from sfumato.agents.settings import Settings
from tests.object_store import CREDENTIALS, object_store
from tests.test_uploads import OWNER
from tests.uploading import film, make_uploads


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store("raw-footage") as url:
        yield url


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    if request.param == "folder":
        return Settings(state_dir=tmp_path)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url = f"s3://raw-footage/city/{tmp_path.name}"
    return Settings(state_dir=tmp_path, files_url=url, files_endpoint=request.getfixturevalue("endpoint"))


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    return Blobs(settings)


def test_what_is_put_can_be_read_listed_and_deleted(blobs):
    blobs.put("jobs/1/a.mp4", b"0123456789")
    blobs.put("jobs/1/a.mp4", b"9876543210")  # the newest counts
    blobs.put("jobs/12/b", b"")
    assert blobs.get("jobs/1/a.mp4") == b"9876543210"
    assert blobs.size("jobs/1/a.mp4") == 10
    assert {(blob.name, blob.size) for blob in blobs.list("jobs")} == {("jobs/1/a.mp4", 10), ("jobs/12/b", 0)}
    assert [blob.name for blob in blobs.list("jobs/1")] == ["jobs/1/a.mp4"]  # by parts of the name
    blobs.delete("jobs/1/a.mp4", "jobs/1/never")
    for attempt in (blobs.get, blobs.size, blobs.open, lambda name: list(blobs.read(name))):
        with pytest.raises(FileNotFoundError):
            attempt("jobs/1/a.mp4")
    assert list(blobs.list("nothing")) == []


def test_ranges(blobs):
    data = os.urandom(3 * 1024 * 1024)
    blobs.put("a", data)
    for start, end in ((0, None), (0, 1), (5, 2_000_000), (len(data) - 1, None), (10, 10**9)):
        assert b"".join(blobs.read("a", start, end)) == data[start:end]
    assert sum(1 for _ in blobs.read("a")) >= 2
    for start, end in ((len(data), None), (5, 5), (-1, 3), (7, 3)):
        with pytest.raises(ValueError, match="range"):
            list(blobs.read("a", start, end))
    blobs.put("empty", b"")
    assert list(blobs.read("empty")) == []


def test_an_open_blob_is_a_seekable_file(blobs):
    data = os.urandom(2_500_000)
    blobs.put("a", data)
    file = blobs.open("a")
    assert bytes(file.read(10)) == data[:10]
    file.seek(-20, os.SEEK_END)
    assert bytes(file.read()) == data[-20:]
    file.seek(1_234_567)
    assert bytes(file.read(1_000_000)) == data[1_234_567 : 1_234_567 + 1_000_000]


class Zeros(io.RawIOBase):
    """A file of so many bytes that lies nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = min(self.left, size if size >= 0 else self.left)
        self.left -= count
        return bytes(count)


def test_large_files_are_put_in_parts_and_constant_memory(blobs):
    size = 8 * PART + 5
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blobs.put_file("large", Zeros(size))
    assert blobs.size("large") == size
    assert sum(map(len, blobs.read("large"))) == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < size / 1024 * 0.8  # kilobytes


def test_iterators_and_paths_can_be_put(blobs, tmp_path):
    blobs.put_file("iterated", iter([b"a" * 10, b"b" * PART, b"c"]))
    assert blobs.get("iterated") == b"a" * 10 + b"b" * PART + b"c"
    blobs.put_file("nothing", io.BytesIO())
    assert blobs.size("nothing") == 0
    (tmp_path / "file").write_bytes(b"content")
    blobs.put_file("path", tmp_path / "file")
    assert blobs.get("path") == b"content"


def test_what_fails_halfway_leaves_nothing(blobs):
    def breaking() -> Iterator[bytes]:
        yield b"a" * PART
        raise RuntimeError("broken")

    with pytest.raises(Exception):  # noqa: B017, PT011 - obstore's own
        blobs.put_file("half", breaking())
    with pytest.raises(FileNotFoundError):
        blobs.size("half")
    assert list(blobs.list("half")) == []


NAMES = ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a\\b", "a\0b", "a b", "\u00e9"]


@pytest.mark.parametrize("name", [*NAMES, "a#1", "a%2e", "C:a", "a/" * 8 + "a", "a" * 101, "a\n"])
def test_names_that_lead_elsewhere_are_refused(blobs, name):
    calls = (
        lambda: blobs.put(name, b"x"),
        lambda: blobs.put_file(name, io.BytesIO(b"x")),
        lambda: blobs.get(name),
        lambda: list(blobs.read(name)),
        lambda: blobs.open(name),
        lambda: blobs.size(name),
        lambda: blobs.delete(name),
        lambda: list(blobs.list(name)),
    )
    for call in calls:
        with pytest.raises(ValueError, match="not a blob's name"):
            call()


def test_uploads_lie_there_sealed(settings, blobs):
    """All of it once more, above the store."""
    uploads, data = make_uploads(settings), film()
    id = uploads.create(OWNER, len(data)).id
    writer = uploads.writer(id, 0)
    writer.take(data)
    writer.finish()
    assert uploads.complete(id) == "video/mp4"
    with uploads.open(id) as file:
        assert file.readall() == data
    (blob,) = blobs.list("uploads")
    assert data[:100] not in blobs.get(blob.name)
    uploads.delete(id)
    assert list(blobs.list("uploads")) == []
    uploads._database.close()


def test_the_folder_is_the_owners_alone(tmp_path):
    (tmp_path / "files").mkdir(mode=0o755)
    Blobs(Settings(state_dir=tmp_path)).put("a/b", b"x")
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "url", ["gs://bucket", "s3://", "s3://UPPER", "s3://bucket/../x", "s3://bucket/a b", "/folder"]
)
def test_a_url_that_cannot_be_used_names_the_setting(url, tmp_path):
    with pytest.raises(BlobError, match="SFUMATO_FILES_URL"):
        Blobs(Settings(state_dir=tmp_path, files_url=url))


def test_a_folder_that_cannot_be_used_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobError, match="SFUMATO_STATE_DIR"):
        Blobs(Settings(state_dir=tmp_path / "file"))


def test_a_service_that_is_away_or_a_bucket_that_is_not_there_is_told_without_secrets(tmp_path, endpoint, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    strange = Blobs(Settings(state_dir=tmp_path, files_url="s3://not-there", files_endpoint=endpoint))
    with pytest.raises(OSError) as failed:  # noqa: PT011
        strange.put("a", b"x")
    assert "test" not in str(failed.value)


def test_plain_http_is_used_only_where_it_was_said(tmp_path, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = Blobs(Settings(state_dir=tmp_path, files_url="s3://bucket", files_endpoint="https://127.0.0.1:1"))
    assert isinstance(bucket._store, S3Store)
    assert bucket._store.client_options == {"allow_http": "false"}
