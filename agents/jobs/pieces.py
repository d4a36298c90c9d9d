"""One piece of a job masked: a picture, a film, a part of one, or the parts joined. No Kafka.

Raw footage is read through the uploads' seal and lies in memory alone; what is written to disk is masked. Whatever goes
wrong with a file is told by its claim, and concerns no other.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents import metrics
from sfumato.agents.credentials import Credentials, CredentialsError
from sfumato.agents.files.blobs import BlobError, Blobs
from sfumato.agents.files.uploads import ConflictError, NoUploadError, Uploads
from sfumato.agents.jobs.claims import Claim, Claims, LostError
from sfumato.agents.jobs.hold import Effort, Hold
from sfumato.agents.jobs.results import CHUNK, Made, Results
from sfumato.agents.pseudonyms import Pseudonyms
from sfumato.agents.settings import Settings
from sfumato.models import film_metadata, joining, metadata, splitting, still
from sfumato.models.content import MOST_PICTURE_BYTES, ContentError
from sfumato.models.ensemble import Ensemble
from sfumato.models.film import Film, Options, keeps_sound
from sfumato.models.images import ImageError
from sfumato.models.reading import ENDINGS, FORMATS, FilmError, Reader, Source, Span
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.models.watched import Watched
from sfumato.schemas.detection import Target
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.policy import Policy
from sfumato.schemas.report import Account, total

log = logging.getLogger(__name__)

PLAYS = "check that the file plays elsewhere; if it does, export it anew and upload that"
PART = "video/mp4"


class Refused(Exception):
    """The file cannot be done, now or (``final``) later: the error and its remedy, without anything of its content."""

    def __init__(self, error: str, remedy: str, *, final: bool = True) -> None:
        super().__init__(error)
        self.remedy = remedy
        self.final = final


class Masking:
    """Does pieces of files; used by one thread at a time. ``fetch``: (claim, check) to the id of an upload that holds
    what the file's URL leads to. ``credentials``: sign what can carry a manifest. ``counted``: told the owner of each
    finished file, and its pictures."""

    def __init__(
        self,
        settings: Settings,
        claims: Claims,
        uploads: Uploads,
        blobs: Blobs,
        ensemble: Ensemble,
        credentials: Credentials,
        fetch: Callable[[Claim, Callable[[], None]], str],
        counted: Callable[[str, int], None] = lambda owner, frames: None,
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._uploads = uploads
        self._blobs = blobs
        self._ensemble = ensemble
        self._pseudonymize = Pseudonyms(settings).pseudonymize
        self._fetch = fetch
        self._results = Results(settings, claims, blobs, ensemble, credentials, self._policy, counted)
        self._folder = settings.state_dir / "work"

    def do(self, claim: Claim, hold: Hold) -> bool:
        """One piece, from claim to its end; whether its file may have more. Raises what the database raises."""
        try:
            self._do(claim, hold)
        except SQLAlchemyError:
            raise
        except Exception as raised:  # noqa: BLE001 - other files are done all the same
            error = hold.broken or raised  # a library may have made something else of it
            if isinstance(error, LostError):
                return self._release(claim)
            return self._judge(claim, error)
        return self._count(claim, "done")

    def _release(self, claim: Claim) -> bool:
        self._blobs.delete(claim.blob)
        with suppress(LostError):
            self._claims.release(claim)
        return self._count(claim, "lost")

    def _judge(self, claim: Claim, error: BaseException) -> bool:
        """Say what went wrong; texts that may hold something of the content are left out."""
        match error:
            case CredentialsError():
                remedy = "leave credentials out of the options, or see to SFUMATO_C2PA_… of the workers"
                return self._fail(claim, f"credentials: {error}", remedy, final=False)
            case FilmError() | ImageError() | ContentError():
                return self._fail(claim, str(error), PLAYS, final=True)
            case Refused():
                return self._fail(claim, str(error), error.remedy, final=error.final)
            case NoUploadError():
                return self._fail(claim, "its upload is gone: deleted, or expired", "upload the file again", final=True)
        log.error("job %s, file %d, %s: %s", claim.job, claim.file, claim.stage, type(error).__name__)
        return self._fail(claim, f"failed: {type(error).__name__}", "try again, or report it", final=False)

    def _do(self, claim: Claim, hold: Hold) -> None:
        policy = self._policy(claim)
        match claim.stage:
            case "plan":
                self._plan(claim, policy, hold)
            case "mask":
                self._part(claim, policy, hold)
            case "join":
                self._join(claim, policy, hold)
            case _:
                self._whole(claim, policy, hold)

    def _policy(self, claim: Claim) -> Policy:
        """The policy, which has to give the right to look now."""
        now = datetime.now(UTC)
        form = Timetable(claim.policy).at(now, now)
        if isinstance(form, NoPolicy):
            raise Refused(f"policy: {form.detail or form.reason}", "make the job anew with a policy that is valid")
        if missing := self._ensemble.missing(form):
            raise Refused(missing, "leave the target out, or let SFUMATO_DETECTORS of the workers name a detector")
        return form

    def _plan(self, claim: Claim, policy: Policy, hold: Hold) -> None:
        upload = self._fetched(claim, hold) if claim.remote else claim.upload or ""
        try:
            media_type = self._uploads.complete(upload)
        except ConflictError as error:
            raise Refused(str(error), "finish the upload before the job is made") from None
        size, digest = self._measure(upload, hold)
        known: dict[str, Any] = {"media_type": media_type, "bytes_before": size, "sha256_before": digest}
        if media_type not in ENDINGS:
            self._claims.describe(claim, **known, frames_total=1)
            return self._still(claim, upload, size, policy, hold)
        source, options = self._source(upload, media_type, hold), self._options(claim)
        plan = splitting.plan(source, policy, options, self._settings.archive_part_seconds)
        hold.check()
        self._claims.describe(claim, **known, frames_total=plan.packets, cut_short=plan.cut_short)
        self._claims.split(claim, [asdict(span) for span in plan.spans])

    def _fetched(self, claim: Claim, hold: Hold) -> str:
        if claim.upload is not None:  # an attempt that was cut off
            self._uploads.delete(claim.upload)
        return self._fetch(claim, hold.check)

    def _measure(self, upload: str, hold: Hold) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with Watched(self._uploads.open(upload), hold.check, hold.broke) as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
        return size, digest.hexdigest()

    def _still(self, claim: Claim, upload: str, size: int, policy: Policy, hold: Hold) -> None:
        if size > MOST_PICTURE_BYTES:
            raise Refused(f"a picture of {size} bytes", f"at most {MOST_PICTURE_BYTES} are taken: make it smaller")
        if Target.MOTION in policy.targets:
            raise Refused("targets.motion: one picture shows no motion", "leave the target out, or send a film")
        with Watched(self._uploads.open(upload), hold.check, hold.broke) as file:
            payload = file.read()
        masked = still.mask(
            payload,
            self._ensemble,
            policy,
            max_pixels=self._settings.max_pixels,
            quality=claim.options.quality,
            pseudonymize=self._pseudonymize,
        )
        hold.frames = 1
        self._results.publish_picture(claim, policy, payload, masked, hold)

    def _whole(self, claim: Claim, policy: Policy, hold: Hold) -> None:
        source = self._claimed(claim, hold)
        film = Film(source, self._ensemble, policy, self._options(claim))
        effort = Effort(hold, 2 * film.estimate, film.estimate)
        with self._scratch() as folder:
            target = folder / "film"
            account = film.mask(target, effort.tick)
            hold.check()
            made = Made(film.form.size, film.sound, account, film.metadata, film.cut_short)
            self._results.publish_film(claim, policy, target, made, source, hold)
        _count_frames(account)

    def _part(self, claim: Claim, policy: Policy, hold: Hold) -> None:
        span = Span(**(claim.span or {}))
        film = Film(self._claimed(claim, hold), self._ensemble, policy, self._options(claim), span)
        effort = Effort(hold, span.looked + span.packets, span.packets)
        with self._scratch() as folder:
            target = folder / "part"
            account = film.mask(target, effort.tick)
            hold.check()
            blob = claim.blob if target.exists() else None
            if blob is not None:
                self._results.put(blob, target, hold)
        self._claims.masked(claim, account, blob)
        _count_frames(account)

    def _join(self, claim: Claim, policy: Policy, hold: Hold) -> None:
        source = self._claimed(claim, hold)
        parts = self._claims.parts(claim)
        account = total(account for _, account in parts)
        reader = Reader(source, self._settings.max_pixels)
        hold.frames = 0
        sound = keeps_sound(policy, claim.options.keep_audio, reader.form)
        ending = ENDINGS[source.media_type]
        told = film_metadata.read(source)
        values, kept = metadata.treat(told, policy.metadata, self._pseudonymize)
        hold.check()  # what could not be read is not what is not there
        tags = film_metadata.tags(values, FORMATS[ending])
        written = [self._part_source(blob, hold) for blob, _ in parts if blob is not None]
        with self._scratch() as folder:
            target = folder / "film"
            try:
                joining.join(written, target, ending, reader.form, source if sound else None, tags)
            except joining.DifferentError:
                self._blobs.delete(*self._claims.unsplit(claim))
                return
            hold.check()
            made = Made(reader.form.size, sound, account, kept)
            self._results.publish_film(claim, policy, target, made, source, hold)
        with suppress(BlobError):  # the result is there; what stays goes when the job is cleared
            self._blobs.delete(*(blob for blob, _ in parts if blob is not None))

    def _claimed(self, claim: Claim, hold: Hold) -> Source:
        return self._source(claim.upload or "", claim.media_type or "", hold)

    def _source(self, upload: str, media_type: str, hold: Hold) -> Source:
        return Source(lambda: Watched(self._uploads.open(upload), hold.check, hold.broke), media_type)

    def _part_source(self, blob: str, hold: Hold) -> Source:
        return Source(lambda: Watched(self._blobs.open(blob), hold.check, hold.broke), PART)

    def _options(self, claim: Claim) -> Options:
        settings, options = self._settings, claim.options
        return Options(
            max_pixels=settings.max_pixels,
            every_frame=options.every_frame,
            batch=settings.batch_size,
            crf=options.crf,
            sound=options.keep_audio,
            pseudonymize=self._pseudonymize,
        )

    def _scratch(self) -> Any:
        """A folder for what is masked already and not kept yet."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Scratch(self._folder)

    def _fail(self, claim: Claim, error: str, remedy: str, *, final: bool) -> bool:
        self._blobs.delete(claim.blob)
        try:
            self._claims.fail(claim, error, remedy, final=final)
        except LostError:
            return self._count(claim, "lost")
        return self._count(claim, "failed")

    def _count(self, claim: Claim, outcome: str) -> bool:
        metrics.ARCHIVED.labels(claim.stage, outcome).inc()
        return outcome != "lost"


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder as a path."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dir=folder, prefix="archive-", ignore_cleanup_errors=True)

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def _count_frames(account: Account) -> None:
    for outcome in Outcome:
        metrics.ARCHIVED_FRAMES.labels(outcome).inc(getattr(account, outcome.value))
