"""How one target is looked for and masked; a part of the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sfumato.schemas.detection import DetectorName, Target
from sfumato.schemas.part import Part, Relative


class MaskName(StrEnum):
    """The masks, the strongest first: where two meet, the earlier one is seen. ``sfumato.models.masks`` holds a
    function for each. What each withstands: ``docs/masks.md``."""

    SOLID = "solid"
    NOISE = "noise"
    INPAINT = "inpaint"
    MOSAIC = "mosaic"
    BLUR = "blur"


class Shape(StrEnum):
    ELLIPSE = "ellipse"
    RECTANGLE = "rectangle"
    OUTLINE = "outline"
    """What the detector drew around the object; a rectangle where it drew nothing."""


COVERING = 0.21
"""An ellipse covers the corners of the box from this dilation on (half of the square root of two, less a half)."""


class Masking(Part):
    """How one target is looked for and masked.

    ``detectors``: which look for it, together; empty: all that the worker has for it. ``smallest``: the height of
    the smallest object to be caught, in pixels of the picture; pictures are enlarged or cut into tiles for it; None:
    as the worker's settings say. ``threshold``: detections scored below it are ignored; None: each detector's own.
    ``dilation``: the box grows on each side by this share of its width and height, and by two pixels at least.
    ``cells``: a mosaic's cells along the longer side of the grown box. ``sigma``: a blur's standard deviation, as a
    share of that side. ``feather``: a soft edge so wide, as a share of that side, around what is masked.
    """

    mask: MaskName = MaskName.SOLID
    shape: Shape = Shape.RECTANGLE
    detectors: tuple[DetectorName, ...] = ()
    smallest: Annotated[int, Field(ge=4, le=4096)] | None = None
    threshold: Relative | None = None
    dilation: Annotated[float, Field(ge=0, le=2)] = 0.25
    cells: Annotated[int, Field(ge=1, le=8)] = 6
    sigma: Annotated[float, Field(ge=0.01, le=1)] = 0.15
    feather: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    def warnings(self, target: Target) -> Iterator[str]:
        """What is allowed for this target and yet weak, in words that name the field."""
        if self.mask is MaskName.BLUR:
            yield "mask: a blur can be undone and the person recognised (docs/masks.md); solid cannot"
        if self.mask is MaskName.MOSAIC and target in (Target.LICENCE_PLATE, Target.TEXT):
            yield "mask: the characters under a mosaic can be guessed by trying (docs/masks.md); solid ends that"
        if self.shape is Shape.ELLIPSE and self.dilation < COVERING:
            yield f"dilation: an ellipse leaves the corners of the box uncovered below {COVERING}"


DEFAULTS: dict[Target, dict[str, Any]] = {
    Target.PERSON: {"dilation": 0.1},
    Target.VEHICLE: {"dilation": 0.1},
    Target.TEXT: {"dilation": 0.15},
    Target.MOTION: {"dilation": 0.1},
}
"""Where a target's defaults differ from those of :class:`Masking`. All are solid: every other mask is open to an attack
or shows its surroundings (``docs/masks.md``)."""


def with_defaults(targets: object) -> object:
    """The ``targets`` of a policy as it was written, with each target's own defaults where it says nothing."""
    if not isinstance(targets, Mapping):
        return targets
    return {
        target: {**DEFAULTS.get(target, {}), **masking} if isinstance(masking, Mapping) else masking
        for target, masking in targets.items()
    }


Targets = Annotated[dict[Target, Masking], Field(min_length=1), BeforeValidator(with_defaults)]
"""What is looked for and how each is masked, as a policy and each of its schedules say it."""
