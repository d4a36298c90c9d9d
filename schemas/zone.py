"""A drawn part of the picture: always masked, or spared; a part of the policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sfumato.schemas.detection import Target
from sfumato.schemas.masking import MaskName
from sfumato.schemas.part import Part, Relative, Text


class Rule(StrEnum):
    ALWAYS_MASK = "always_mask"
    NEVER_MASK = "never_mask"


class Zone(Part):
    """A polygon, corners as shares (0 to 1) of the picture's width and height.

    ``mask``: of an always-mask zone. ``spares``: what a never-mask zone leaves unmasked; by default only motion,
    so that any detected object is masked all the same.
    """

    name: Text
    polygon: Annotated[tuple[tuple[Relative, Relative], ...], Field(min_length=3, max_length=200)]
    rule: Rule = Rule.ALWAYS_MASK
    mask: MaskName = MaskName.SOLID
    spares: frozenset[Target] = frozenset({Target.MOTION})
