"""How one target is looked for and masked; a part of the policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sfumato.schemas.detection import DetectorName
from sfumato.schemas.part import Part, Relative


class MaskName(StrEnum):
    """The masks; ``sfumato.models.masks`` holds one function for each."""

    SOLID = "solid"
    MOSAIC = "mosaic"


class Shape(StrEnum):
    ELLIPSE = "ellipse"
    RECTANGLE = "rectangle"


class Masking(Part):
    """How one target is looked for and masked.

    ``detectors``: which look for it, together; empty: all that the worker has for it. ``smallest``: the height of
    the smallest object to be caught, in pixels of the picture; pictures are enlarged or cut into tiles for it; None:
    as the worker's settings say. ``threshold``: detections scored below it are ignored; None: each detector's own.
    ``dilation``: the box grows on each side by this share of its width and height.
    ``cells``: a mosaic's cells along the longer side of the box.
    """

    mask: MaskName = MaskName.MOSAIC
    shape: Shape = Shape.RECTANGLE
    detectors: tuple[DetectorName, ...] = ()
    smallest: Annotated[int, Field(ge=4, le=4096)] | None = None
    threshold: Relative | None = None
    dilation: Annotated[float, Field(ge=0, le=2)] = 0.25
    cells: Annotated[int, Field(ge=1, le=8)] = 6
