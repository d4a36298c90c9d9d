"""One object found in a picture: where, what and how sure. Never its pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sfumato.schemas.cloudevent import EnvelopeError


class Target(StrEnum):
    """What a policy can ask to be masked."""

    FACE = "face"
    LICENCE_PLATE = "licence_plate"
    PERSON = "person"
    VEHICLE = "vehicle"


class Detection(BaseModel):
    """A box in pixels of the picture, corners x0 y0 (inclusive) to x1 y1 (exclusive), score 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    target: Annotated[Target, Field(alias="class")]
    score: Annotated[float, Field(ge=0, le=1)]
    box: tuple[float, float, float, float]


_DETECTIONS = TypeAdapter(list[Detection])


def dump_boxes(detections: Iterable[Detection]) -> str:
    """Compact JSON for the ``ce_boxes`` header."""
    return json.dumps([d.model_dump(mode="json", by_alias=True) for d in detections], separators=(",", ":"))


def load_boxes(text: str) -> tuple[Detection, ...]:
    try:
        return tuple(_DETECTIONS.validate_json(text))
    except ValidationError:
        raise EnvelopeError("ce_boxes", "not a JSON array of detections") from None
