"""Files that are too large for the database, by name: in a folder, or in an S3-compatible bucket.

obstore does the work in both. Whoever keeps something here keeps its name in the database; what has no row there is an
orphan, and its owner's sweep deletes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from sfumato.agents.disk import sync
from sfumato.agents.settings import Settings
from sfumato.schemas.fault import Fault

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,7}")
"""Names of blobs: up to eight parts of letters, digits, ``_``, ``-`` and ``.``, none of which begins with a dot."""
CHUNK = 1024 * 1024
"""Bytes that :meth:`Blobs.read` yields at once, about."""
PART = 8 * 1024 * 1024
"""Bytes of one part of a multipart upload (S3 wants 5 MiB at least, and 10,000 parts at most: 80 GiB)."""
PARTS_AT_ONCE = 2
STAGED = re.compile(r".*#\d+")
"""What obstore calls a file in the folder while it writes it."""
STAGED_FOR = 3600.0
"""Seconds after which a file that is still being written belongs to a process that died."""


@runtime_checkable
class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class BlobError(Fault, OSError):
    """The store does not do what it should; the text names the setting. A missing blob is FileNotFoundError."""


@dataclass(frozen=True, slots=True)
class Blob:
    name: str
    size: int
    modified_at: datetime


class Blobs:
    """Thread-safe; several processes may use one store. A blob appears whole or not at all."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`BlobError` where SFUMATO_FILES_URL cannot be used."""
        self.folder: Path | None = None
        if settings.files_url:
            self._store: S3Store | LocalStore = _bucket(settings)
        else:
            self.folder = settings.state_dir / "files"
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.folder.chmod(0o700)
            except OSError as error:
                raise BlobError(f"SFUMATO_STATE_DIR: {self.folder} cannot be used ({error.strerror})") from None
            self._store = LocalStore(self.folder, automatic_cleanup=True)

    def put(self, name: str, data: bytes) -> None:
        """Keep these bytes; they are on the disk, or in the bucket, when this returns."""
        try:
            obstore.put(self._store, _checked(name), data, use_multipart=False)
        except BaseError as error:
            raise _failed(error) from None
        self._sync(name)

    def put_file(self, name: str, file: Readable | Path | Iterator[bytes]) -> None:
        """Keep what is read from a file to its end, in constant memory."""
        pieces = iter(partial(file.read, PART), b"") if isinstance(file, Readable) else file
        try:
            obstore.put(self._store, _checked(name), pieces, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)
        except BaseError as error:
            raise _failed(error) from None
        self._sync(name)

    def get(self, name: str) -> bytes:
        """All of a blob. Raises FileNotFoundError."""
        try:
            return bytes(obstore.get(self._store, _checked(name)).bytes())
        except BaseError as error:
            raise _failed(error) from None

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``end``, exclusive (None: to the end), in chunks and constant memory. Raises
        FileNotFoundError, and ValueError where the range is empty or begins beyond the end."""
        size = self.size(name)
        end = size if end is None else min(end, size)
        if size == 0 and start == 0:
            return
        if not 0 <= start < end:
            raise ValueError(f"range {start} to {end} of {size} bytes")
        try:
            result = obstore.get(self._store, name, options={"range": (start, end)})
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except BaseError as error:
            raise _failed(error) from None

    def open(self, name: str) -> IO[bytes]:
        """A seekable file object to read a blob with; it reads a megabyte at once. Raises FileNotFoundError."""
        try:
            file: IO[bytes] = obstore.open_reader(self._store, _checked(name), buffer_size=CHUNK)  # type: ignore[assignment]
            return file
        except BaseError as error:
            raise _failed(error) from None

    def size(self, name: str) -> int:
        """In bytes. Raises FileNotFoundError."""
        try:
            return obstore.head(self._store, _checked(name))["size"]
        except BaseError as error:
            raise _failed(error) from None

    def delete(self, *names: str) -> None:
        """Blobs that are not there are no error."""
        for name in names:
            try:
                obstore.delete(self._store, _checked(name))
            except FileNotFoundError:
                continue
            except BaseError as error:
                raise _failed(error) from None

    def list(self, prefix: str) -> Iterator[Blob]:
        """The blobs whose names begin with the parts of ``prefix``, in no order."""
        try:
            for found in obstore.list(self._store, prefix=_checked(prefix), chunk_size=1000):
                for each in found:
                    yield Blob(each["path"], each["size"], each["last_modified"])
        except BaseError as error:
            raise _failed(error) from None

    def sweep(self) -> None:
        """Delete what processes that died left half written in the folder. In a bucket that is the work of its
        lifecycle rule for incomplete multipart uploads."""
        if self.folder is None:
            return
        for path in self.folder.rglob("*#*"):
            try:
                if STAGED.fullmatch(path.name) and time.time() - path.stat().st_mtime > STAGED_FOR:
                    path.unlink()
            except FileNotFoundError:
                continue  # it was finished in this moment

    def _sync(self, name: str) -> None:
        """obstore renames what it wrote, and leaves it to the kernel when it reaches the disk."""
        if self.folder is None:
            return
        path = self.folder / name
        sync(path)
        sync(path.parent)


def _bucket(settings: Settings) -> S3Store:
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*?))?/?", settings.files_url)
    if found is None:
        raise BlobError("SFUMATO_FILES_URL: wants s3://BUCKET or s3://BUCKET/PREFIX")
    bucket, prefix = found.groups()
    if prefix:
        try:
            _checked(prefix)
        except ValueError as error:
            raise BlobError(f"SFUMATO_FILES_URL: the prefix is {error}") from None
    config = {"endpoint": settings.files_endpoint} if settings.files_endpoint else {}
    plain = settings.files_endpoint.startswith("http://")
    try:
        return S3Store(bucket, prefix=prefix or None, config=config, client_options={"allow_http": plain})  # type: ignore[arg-type]
    except (BaseError, ValueError) as error:
        raise BlobError(f"SFUMATO_FILES_URL: {type(error).__name__}; see docs/settings.md") from None


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"not a blob's name: {name[:40]!r}")
    return name


def _failed(error: BaseError) -> BlobError:
    """Its text may hold a signed request, and is left out."""
    return BlobError(f"the store of SFUMATO_FILES_URL failed: {type(error).__name__}")
