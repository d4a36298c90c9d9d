"""The masks: what replaces the pixels of a region. One line in ``MASKS`` adds one.

Blurs are left out on purpose for now: published attacks re-identify most Gaussian-blurred faces
(Revelio, arXiv 2506.12344). A mosaic's cell scales with the object, so a large face keeps no more
cells than a small one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.models.images import GREY
from sfumato.schemas.detection import Detection
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.policy import Policy
from sfumato.schemas.zone import Zone

SMALLEST_CELL = 4
"""A mosaic's cell never gets smaller than this, in pixels: a small face keeps fewer cells, not finer ones."""
ZONE_CELLS = 8


def solid(patch: Image, cells: int) -> Image:
    """Uniform grey of the patch's shape."""
    return np.full_like(patch, GREY)


def mosaic(patch: Image, cells: int) -> Image:
    """The patch as means of at most ``cells`` by ``cells`` squares."""
    height, width = patch.shape[:2]
    cell = max(SMALLEST_CELL, math.ceil(max(height, width) / cells))
    coarse = cv2.resize(patch, (math.ceil(width / cell), math.ceil(height / cell)), interpolation=cv2.INTER_AREA)
    masked: Image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    return masked


MASKS: dict[MaskName, Callable[[Image, int], Image]] = {
    MaskName.SOLID: solid,
    MaskName.MOSAIC: mosaic,
}


def apply(image: Image, detections: tuple[Detection, ...], policy: Policy) -> None:
    """Mask every detection and zone of the policy in place. Raises KeyError for an unknown mask or target."""
    for detection in detections:
        mask_box(image, detection.box, policy.targets[detection.target])
    for zone in policy.zones:
        mask_zone(image, zone)


def mask_box(image: Image, box: tuple[float, float, float, float], masking: Masking) -> None:
    """Mask a box, grown by the masking's dilation on each side, in place."""
    height, width = image.shape[:2]
    dx, dy = (box[2] - box[0]) * masking.dilation, (box[3] - box[1]) * masking.dilation
    x0, y0 = math.floor(box[0] - dx), math.floor(box[1] - dy)
    x1, y1 = math.ceil(box[2] + dx), math.ceil(box[3] + dy)
    cut = (slice(max(0, y0), min(height, y1)), slice(max(0, x0), min(width, x1)))
    patch = image[cut]
    if patch.size == 0:
        return
    masked = MASKS[masking.mask](patch, masking.cells)
    if masking.shape is Shape.RECTANGLE:
        image[cut] = masked
        return
    rows = (np.arange(y0, y1)[cut_of(y0, height, y1)] + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    columns = (np.arange(x0, x1)[cut_of(x0, width, x1)] + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    _blend(patch, masked, rows[:, None] ** 2 + columns[None, :] ** 2 <= 1.0)


def mask_zone(image: Image, zone: Zone) -> None:
    """Mask a polygon in place; pixels that its edge touches count as inside."""
    height, width = image.shape[:2]
    corners = np.rint(np.array(zone.polygon) * (width - 1, height - 1)).astype(np.int32)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [corners], 1)
    cv2.polylines(inside, [corners], isClosed=True, color=1, thickness=3)
    x, y, w, h = cv2.boundingRect(inside)
    cut = (slice(y, y + h), slice(x, x + w))
    _blend(image[cut], MASKS[zone.mask](image[cut], ZONE_CELLS), inside[cut] > 0)


def cut_of(start: int, limit: int, stop: int) -> slice:
    """The part of ``start`` to ``stop`` that lies inside 0 to ``limit``, counted from ``start``."""
    return slice(max(0, -start), min(limit, stop) - start)


def _blend(patch: Image, masked: Image, inside: NDArray[np.bool_]) -> None:
    patch[inside] = masked[inside]
