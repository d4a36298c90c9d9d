"""``sfumato mask``: files in, masked files out, without Kafka. Walking, names, progress and the report; the work on one
file is in ``sfumato.models``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from sfumato.agents.credentials import Credentials, CredentialsError
from sfumato.agents.disk import sync
from sfumato.agents.rules import MaskError, Rules
from sfumato.models import images, still
from sfumato.models.ensemble import Ensemble
from sfumato.models.film import Film, Options
from sfumato.models.images import ImageError
from sfumato.models.reading import FORMATS, FilmError, Reader
from sfumato.models.weights import sha256
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.credential import Statement
from sfumato.schemas.report import FileRecord, Kind, Report

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
KINDS = dict.fromkeys(PICTURES, Kind.PICTURE) | dict.fromkeys(FORMATS, Kind.FILM)
"""By the ending of a file's name."""
PASSES = 2
FILM_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "matroska": "video/x-matroska", "webm": "video/webm"}
"""Content types by FFmpeg's container."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file and where its masked version goes. ``problem``: why it cannot be done."""

    input: Path
    output: Path
    kind: Kind | None
    problem: str | None = None


@dataclass(slots=True)
class Plan:
    jobs: list[Job] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def plan(inputs: Sequence[Path], out: Path, report: Path, *, force: bool) -> Plan:
    """What to do with each file. :class:`MaskError` where two files would get one name, or an input would be lost."""
    found = Plan()
    for given in inputs:
        if given.is_dir():
            for path in _walk(given, out, found.skipped):
                found.jobs.append(_job(path, out / path.relative_to(given), force))
        else:
            found.jobs.append(_job(given, out / given.name, force))
    taken: dict[Path, Path] = {}
    originals = {job.input.resolve() for job in found.jobs}
    for output, source in [*((job.output, job.input) for job in found.jobs), (report, Path("the report"))]:
        place = output.parent.resolve() / output.name
        if place in originals or output.resolve() in originals:
            raise MaskError(f"{output} is an input; give another folder as --out")
        if place in taken:
            raise MaskError(f"{taken[place]} and {source} would both become {output}; mask them into two folders")
        taken[place] = source
    if report.exists() and not force:
        raise MaskError(f"{report} exists; --report FILE writes another, --force overwrites it")
    return found


def _walk(folder: Path, out: Path, skipped: list[str]) -> Iterator[Path]:
    """The files of a folder and those below, in order of their names; links to folders are not followed, and the
    output's folder is left out."""
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != out.resolve())
        for path in sorted(here / file for file in files):
            if path.name.startswith(".") or path.suffix.lower() not in KINDS:
                skipped.append(str(path))
            else:
                yield path


def _job(path: Path, output: Path, force: bool) -> Job:
    kind, problem = KINDS.get(path.suffix.lower()), None
    if not path.exists():
        problem = "does not exist"
    elif kind is None:
        problem = f"not one of {' '.join(sorted(KINDS))}"
    elif output.exists() and not force:
        problem = f"{output} exists; --force overwrites it"
    return Job(path, output, kind, problem)


