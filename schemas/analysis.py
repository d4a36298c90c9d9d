"""Biometric analysis without identity: what a recogniser could make of each face, and what a mask left of it.

Never a template, and nothing that says who somebody is.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sfumato.schemas.anonymization import Length, Rectangle, Share
from sfumato.schemas.audit import DetectorRecord, Sha256
from sfumato.schemas.part import Part, Relative, Text

Angle = Annotated[float, Field(ge=-180, le=180)]
Positive = Annotated[float, Field(ge=0)]


class Hindrance(StrEnum):
    """Why a recogniser could hardly use a face; the criterion of :class:`Criteria` that it misses."""

    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    TURNED = "turned"
    HIDDEN = "hidden"


class Criteria(Part):
    """From where on a face counts as usable, so that in doubt it does. ``least_eye_distance``: in pixels; 63 mm at the
    125 pixels per metre that EN 62676-4 wants for recognition. The others: ``docs/analyses.md``."""

    least_eye_distance: Positive = 8.0
    least_sharpness: Positive = 0.035
    most_yaw: Angle = 60.0
    most_pitch: Angle = 45.0
    most_occlusion: Relative = 0.4


class Pose(Part):
    """In degrees; all 0: looks straight into the camera. ``yaw``: positive where the nose points to the right of the
    picture. ``pitch``: where it points up. ``roll``: where the head is turned clockwise."""

    yaw: Angle
    pitch: Angle
    roll: Angle


class Measures(Part):
    """Of one face. ``width``, ``height``, ``eye_distance`` in pixels. ``sharpness``: variance of the Laplacian over
    that of the brightness, at one size. ``occlusion``: share of eyes, nose and corners of the mouth that cannot be
    seen. ``usable_by_recogniser``: whether no ``hindrances`` were found."""

    width: Positive
    height: Positive
    eye_distance: Positive
    sharpness: Positive
    pose: Pose
    occlusion: Relative
    usable_by_recogniser: bool
    hindrances: tuple[Hindrance, ...] = ()


class Residual(Part):
    """What a mask left. ``before``: how far the face's template lies from that of itself, encoded once more; ``after``:
    from that of the masked face. Both are made and forgotten within the call. ``threshold``: two pictures of one person
    lie nearer than this. ``recognised``: whether the masked face still does."""

    before: Positive
    after: Positive
    threshold: Positive
    recognised: bool


class Face(Part):
    """``score``: the detector's. ``residual``: where a masked picture was given."""

    box: Rectangle
    relative: Share
    score: Relative
    measures: Measures
    residual: Residual | None = None


class RecogniserRecord(Part):
    """The recogniser that measured the residual, and the SHA-256 of its weight."""

    name: Text
    weights_sha256: Sha256


class Analysis(Part):
    """The answer of ``POST /v1/analyses``: the faces of a picture, the largest first. ``left_out``: how many more there
    were. ``criteria``: by which they were judged."""

    width: Length
    height: Length
    faces: tuple[Face, ...]
    left_out: Length
    criteria: Criteria
    detectors: tuple[DetectorRecord, ...]
    recogniser: RecogniserRecord | None = None


class FilmAnalysis(Part):
    """What a sample of a film's pictures says: ``pictures`` of them, ``every`` seconds apart; ``unmatched``: those to
    which the masked film had none of the same time, not looked at. ``faces`` in them, and how many a recogniser could
    use; ``left_out``: beyond the largest of a picture. The residuals are those of :class:`Residual`: the nearest
    (``worst``) and the middle one of ``measured`` faces, and how many are still ``recognised``; ``worst_at``: seconds
    from the first picture."""

    pictures: Length
    every: Positive
    unmatched: Length
    faces: Length
    usable: Length
    left_out: Length
    measured: Length
    recognised: Length
    worst: Residual | None = None
    worst_at: Positive | None = None
    median: Positive | None = None
    criteria: Criteria
    detectors: tuple[DetectorRecord, ...]
    recogniser: RecogniserRecord | None = None
