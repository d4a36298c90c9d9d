"""An exported folder as it is written: whole, or not there."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from sfumato.agents.evidence.inventory import ExportError, write_manifest
from sfumato.schemas.export import File, Scope, dump


class Bundle:
    """A context manager. What is put lies in a folder beside, which gets its name with :meth:`finish`; without it
    nothing is left."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ExportError` where the folder is there already, or cannot be made."""
        if folder.exists() or folder.is_symlink():
            raise ExportError(f"{folder}: is there already; name a folder that is not")
        self._folder = folder
        try:
            self._unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-unfinished-", dir=folder.parent))
        except OSError as error:
            raise ExportError(f"{folder.parent}: {error.strerror}") from None
        self._files = sqlite3.connect("")  # a temporary file, in memory while it is small
        self._files.execute("CREATE TABLE files (path TEXT PRIMARY KEY, size INT, sha256 TEXT) WITHOUT ROWID")
        self._made: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def put(self, path: str, content: bytes) -> None:
        """Write a file."""
        target = self._unfinished / path
        if target.parent not in self._made:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(target.parent)
        target.write_bytes(content)
        self._list(path, len(content), hashlib.sha256(content).hexdigest())

    def put_record(self, path: str, record: BaseModel) -> None:
        """Write a file of one record."""
        self.put(path, dump(record) + b"\n")

    def lines(self, path: str) -> Lines:
        """A file that is written line by line."""
        return Lines(self, path, self._unfinished / path)

    def finish(self, scope: Scope) -> None:
        """Write the manifest, and give the folder its name."""
        write_manifest(self._unfinished, scope, self._sorted())
        self._unfinished.chmod(0o755)
        try:
            self._unfinished.rename(self._folder)
        except OSError as error:
            raise ExportError(f"{self._folder}: {error.strerror}") from None

    def _list(self, path: str, size: int, sha256: str) -> None:
        self._files.execute("INSERT INTO files VALUES (?, ?, ?)", (path, size, sha256))

    def _sorted(self) -> Iterator[File]:
        for path, size, sha256 in self._files.execute("SELECT path, size, sha256 FROM files ORDER BY path"):
            yield File(path=path, size=size, sha256=sha256)


class Lines:
    """A context manager."""

    def __init__(self, bundle: Bundle, path: str, target: Path) -> None:
        self._bundle = bundle
        self._path = path
        self._file = target.open("wb", buffering=1024 * 1024)
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._bundle._list(self._path, self._size, self._digest.hexdigest())

    def put(self, line: bytes) -> None:
        for part in (line, b"\n"):
            self._file.write(part)
            self._digest.update(part)
            self._size += len(part)
