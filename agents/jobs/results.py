"""Masked files become results: analysed and signed where that is asked for, kept, and only then shown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.agents.credentials import Credentials, CredentialsError
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.jobs.analyst import Analyst
from sfumato.agents.jobs.claims import Claim, Claims
from sfumato.agents.jobs.hold import Hold
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.ensemble import Ensemble
from sfumato.models.reading import ENDINGS, Source
from sfumato.models.still import Still
from sfumato.models.watched import Watched
from sfumato.schemas.analysis import Analysis, FilmAnalysis
from sfumato.schemas.credential import Statement
from sfumato.schemas.job import Result, Step
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.policy import Policy
from sfumato.schemas.report import Account

CHUNK = 1024 * 1024
PICTURE_ENDINGS = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True)
class Made:
    """A masked film: its size in pixels, whether it has sound, and what became of the rest."""

    form: tuple[int, int]
    sound: bool
    account: Account
    metadata: MetadataRecord
    cut_short: str | None = None


class Results:
    """Used by one thread at a time. ``credentials``: sign what can carry a manifest. ``permitted``: raises where the
    claim's policy gives no right to look any more. ``counted``: told the owner of each finished file, and its
    pictures."""

    def __init__(
        self,
        settings: Settings,
        claims: Claims,
        blobs: Blobs,
        ensemble: Ensemble,
        credentials: Credentials,
        permitted: Callable[[Claim], object],
        counted: Callable[[str, int], None],
    ) -> None:
        self._claims = claims
        self._blobs = blobs
        self._ensemble = ensemble
        self._credentials = credentials
        self._analyst = Analyst(settings)
        self._permitted = permitted
        self._counted = counted

    def publish_picture(self, claim: Claim, policy: Policy, payload: bytes, masked: Still, hold: Hold) -> None:
        """``payload``: the picture before it was masked."""
        analysed: dict[str, Any] = {}
        if Step.ANALYZE in claim.steps:
            analysed = dict(
                zip(("analysis", "no_residual"), self._analyst.compare(payload, masked.payload), strict=True)
            )
        media_type, written = images.sniff(masked.payload), masked.payload
        if claim.options.credentials:
            statement = self._statement(claim, policy, masked.account, masked.metadata)
            written = self._credentials.sign(media_type, written, statement)
        hold.check()
        self._blobs.put(claim.blob, written)
        self._finish(
            claim,
            media_type=media_type,
            ending=PICTURE_ENDINGS[media_type],
            size=len(written),
            digest=hashlib.sha256(written).hexdigest(),
            form=(masked.width, masked.height),
            sound=False,
            account=masked.account,
            metadata=masked.metadata,
            credentials=claim.options.credentials,
            **analysed,
        )

    def publish_film(self, claim: Claim, policy: Policy, film: Path, made: Made, original: Source, hold: Hold) -> None:
        """``film``: the masked one, which is gone afterwards where it was signed."""
        media_type = claim.media_type or ""
        analysed: dict[str, Any] = {}
        if Step.ANALYZE in claim.steps:
            masked = Source(lambda: film.open("rb"), media_type)
            compared = self._analyst.compare_films(original, masked, hold.check)
            analysed = dict(zip(("film_analysis", "no_residual"), compared, strict=True))
        signing = claim.options.credentials and self._credentials.supports(media_type)
        if signing:
            film = self._signed(media_type, film, self._statement(claim, policy, made.account, made.metadata), hold)
        digest, size = hashlib.sha256(), film.stat().st_size
        with film.open("rb") as file:
            while data := file.read(CHUNK):
                hold.check()
                digest.update(data)
        self.put(claim.blob, film, hold)
        self._finish(
            claim,
            media_type=media_type,
            ending=ENDINGS[media_type],
            size=size,
            digest=digest.hexdigest(),
            form=made.form,
            sound=made.sound,
            account=made.account,
            metadata=made.metadata,
            credentials=signing,
            cut_short=made.cut_short,
            **analysed,
        )

    def put(self, blob: str, path: Path, hold: Hold) -> None:
        """Keep a file that is masked already."""
        with Watched(path.open("rb"), hold.check) as file:
            self._blobs.put_file(blob, file)

    def _statement(self, claim: Claim, policy: Policy, account: Account, kept: MetadataRecord) -> Statement:
        return Statement.of(policy, account, self._ensemble.records(policy), kept, named=claim.named)

    def _signed(self, media_type: str, film: Path, statement: Statement, hold: Hold) -> Path:
        """Another file beside it, with the manifest."""
        target = film.with_name("signed")
        try:
            self._credentials.sign_file(media_type, film, target, statement, hold.check)
        except CredentialsError:
            hold.check()  # the library hides that it was ended
            raise
        film.unlink()
        return target

    def _finish(
        self,
        claim: Claim,
        *,
        media_type: str,
        ending: str,
        size: int,
        digest: str,
        form: tuple[int, int],
        sound: bool,
        account: Account,
        metadata: MetadataRecord,
        credentials: bool,
        analysis: Analysis | None = None,
        film_analysis: FilmAnalysis | None = None,
        no_residual: str | None = None,
        cut_short: str | None = None,
    ) -> None:
        """The result is whole and lies where it is to lie: now it may be seen."""
        result = Result(
            href=f"/v1/jobs/{claim.job}/files/{claim.file}/content",
            name=claim.name + ending,
            content_type=media_type,
            bytes=size,
            sha256=digest,
            width=form[0],
            height=form[1],
            sound=sound,
            account=account,
            metadata=metadata,
            credentials=credentials,
            analysis=analysis,
            film_analysis=film_analysis,
            no_residual=no_residual,
        )
        self._permitted(claim)  # it may have ended while the file was masked
        self._claims.finish(claim, result, cut_short)
        self._counted(claim.owner, account.frames)
