"""The step ``analyze``: what a recogniser could make of the faces of a picture, or of a sample of a film's pictures,
and what their masks left of them.

No template leaves memory (``docs/analyses.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import cast

from sfumato.agents.rules import Rules
from sfumato.agents.settings import Settings
from sfumato.models import analysis, images, picture_metadata
from sfumato.models.centerface import CenterFace
from sfumato.models.detectors import Image, make
from sfumato.models.engine import SMALLEST_SIDE
from sfumato.models.ensemble import Ensemble
from sfumato.models.pairs import Pairs
from sfumato.models.reading import Origin
from sfumato.models.recogniser import Recogniser, RecogniserError
from sfumato.models.weights import WeightError
from sfumato.schemas.analysis import Analysis, Face, FilmAnalysis, RecogniserRecord
from sfumato.schemas.detection import Detection, DetectorName, Evidence, Target

FACES = Rules.usual([Target.FACE], None).policy
"""How faces are looked for, whatever a job's policy masks."""


class Analyst:
    """What it needs is loaded when it is first asked; for one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._detector: CenterFace | None = None
        self._recogniser: Recogniser | None = None

    def compare(self, payload: bytes, masked: bytes) -> tuple[Analysis, str | None]:
        """A picture and what masking made of it, both as files; and why no residual was measured, where none was.
        Raises ImageError, DetectorError and WeightError."""
        picture, other = self._decoded(payload), self._decoded(masked)
        recogniser, missing = self._recognises()
        faces, left_out = self._faces(picture, other)
        told = Analysis(
            width=picture.shape[1],
            height=picture.shape[0],
            faces=faces,
            left_out=left_out,
            criteria=analysis.CRITERIA,
            detectors=Ensemble([self._finds()]).records(FACES),
            recogniser=_record(recogniser),
        )
        return told, missing

    def compare_films(self, film: Origin, masked: Origin, tick: Callable[[], None]) -> tuple[FilmAnalysis, str | None]:
        """As :meth:`compare`, of a sample of a film's pictures. ``tick``: called with each picture that is decoded.
        Raises FilmError, DetectorError and WeightError."""
        recogniser, missing = self._recognises()
        pairs = Pairs(film, masked, self._settings.max_pixels, tick)
        found: list[tuple[float, Face]] = []
        pictures = beyond = 0
        for pair in pairs:
            faces, left_out = self._faces(pair.picture, pair.masked)
            found += [(pair.at, face) for face in faces]
            pictures, beyond = pictures + 1, beyond + left_out
        residuals = ((face.residual.after, at, face.residual) for at, face in found if face.residual is not None)
        measured = sorted(residuals, key=lambda each: each[:2])
        told = FilmAnalysis(
            pictures=pictures,
            every=round(pairs.every, 3),
            unmatched=pairs.unmatched,
            faces=len(found),
            usable=sum(face.measures.usable_by_recogniser for _, face in found),
            left_out=beyond,
            measured=len(measured),
            recognised=sum(residual.recognised for *_, residual in measured),
            worst=measured[0][2] if measured else None,
            worst_at=round(measured[0][1], 3) if measured else None,
            median=round(median(after for after, *_ in measured), 3) if measured else None,
            criteria=analysis.CRITERIA,
            detectors=Ensemble([self._finds()]).records(FACES),
            recogniser=_record(recogniser),
        )
        return told, missing

    def _faces(self, picture: Image, masked: Image) -> tuple[tuple[Face, ...], int]:
        """The faces of a picture, judged, and how many there were beside them."""
        detector, (recogniser, _) = self._finds(), self._recognises()
        detections: tuple[Detection, ...] = ()
        if min(picture.shape[:2]) >= SMALLEST_SIDE:
            (detections,) = Ensemble([detector]).detect([picture], [FACES])
        faces = [each for each in detections if each.evidence is not Evidence.WEAK]
        judged = analysis.analyse(picture, masked, faces, detector, recogniser)
        return judged, max(0, len(faces) - analysis.MOST_FACES)

    def _decoded(self, payload: bytes) -> Image:
        """As it was when it was masked."""
        content_type = images.sniff(payload)
        _, bare = picture_metadata.read(payload, content_type)
        return images.decode_file(bare, content_type, max_pixels=self._settings.max_pixels)

    def _finds(self) -> CenterFace:
        if self._detector is None:
            self._detector = cast(CenterFace, make(DetectorName.CENTERFACE, self._settings.detector_options()))
        return self._detector

    def _recognises(self) -> tuple[Recogniser | None, str | None]:
        if self._recogniser is None:
            try:
                self._recogniser = Recogniser(self._settings.weights_dir)
            except RecogniserError as error:
                return None, str(error)
            except WeightError:
                return None, "its weights are missing: `sfumato weights --recogniser`"
        return self._recogniser, None


def _record(recogniser: Recogniser | None) -> RecogniserRecord | None:
    if recogniser is None:
        return None
    return RecogniserRecord(name=recogniser.name, weights_sha256=recogniser.weights_sha256)
