"""Sealing: whatever is changed, exchanged, reordered or cut is noticed; keys rotate; readers are files."""

from __future__ import annotations

import base64
import io
import os
import random
import stat

import av
import pytest

from sfumato.agents.files.sealing import CACHED, KEY, OVERHEAD, MasterKeys, Part, Seal, SealedReader, SealError
from sfumato.agents.settings import Settings
from tests.uploading import film


@pytest.fixture
def seal() -> Seal:
    return Seal(os.urandom(KEY), "a" * 32)


def test_what_was_sealed_opens_and_shows_nothing(seal):
    data = b"raw footage " * 1000
    sealed = seal.close(7, data)
    assert len(sealed) == len(data) + OVERHEAD
    assert b"footage" not in sealed
    assert seal.open(7, len(data), sealed) == data
    assert seal.open(0, 0, seal.close(0, b"")) == b""


@pytest.mark.parametrize("place", [0, 3, 4, 11, 12, 500, -17, -16, -1])
def test_each_changed_bit_is_noticed(seal, place):
    sealed = bytearray(seal.close(1, bytes(1000)))
    sealed[place] ^= 1
    with pytest.raises(SealError):
        seal.open(1, 1000, bytes(sealed))


def test_a_segment_at_another_place_is_noticed(seal):
    sealed = seal.close(1, b"one")
    with pytest.raises(SealError):
        seal.open(2, 3, sealed)
    renumbered = (2).to_bytes(4, "big") + sealed[4:]
    with pytest.raises(SealError):
        seal.open(2, 3, renumbered)


@pytest.mark.parametrize(("length", "sealed"), [(3, slice(0, -1)), (2, slice(0, -1)), (4, slice(0, None))])
def test_another_length_is_noticed(seal, length, sealed):
    with pytest.raises(SealError):
        seal.open(0, length, seal.close(0, b"one")[sealed])


def test_a_segment_of_another_upload_is_noticed():
    key = os.urandom(KEY)
    with pytest.raises(SealError):
        Seal(key, "b" * 32).open(0, 3, Seal(key, "a" * 32).close(0, b"one"))


def test_a_segment_sealed_again_has_another_nonce(seal):
    """After a crash the same number is sealed again, perhaps with other bytes: one nonce for both would break it."""
    nonces = {seal.close(0, b"same")[:12] for _ in range(1000)}
    assert len(nonces) == 1000
    assert {nonce[:4] for nonce in nonces} == {bytes(4)}
    assert seal.close(1, b"same")[:4] == b"\0\0\0\1"


def test_missing_and_added_segments_are_noticed(seal):
    closing = seal.finish(3, 3000)
    seal.check(closing, 3, 3000)
    for segments, length in ((2, 2000), (4, 4000), (3, 2999), (2, 3000)):
        with pytest.raises(SealError):
            seal.check(closing, segments, length)
    with pytest.raises(SealError):
        seal.check(seal.close(0, closing[12:24]), 3, 3000)


def test_the_key_file_is_made_once_and_nobody_else_may_read_it(tmp_path):
    settings = Settings(state_dir=tmp_path / "state")
    id, wrapped = MasterKeys(settings).wrap(b"k" * KEY, "upload")
    path = tmp_path / "state" / "sealing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert MasterKeys(settings).unwrap(id, wrapped, "upload") == b"k" * KEY
    path.chmod(0o640)
    with pytest.raises(SealError, match="chmod 600"):
        MasterKeys(settings)


def test_a_wrapped_key_belongs_to_one_upload(tmp_path):
    keys = MasterKeys(Settings(state_dir=tmp_path))
    id, wrapped = keys.wrap(b"k" * KEY, "one")
    for upload, text in (("two", wrapped), ("one", wrapped[:-1]), ("one", b""), ("one", wrapped[:-1] + b"\0")):
        with pytest.raises(SealError):
            keys.unwrap(id, text, upload)


def test_a_new_first_key_wraps_and_the_old_one_still_opens(tmp_path):
    path = tmp_path / "keys"
    settings = Settings(state_dir=tmp_path, sealing_key_file=path)
    old, wrapped = MasterKeys(settings).wrap(b"k" * KEY, "upload")
    new = f"2027 {base64.b64encode(os.urandom(KEY)).decode()}\n"
    path.write_text("# rotated\n" + new + path.read_text())
    rotated = MasterKeys(settings)
    assert rotated.unwrap(old, wrapped, "upload") == b"k" * KEY
    assert rotated.wrap(b"k" * KEY, "upload")[0] == "2027"
    path.write_text(new)
    with pytest.raises(SealError, match=f"SFUMATO_SEALING_KEY_FILE: .* has no key {old}"):
        MasterKeys(settings).unwrap(old, wrapped, "upload")


@pytest.mark.parametrize("text", ["", "a b", "a " + "A" * 42 + "==", "no-key\n", "é", f"a {'A' * 43}=\n" * 2])
def test_a_key_file_that_is_not_one_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(SealError, match="SFUMATO_SEALING_KEY_FILE"):
        MasterKeys(Settings(state_dir=tmp_path, sealing_key_file=tmp_path / "keys"))


def sealed_file(seal: Seal, data: bytes, segment: int) -> tuple[SealedReader, list[str]]:
    """A reader over segments of this many bytes, and the names that it fetches."""
    blobs, parts, fetched = {}, [], []
    for number, start in enumerate(range(0, len(data), segment)):
        piece = data[start : start + segment]
        blobs[str(number)] = seal.close(number, piece)
        parts.append(Part(len(piece), str(number)))

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return blobs[name]

    return SealedReader(seal, parts, fetch), fetched


def test_a_reader_reads_as_a_file_does(seal):
    data = random.Random(1).randbytes(10_007)
    reader, _ = sealed_file(seal, data, 1000)
    file, draws = io.BytesIO(data), random.Random(2)
    for _ in range(500):
        whence = draws.choice([os.SEEK_SET, os.SEEK_END, os.SEEK_CUR])
        offset = draws.randrange(-3000, 12_000)
        try:
            expected = file.seek(offset, whence)
        except (OSError, ValueError):
            with pytest.raises(ValueError, match="before"):
                reader.seek(offset, whence)
            continue
        if whence != os.SEEK_CUR or offset >= 0 or expected > 0:
            assert reader.seek(offset, whence) == expected
        file.seek(expected)
        reader.seek(expected)
        count = draws.randrange(0, 2500)
        found = bytearray()
        while len(found) < count and (more := reader.read(count - len(found))):
            found += more
        assert bytes(found) == file.read(count)
        assert reader.tell() == file.tell()
    reader.seek(0)
    assert reader.readall() == data
    assert reader.size == len(data)


def test_a_reader_keeps_few_segments(seal):
    reader, fetched = sealed_file(seal, bytes(100_000), 1000)
    reader.readall()
    assert fetched == [str(number) for number in range(100)]
    assert len(reader._cache) == CACHED
    reader.close()
    assert not reader._cache


def test_a_film_with_its_index_at_the_end_decodes_from_sealed_segments(seal):
    data = film(pictures=50)
    assert data.index(b"moov") > data.index(b"mdat")
    reader, _ = sealed_file(seal, data, 512)
    with av.open(reader, format="mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 50
