"""A picture sent to the API: what was found in it, and what became of it. Never its pixels."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from pydantic import Field

from sfumato.schemas.audit import DetectorRecord, Sha256
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.part import Part, Relative

Length = Annotated[int, Field(ge=0)]


class Rectangle(Part):
    """A box in pixels of the upright picture: ``left`` and ``top`` inclusive, ``right`` and ``bottom`` exclusive."""

    left: float
    top: float
    right: float
    bottom: float


class Share(Part):
    """The same box as shares of the picture's width and height."""

    left: Relative
    top: Relative
    right: Relative
    bottom: Relative


class Found(Part):
    """One object. ``score``: the detector's, 0 to 1; scores of different detectors do not compare."""

    target: Target
    score: Relative
    box: Rectangle
    relative: Share


class Detected(Found):
    """``detector``: which found it; several may find the same object."""

    detector: DetectorName


class Detections(Part):
    """The answer of ``POST /v1/detections``. ``width`` and ``height`` in pixels, upright. Boxes as they were found: a
    mask is larger by its dilation. ``detectors``: all that looked."""

    width: Length
    height: Length
    objects: tuple[Detected, ...]
    detectors: tuple[DetectorRecord, ...]


class Anonymization(Part):
    """The answer of ``POST /v1/images:anonymize`` to those who ask for no picture.

    ``picture``: where the masked picture can be fetched until ``expires_at``, by the same caller alone. ``policy``:
    the name of the policy that was used, null without one; ``policy_version``: its version. ``reason``: why all of it
    is grey, where ``outcome`` is ``fully_masked``; ``objects`` is empty then. ``spared``: the never-mask zones in
    which something found stayed unmasked.
    """

    id: str
    picture: str
    expires_at: datetime
    content_type: str
    size: Length
    sha256: Sha256
    width: Length
    height: Length
    outcome: Outcome
    reason: Reason | None = None
    objects: tuple[Found, ...]
    spared: tuple[str, ...] = ()
    policy: str | None = None
    policy_version: int | None = None
    detectors: tuple[DetectorRecord, ...]


def found(detections: Iterable[Detection], width: int, height: int) -> tuple[Found, ...]:
    """The detections of a picture of that size, in pixels."""
    return tuple(_found(detection, width, height) for detection in detections)


def _found(detection: Detection, width: int, height: int) -> Found:
    x0, y0, x1, y1 = detection.box
    box = {"left": x0 / width, "top": y0 / height, "right": x1 / width, "bottom": y1 / height}
    return Found(
        target=detection.target,
        score=detection.score,
        box=Rectangle(left=x0, top=y0, right=x1, bottom=y1),
        relative=Share(**{side: round(min(max(share, 0.0), 1.0), 5) for side, share in box.items()}),
    )
