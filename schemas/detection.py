"""One object found in a picture: where, what and how sure. Never its pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sfumato.schemas.cloudevent import EnvelopeError

MOST_DETECTIONS = 1_000
"""Of one frame; a worker masks one with more than half as many fully (docs/contracts.md, `too_many_detections`)."""
MOST_CORNERS = 1_000
"""Of one outline."""


class Target(StrEnum):
    """What a policy can ask to be masked."""

    FACE = "face"
    LICENCE_PLATE = "licence_plate"
    PERSON = "person"
    VEHICLE = "vehicle"
    TEXT = "text"
    MOTION = "motion"


class DetectorName(StrEnum):
    """The detectors; ``sfumato.models.detectors`` holds one maker for each."""

    CENTERFACE = "centerface"
    CLP = "clp"
    MTCNN = "mtcnn"
    PPOCR = "ppocr"
    SSDLITE = "ssdlite"
    ULTRALYTICS = "ultralytics"


class Evidence(StrEnum):
    """Why a box is masked."""

    DETECTED = "detected"
    WEAK = "weak"
    """Scored below the threshold: counts only where it continues a track. Never leaves the engine."""
    TRACKED = "tracked"
    """Not seen in this frame: held from earlier ones."""
    LOOKAHEAD = "lookahead"
    """Not seen in this frame: taken back from later ones."""


class Detection(BaseModel):
    """A box in pixels of the picture, corners x0 y0 (inclusive) to x1 y1 (exclusive), score 0 to 1.

    ``track``: the same object has the same number in all frames of a camera's run. ``outline``: the object's
    corners or contour in pixels, where the detector gives more than a box.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    target: Annotated[Target, Field(alias="class")]
    score: Annotated[float, Field(ge=0, le=1)]
    box: tuple[float, float, float, float]
    track: int | None = None
    evidence: Evidence = Evidence.DETECTED
    outline: Annotated[tuple[tuple[float, float], ...], Field(max_length=MOST_CORNERS, fail_fast=True)] | None = None


Detections = Annotated[tuple[Detection, ...], Field(max_length=MOST_DETECTIONS, fail_fast=True)]
"""The first that is none ends the reading: a list of a million errors would cost a gigabyte."""
_DETECTIONS = TypeAdapter(Detections)


def dump_boxes(detections: Iterable[Detection]) -> str:
    """Compact JSON for the ``ce_boxes`` header."""
    boxes = [d.model_dump(mode="json", by_alias=True, exclude_defaults=True) for d in detections]
    return json.dumps(boxes, separators=(",", ":"))


def load_boxes(text: str) -> tuple[Detection, ...]:
    try:
        return _DETECTIONS.validate_json(text)
    except ValidationError:
        raise EnvelopeError("ce_boxes", "not a JSON array of detections") from None
