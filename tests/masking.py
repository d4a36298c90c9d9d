"""Pictures, objects and policies for the tests of masks, and strategies that draw them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from sfumato.models.regions import regions
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import MaskName, Shape
from sfumato.schemas.policy import Policy

SIZE = (96, 128)
"""Height and width."""
CLOSED = (MaskName.SOLID, MaskName.NOISE, MaskName.INPAINT)
"""Masks that read nothing of what they cover."""


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def policy(zones: list[dict] | None = None, **targets: dict) -> Policy:
    return Policy.model_validate(
        {
            "camera": "north",
            "version": 1,
            "controller": "City",
            "purpose": "Test",
            "lawful_basis": "public_task",
            "dpia": "DPIA-1",
            "retention_hours": 1,
            "targets": targets,
            "zones": zones or [],
        }
    )


def found(target: str, *box: float, outline: tuple | None = None) -> Detection:
    return Detection(target=Target(target), score=0.9, box=box, outline=outline)


def covered(detections: tuple[Detection, ...], policy: Policy, masks=tuple(MaskName), size=SIZE) -> np.ndarray:
    """The pixels of the regions that have one of these masks."""
    inside = np.zeros(size, bool)
    for region in regions(detections, policy, size[1], size[0])[0]:
        if region.mask in masks:
            x0, y0, x1, y1 = region.box
            inside[y0:y1, x0:x1] |= region.pixels
    return inside


sides = st.tuples(st.integers(3, 70), st.integers(3, 70))
places = st.tuples(st.integers(-20, 120), st.integers(-20, 90))


@st.composite
def objects(draw, targets=tuple(Target), at_most: int = 5) -> tuple[Detection, ...]:
    detections = []
    for _ in range(draw(st.integers(1, at_most))):
        (x, y), (w, h) = draw(places), draw(sides)
        outline = ((x, y), (x + w, y + h / 3), (x + w / 2, y + h)) if draw(st.booleans()) else None
        detections.append(found(draw(st.sampled_from(targets)), x, y, x + w, y + h, outline=outline))
    return tuple(detections)


@st.composite
def policies(draw, masks=tuple(MaskName)) -> Policy:
    return policy(
        **{
            target: {
                "mask": draw(st.sampled_from(masks)),
                "shape": draw(st.sampled_from(list(Shape))),
                "dilation": draw(st.sampled_from([0.0, 0.1, 0.4])),
                "cells": draw(st.integers(1, 8)),
                "feather": draw(st.sampled_from([0.0, 0.2])),
            }
            for target in Target
        }
    )
