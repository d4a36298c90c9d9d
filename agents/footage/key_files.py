"""The key store ``files``: a folder per camera, and in it a file per hour that holds its key or when it was shredded.

Key and tombstone have one name, so that no process can see both, or make a key where a tombstone lies. Files appear
whole: by link(2), which the first of several processes wins, and by rename(2).
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sfumato.agents.disk import sync
from sfumato.agents.footage.stores import (
    KEY,
    KeyGoneError,
    KeyHour,
    KeyMissingError,
    KeyStoreError,
    among,
    ended,
    named,
)
from sfumato.schemas.cloudevent import CAMERA_ID, format_time
from sfumato.schemas.frame import HOUR

MARKER = "sfumato-keys"
"""A file at the top of the folder. Without it the folder is no key store: a volume that is not mounted looks empty,
and keys that seem missing would have their frames dropped."""
BYTES = len("key ") + 4 * ((KEY + 2) // 3) + len("\n")
TOMBSTONE = len("shredded 2026-11-25T13:00:00.000000Z\n")
"""Lengths of a file that holds a key, and of one that says when it was shredded."""


class KeyFiles:
    """Folders have mode 0700, files 0600; others are refused. Reading writes nothing.

    All processes must see a new file at once: no NFS that caches what is in a folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, camera: str, hour: datetime) -> bytes:
        with _told(self._folder):
            key = self._find(camera, hour)
            if key is None:
                self._check()
                key = self._find(camera, hour)  # it may have been made since
            if key is None:
                raise KeyMissingError(f"there is no key of {camera}, {named(hour)}")
            return key

    def make(self, camera: str, hour: datetime) -> bytes:
        with _told(self._folder):
            key = self._find(camera, hour)
            if key is not None:
                return key
            self._open(camera)
            path = self._path(camera, hour)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as file:  # mode 0600
                _write(file.fileno(), f"key {base64.b64encode(os.urandom(KEY)).decode()}\n")
                with suppress(FileExistsError):
                    os.link(file.name, path)
            sync(path.parent)
            key = self._find(camera, hour)
            if key is None:
                raise KeyStoreError(f"SFUMATO_KEYS_DIR: {path} was taken away as soon as it was made")
            return key

    def shred(self, camera: str, before: datetime, keep: Collection[datetime] = ()) -> list[datetime]:
        """Overwriting is an attempt: file systems that copy on write, SSDs, snapshots and backups keep what was."""
        shredded, failures = [], []
        with _told(self._folder):
            due = [hour for hour in self._keyed(camera) if ended(hour, before) and hour not in keep]
        for hour in due:
            path = self._path(camera, hour)
            try:
                with _told(path):
                    if isinstance(_read(path), bytes):
                        self._shred(path)
                        shredded.append(hour)
            except KeyStoreError as error:
                failures.append(str(error))
        if failures:
            raise KeyStoreError(f"{failures[0]}{among(failures)}", shredded)
        return shredded

    def hours(self, camera: str) -> list[KeyHour]:
        with _told(self._folder):
            return self._hours(camera)

    def cameras(self) -> list[str]:
        with _told(self._folder):
            if not self._folder.exists():
                return []
            self._check()
            return sorted(
                path.name for path in self._folder.iterdir() if CAMERA_ID.fullmatch(path.name) and path.is_dir()
            )

    def close(self) -> None:
        pass

    def _hours(self, camera: str) -> list[KeyHour]:
        found = []
        folder = self._path(camera)
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            if hour := _hour(path):
                content = _read(path)
                found.append(KeyHour(hour, content if isinstance(content, datetime) else None))
        return found

    def _keyed(self, camera: str) -> list[datetime]:
        """The hours that have what may be a key; tombstones become many, and are left out by their length."""
        folder = self._path(camera)
        names = [path for path in sorted(folder.iterdir()) if path.name[0] != "."] if folder.exists() else []
        found = [path for path in names if path.stat().st_size != TOMBSTONE]
        return [hour for path in found if (hour := _hour(path))]

    def _shred(self, path: Path) -> None:
        with path.open("r+b") as old:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                _write(file.fileno(), f"shredded {format_time(datetime.now(UTC))}\n")
            os.replace(file.name, path)
            sync(path.parent)
            _write(old.fileno(), secrets.token_hex(BYTES))
        for left in path.parent.glob(f".{path.name}-*"):  # a process was killed between making and linking
            left.unlink(missing_ok=True)

    def _find(self, camera: str, hour: datetime) -> bytes | None:
        try:
            content = _read(self._path(camera, hour))
        except FileNotFoundError:
            return None
        if isinstance(content, datetime):
            raise KeyGoneError(camera, hour, content)
        return content

    def _path(self, camera: str, hour: datetime | None = None) -> Path:
        if not CAMERA_ID.fullmatch(camera):
            raise KeyStoreError(f"camera: an id matches {CAMERA_ID.pattern}")
        return self._folder / camera / (named(hour) if hour else "")

    def _open(self, camera: str) -> None:
        """The camera's folder, and the marker of a new store."""
        new = not self._folder.exists()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new or not any(self._folder.iterdir()):
            (self._folder / MARKER).touch(mode=0o600)
        self._check()
        (self._folder / camera).mkdir(mode=0o700, exist_ok=True)

    def _check(self) -> None:
        if not (self._folder / MARKER).exists():
            raise KeyStoreError(
                f"SFUMATO_KEYS_DIR: {self._folder} is no key store (it has no file {MARKER}); is its volume mounted, "
                "and is it the ingestor's?"
            )
        _refuse_others(self._folder, os.stat(self._folder).st_mode)


def _hour(path: Path) -> datetime | None:
    """The hour that a file is named after; None where it is another's."""
    try:
        return datetime.strptime(path.name, HOUR).replace(tzinfo=UTC)
    except ValueError:
        return None


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyStoreError(f"SFUMATO_KEYS_DIR: {folder}: {error.strerror}") from None


def _read(path: Path) -> bytes | datetime:
    """A key, or when it was shredded. OSError; :class:`KeyStoreError` where it is neither or others may read it."""
    with path.open("rb") as file:
        _refuse_others(path, os.fstat(file.fileno()).st_mode)
        kind, _, text = file.read(2 * BYTES).decode("ascii", "replace").strip().partition(" ")
    try:
        if kind == "shredded":
            return datetime.fromisoformat(text)
        key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if kind != "key" or len(key) != KEY:
        raise KeyStoreError(f"SFUMATO_KEYS_DIR: {path} holds no key; put it back from a copy, or delete it")
    return key


def _refuse_others(path: Path, mode: int) -> None:
    if mode & 0o077:
        raise KeyStoreError(f"SFUMATO_KEYS_DIR: others may read {path}; chmod go= it")


def _write(descriptor: int, text: str) -> None:
    os.pwrite(descriptor, text.encode(), 0)
    os.fsync(descriptor)
