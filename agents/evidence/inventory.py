"""The files of an exported folder: read without trust, listed, hashed, and compared with the manifest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.export import MANIFEST, File, Scope, dump, parse
from sfumato.schemas.fault import Fault

DEEPEST = 5
"""Parts that a path of an export has, at most."""
MAX_LINE_BYTES = 2 * 1024 * 1024
"""Longest line of a file, in bytes: twice the largest message of ``audit``."""
CHUNK = 1024 * 1024
TOGETHER_FILES, TOGETHER_BYTES = 64, 8 * CHUNK
"""Files that one thread hashes at once, at most."""
_MARK = b',"files":['


class ExportError(Fault, ValueError):
    """A file of an export that is not what it should be; names it."""


def open_file(path: Path, name: str) -> BufferedReader:
    """A regular file, to read; :class:`ExportError` where it is none, a symbolic link included."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except (OSError, ValueError) as error:
        problem = "a symbolic link" if path.is_symlink() else getattr(error, "strerror", None) or "cannot be read"
        raise ExportError(f"{name}: {problem}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ExportError(f"{name}: not a regular file")
    return BufferedReader(FileIO(number), CHUNK)


def read_file(path: Path, name: str, limit: int = MAX_LINE_BYTES) -> bytes:
    """The whole of a small file; :class:`ExportError` where it is longer than ``limit`` bytes."""
    with open_file(path, name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ExportError(f"{name}: longer than {limit} bytes")
    return content


def read_lines(path: Path, name: str) -> Iterator[bytes]:
    """The lines of a file, without their newlines. Raises :class:`ExportError`."""
    with open_file(path, name) as file:
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                raise ExportError(f"{name}: a line without its end, or longer than {MAX_LINE_BYTES} bytes")
            yield line[:-1]


def write_manifest(folder: Path, scope: Scope, files: Iterable[File]) -> None:
    """``files`` sorted by path: a file a line, so that neither side needs them all at once."""
    with (folder / MANIFEST).open("wb") as manifest:
        manifest.write(dump(scope)[:-1] + _MARK)
        separator = b"\n"
        for file in files:
            manifest.write(separator + dump(file))
            separator = b",\n"
        manifest.write(b"\n]}\n")


def read_manifest(folder: Path) -> tuple[Scope, Iterator[File]]:
    """What was exported, and its files. Raises :class:`ExportError`, the iterator too."""
    lines = read_lines(folder / MANIFEST, MANIFEST)
    head = next(lines, b"")
    try:
        scope = parse(Scope, head.removesuffix(_MARK) + b"}")
    except EnvelopeError as error:
        raise ExportError(f"{MANIFEST}: {error}") from None
    if not head.endswith(_MARK):
        raise ExportError(f"{MANIFEST}: without its list of files")
    return scope, _files(lines)


def _files(lines: Iterator[bytes]) -> Iterator[File]:
    before, more = "", True
    for number, line in enumerate(lines, 2):
        if line == b"]}" and not more:
            if next(lines, None) is not None:
                raise ExportError(f"{MANIFEST}: goes on after its end")
            return
        try:
            file = parse(File, line.removesuffix(b","))
        except EnvelopeError as error:
            raise ExportError(f"{MANIFEST}, line {number}: {error}") from None
        if not more or file.path <= before:
            raise ExportError(f"{MANIFEST}, line {number}: not in the order of paths")
        before, more = file.path, line.endswith(b",")
        yield file
    raise ExportError(f"{MANIFEST}: ends too early")


@dataclass(frozen=True, slots=True)
class Found:
    """A file that lies in the folder; ``problem``: why it is not looked at."""

    path: str
    size: int = 0
    problem: str | None = None


def walk(folder: Path, below: str = "", depth: int = 1) -> Iterator[Found]:
    """What lies in the folder, the manifest excepted, in the order of paths. Follows no symbolic links."""
    try:
        with os.scandir(folder / below) as listing:
            entries = sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    except OSError as error:
        yield Found(below or ".", problem=error.strerror or "cannot be read")
        return
    if below and not entries:
        yield Found(below, problem="an empty folder")
    for entry in entries:
        path = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            if depth == DEEPEST:
                yield Found(path, problem="a folder where none should be")
            else:
                yield from walk(folder, path + "/", depth + 1)
        elif path != MANIFEST:
            yield _found(entry, path)


def _found(entry: os.DirEntry[str], path: str) -> Found:
    if not entry.is_file(follow_symlinks=False):
        return Found(path, problem="a symbolic link" if entry.is_symlink() else "not a regular file")
    try:
        return Found(path, entry.stat(follow_symlinks=False).st_size)
    except OSError as error:
        return Found(path, problem=error.strerror or "cannot be read")


def digests(folder: Path, files: Iterable[Found], threads: int | None = None) -> Iterator[tuple[Found, str | None]]:
    """The SHA-256 of each file, in their order; None where it cannot be read. Several threads hash side by side."""
    workers = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="sha256") as pool:
        waiting: deque[tuple[list[Found], Future[list[str | None]]]] = deque()
        for together in _together(files):
            waiting.append((together, pool.submit(_digest_all, folder, together)))
            if len(waiting) > 2 * workers:
                yield from _result(*waiting.popleft())
        while waiting:
            yield from _result(*waiting.popleft())


def _result(files: list[Found], hashed: Future[list[str | None]]) -> Iterator[tuple[Found, str | None]]:
    yield from zip(files, hashed.result(), strict=True)


def _together(files: Iterable[Found]) -> Iterator[list[Found]]:
    together: list[Found] = []
    size = 0
    for file in files:
        together.append(file)
        size += file.size
        if len(together) == TOGETHER_FILES or size >= TOGETHER_BYTES:
            yield together
            together, size = [], 0
    if together:
        yield together


def _digest_all(folder: Path, files: list[Found]) -> list[str | None]:
    return [_digest(folder / file.path, file) for file in files]


def _digest(path: Path, file: Found) -> str | None:
    try:
        with open_file(path, file.path) as opened:
            if file.size <= CHUNK:
                content = opened.read(CHUNK + 1)
                return hashlib.sha256(content).hexdigest() if len(content) == file.size else None
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (ExportError, OSError):
        return None


def compare(folder: Path, listed: Iterator[File], fail: Callable[[str, str], None]) -> Iterator[tuple[File, str]]:
    """The files of the manifest as they lie in the folder, in the order of paths, each with its SHA-256; what is
    missing, is more or differs is told to ``fail`` (path, problem). Raises :class:`ExportError` where the manifest
    breaks off."""
    entries: deque[File] = deque()

    def both() -> Iterator[Found]:
        file = next(listed, None)
        for found in walk(folder):
            while file is not None and file.path < found.path:
                fail(file.path, "missing: the manifest lists it")
                file = next(listed, None)
            if found.problem is not None:
                fail(found.path, found.problem)
            if file is None or file.path != found.path:
                if found.problem is None:
                    fail(found.path, "not in the manifest")
                continue
            if found.problem is None and found.size != file.size:
                fail(found.path, f"{found.size} bytes long; the manifest says {file.size}")
            elif found.problem is None:
                entries.append(file)
                yield found
            file = next(listed, None)
        while file is not None:
            fail(file.path, "missing: the manifest lists it")
            file = next(listed, None)

    for found, digest in digests(folder, both()):
        file = entries.popleft()
        if digest is None:
            fail(found.path, "cannot be read, or changes while it is")
        elif digest != file.sha256:
            fail(found.path, "its SHA-256 is not the manifest's")
        if digest is not None:
            yield file, digest