class Masker:
    """Masks file after file."""

    def __init__(
        self, ensemble: Ensemble, rules: Rules, options: Options, quality: int, credentials: Credentials | None = None
    ) -> None:
        """``credentials``: sign what carries a manifest."""
        self._ensemble = ensemble
        self._rules = rules
        self._options = options
        self._quality = quality
        self._credentials = credentials

    @property
    def detectors(self) -> tuple[DetectorRecord, ...]:
        return self._ensemble.records(self._rules.policy)

    def effort(self, job: Job) -> int:
        """How many pictures there are to go through; a guess where the file does not say."""
        if job.problem is not None or job.kind is not Kind.FILM:
            return 1
        try:
            return PASSES * max(1, Reader(job.input, self._options.max_pixels).estimate)
        except FilmError:
            return 1

    def do(self, job: Job, tick: Callable[[int], None]) -> FileRecord:
        """Mask one file. Whatever goes wrong with it is told by its record; there is no output then."""
        began = time.monotonic()
        try:
            told = self._do(job, tick)
        except (FilmError, ImageError, CredentialsError) as error:
            told = {"error": str(error)}
        except (FFmpegError, OSError) as error:
            told = {"error": f"{type(error).__name__}: {error.strerror}"}
        except Exception as error:  # noqa: BLE001 - the other files are done all the same
            told = {"error": f"failed: {type(error).__name__}"}
        return FileRecord(input=str(job.input), kind=job.kind, seconds=round(time.monotonic() - began, 3), **told)

    def _do(self, job: Job, tick: Callable[[int], None]) -> dict[str, Any]:
        if job.problem is not None:
            return {"error": job.problem}
        before = job.input.stat()
        told = {"input_bytes": before.st_size, "input_sha256": sha256(job.input)}
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(job.output) as part:
            told |= self._film(job, part, tick) if job.kind is Kind.FILM else self._still(job, part, tick)
            after = job.input.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise FilmError("was changed while it was read")
            if self._credentials is not None:
                told |= {"credentials": self._sign(self._credentials, job, part, told)}
            told |= {"output_bytes": part.stat().st_size, "output_sha256": sha256(part)}
        return told | {"output": str(job.output)}

    def _sign(self, credentials: Credentials, job: Job, part: Path, told: dict[str, Any]) -> bool:
        """Put the manifest in; False where the format has no place for one."""
        if job.kind is Kind.FILM:
            content_type = FILM_TYPES[FORMATS[job.input.suffix.lower()]]
        else:
            with part.open("rb") as file:
                content_type = images.sniff(file.read(16))
        if not credentials.supports(content_type):
            return False
        statement = Statement.of(
            self._rules.policy,
            told["account"],
            self.detectors,
            told["metadata"],
            named=self._rules.file is not None,
            policy_sha256=sha256(self._rules.file) if self._rules.file is not None else None,
        )
        signed = part.with_suffix(".signed.part")
        try:
            credentials.sign_file(content_type, part, signed, statement)
            os.replace(signed, part)
        finally:
            signed.unlink(missing_ok=True)
        return True

    def _film(self, job: Job, part: Path, tick: Callable[[int], None]) -> dict[str, Any]:
        film = Film(job.input, self._ensemble, self._rules.policy, self._options)
        account = film.mask(part, lambda: tick(1))
        width, height = film.form.size
        told = {"account": account, "width": width, "height": height, "metadata": film.metadata}
        return told | {"sound": film.sound, "cut_short": film.cut_short}

    def _still(self, job: Job, part: Path, tick: Callable[[int], None]) -> dict[str, Any]:
        masked = still.mask(
            job.input.read_bytes(),
            self._ensemble,
            self._rules.policy,
            max_pixels=self._options.max_pixels,
            quality=self._quality,
            pseudonymize=self._options.pseudonymize,
        )
        part.write_bytes(masked.payload)
        tick(1)
        told = {"account": masked.account, "width": masked.width, "height": masked.height}
        return told | {"metadata": masked.metadata}


class Run:
    """All files of one call. ``report`` may be asked for at any time."""

    def __init__(self, masker: Masker, rules: Rules, plan: Plan) -> None:
        self._masker = masker
        self._rules = rules
        self._plan = plan
        self._began, self._began_at = time.monotonic(), datetime.now(UTC)
        self.files: list[FileRecord] = []
        self.interrupted = False

    @property
    def complete(self) -> bool:
        """Whether every file was masked, as a whole."""
        return not (self.interrupted or any(file.error or file.cut_short for file in self.files))

    @property
    def masked(self) -> int:
        """How many files have an output."""
        return sum(file.error is None for file in self.files)

    def problems(self) -> Iterator[str]:
        """A line for each file that a user should look at."""
        for file in self.files:
            if file.error is not None:
                yield f"{file.input}: {file.error}"
            elif file.cut_short is not None:
                yield f"{file.input}: cut short: {file.cut_short}; what could be read was masked"
        for path in self._plan.skipped:
            yield f"{path}: skipped, hidden or not one of {' '.join(sorted(KINDS))}"
        if self.interrupted:
            yield f"interrupted; {len(self._plan.jobs) - len(self.files)} files were not masked"

    def do(self, job: Job, tick: Callable[[int], None]) -> None:
        self.files.append(self._masker.do(job, tick))

    def report(self) -> Report:
        return Report(
            sfumato=version("sfumato"),
            began_at=self._began_at,
            seconds=round(time.monotonic() - self._began, 3),
            policy=self._rules.record(),
            targets=self._rules.policy.targets,
            zones=len(self._rules.policy.zones),
            detectors=self._masker.detectors,
            files=tuple(self.files),
            skipped=tuple(self._plan.skipped),
            interrupted=self.interrupted,
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its name, on disk, once the block has ended well; else it is deleted."""
    part = path.with_name(f".sfumato-{os.getpid()}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_report(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(report.model_dump_json(indent=2, exclude_none=True) + "\n")
