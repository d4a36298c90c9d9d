"""The step ``analyze``: what a recogniser could make of a picture's faces, and what their masks left of them.

No template leaves memory (``docs/analyses.md``).
"""

from __future__ import annotations

from typing import cast

from sfumato.agents.mask import Rules
from sfumato.agents.settings import Settings
from sfumato.models import analysis, images, picture_metadata
from sfumato.models.centerface import CenterFace
from sfumato.models.detectors import Image, make
from sfumato.models.engine import SMALLEST_SIDE
from sfumato.models.ensemble import Ensemble
from sfumato.models.recogniser import Recogniser, RecogniserError
from sfumato.models.weights import WeightError
from sfumato.schemas.analysis import Analysis, RecogniserRecord
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
        detector, (recogniser, missing) = self._finds(), self._recognises()
        ensemble = Ensemble([detector])
        detections: tuple[Detection, ...] = ()
        if min(picture.shape[:2]) >= SMALLEST_SIDE:
            (detections,) = ensemble.detect([picture], [FACES])
        faces = [each for each in detections if each.evidence is not Evidence.WEAK]
        record = recogniser and RecogniserRecord(name=recogniser.name, weights_sha256=recogniser.weights_sha256)
        told = Analysis(
            width=picture.shape[1],
            height=picture.shape[0],
            faces=analysis.analyse(picture, other, faces, detector, recogniser),
            left_out=max(0, len(faces) - analysis.MOST_FACES),
            criteria=analysis.CRITERIA,
            detectors=ensemble.records(FACES),
            recogniser=record,
        )
        return told, missing

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
