"""The key store ``files``: who may read a key, what is damaged or not mounted, and what shredding leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sfumato.agents.footage import key_files
from sfumato.agents.footage.key_files import KeyFiles
from sfumato.agents.footage.stores import KeyStoreError

HOUR = datetime(2026, 11, 25, 13, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KeyFiles(tmp_path / "keys").make("north", HOUR)
    return tmp_path / "keys"


def test_nobody_else_may_read_a_key(folder: Path) -> None:
    path = folder / "north" / "2026-11-25T13Z"
    assert [oct(p.stat().st_mode & 0o777) for p in (folder, path.parent, path)] == ["0o700", "0o700", "0o600"]
    assert path.stat().st_size == key_files.BYTES
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing is left of making it
    path.chmod(0o640)
    with pytest.raises(KeyStoreError, match=r"others may read .*2026-11-25T13Z; chmod go= it"):
        KeyFiles(folder).key("north", HOUR)
    path.chmod(0o600)
    folder.chmod(0o755)
    with pytest.raises(KeyStoreError, match="others may read"):
        KeyFiles(folder).make("south", HOUR)


@pytest.mark.parametrize("spoil", [lambda text: b"", lambda text: text[:-3], lambda text: text.replace(b"key", b"KEY")])
def test_a_damaged_key_is_no_missing_one(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    """Its frames wait for a person instead of being dropped."""
    path = folder / "north" / "2026-11-25T13Z"
    path.write_bytes(spoil(path.read_bytes()))
    store = KeyFiles(folder)
    for ask in (store.key, store.make, lambda camera, _: store.shred(camera, NEXT)):
        with pytest.raises(KeyStoreError, match="holds no key; put it back"):
            ask("north", HOUR)


def test_a_folder_that_is_no_store_says_nothing_about_keys(tmp_path: Path) -> None:
    """A volume that is not mounted is an empty folder."""
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(KeyStoreError, match=r"is no key store .* is its volume mounted"):
            KeyFiles(folder).key("north", HOUR)
    (tmp_path / "file").touch()
    with pytest.raises(KeyStoreError, match="Not a directory"):
        KeyFiles(tmp_path / "file").make("north", HOUR)


def test_what_a_killed_process_left_is_shredded_too(folder: Path) -> None:
    path = folder / "north" / "2026-11-25T13Z"
    left = path.with_name(f".{path.name}-abc")
    os.link(path, left)  # killed between link and unlink: both names, one file
    key = path.read_bytes()
    with left.open("rb") as opened:
        assert KeyFiles(folder).shred("north", NEXT) == [HOUR]
        assert not left.exists()
        assert key.strip() not in opened.read()  # overwritten, not only unlinked
    assert path.read_text().startswith("shredded 20")
    assert path.stat().st_size == key_files.TOMBSTONE
