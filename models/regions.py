"""What of a picture is masked: detections and zones as regions of pixels, before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.schemas.detection import Detection
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.policy import Policy
from sfumato.schemas.zone import Rule, Zone

MARGIN = 2
"""A box grows by at least so many pixels: in a decoded 4:2:0 picture an object's colour reaches so far beyond it."""
SMALLEST_CELL = 4
"""A mosaic's cell never gets smaller than this, in pixels: a small face keeps fewer cells, not finer ones."""
ZONE_CELLS = 8
ZONE_SIGMA = 0.15
STRENGTH = {name: strength for strength, name in enumerate(MaskName)}
"""Lower is stronger."""

FARTHEST = 1_000_000
"""An outline with a corner farther away than this, in pixels, is an error."""
Points = NDArray[np.float64]
"""Corners: shape (n, 2), x and y in pixels."""
Inside = NDArray[np.bool_]
"""Which pixels of a rectangle: shape (height, width)."""
Box = tuple[int, int, int, int]
"""Pixels x0 y0 (inclusive) to x1 y1 (exclusive)."""


@dataclass(frozen=True)
class Region:
    """Lies in the picture. ``box``: the rectangle around what is covered. ``inside``: which of its pixels; None: all.
    ``grain``: a mosaic's cell or a blur's standard deviation. ``feather``: width of the soft edge beyond. In pixels."""

    mask: MaskName
    box: Box
    grain: float = 0.0
    feather: float = 0.0
    inside: Inside | None = None

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts the strongest first, and so that it does not matter in which order regions were found."""
        shape = b"" if self.inside is None else self.inside.tobytes()
        return (STRENGTH[self.mask], -self.grain, self.box, -self.feather, shape)

    @property
    def pixels(self) -> Inside:
        x0, y0, x1, y1 = self.box
        return np.ones((y1 - y0, x1 - x0), bool) if self.inside is None else self.inside


def cut(box: Box) -> tuple[slice, slice]:
    """Rows and columns of a box that lies in the picture."""
    return slice(box[1], box[3]), slice(box[0], box[2])


def regions(
    detections: tuple[Detection, ...], policy: Policy, width: int, height: int
) -> tuple[list[Region], dict[str, list[Region]]]:
    """What to mask in a picture of this size, the strongest first; and, by the name of the never-mask zone, what it
    spared. Raises KeyError for a detection of a target that the policy does not have."""
    found: list[Region] = []
    spared: dict[str, list[Region]] = {}
    sparing = [zone for zone in policy.zones if zone.rule is Rule.NEVER_MASK]
    for detection in detections:
        region = around(detection, policy.targets[detection.target], width, height)
        for zone in sparing:
            if region is not None and detection.target in zone.spares:
                region = _spare(region, zone, width, height, spared)
        if region is not None:
            found.append(region)
    for zone in policy.zones:
        if zone.rule is Rule.ALWAYS_MASK and (region := within(zone, width, height)) is not None:
            found.append(region)
    return sorted(found, key=lambda region: region.order), spared


def around(detection: Detection, masking: Masking, width: int, height: int) -> Region | None:
    """The region of one object, grown by the masking's dilation; None where it lies outside the picture."""
    outline = np.array(detection.outline or (), float).reshape(-1, 2)
    inside: Inside | None = None
    if masking.shape is Shape.OUTLINE and len(outline) > 2:
        grow = math.ceil(max(MARGIN, masking.dilation * np.ptp(outline, axis=0).max()))
        whole = _bounds(outline, grow)
        box = _clip(whole, width, height)
        inside = box and _polygon(outline, grow, box)
    else:
        (x0, x1), (y0, y1) = sorted(detection.box[::2]), sorted(detection.box[1::2])
        dx, dy = (max(MARGIN, side * masking.dilation) for side in (x1 - x0, y1 - y0))
        whole = (math.floor(x0 - dx), math.floor(y0 - dy), math.ceil(x1 + dx), math.ceil(y1 + dy))
        box = _clip(whole, width, height)
        inside = _ellipse(whole, box) if box and masking.shape is Shape.ELLIPSE else None
    if box is None or (inside is not None and not inside.any()):
        return None
    side = max(whole[2] - whole[0], whole[3] - whole[1])
    grain = _grain(masking.mask, side, masking.cells, masking.sigma)
    return Region(masking.mask, box, grain, masking.feather * side, inside)


def within(zone: Zone, width: int, height: int) -> Region | None:
    """A zone's region; pixels that its edge touches, and one beyond, count as inside."""
    corners = _corners(zone, width, height)
    whole = _bounds(corners, 1)
    box = _clip(whole, width, height)
    if box is None:
        return None
    side = max(whole[2] - whole[0], whole[3] - whole[1])
    return Region(zone.mask, box, _grain(zone.mask, side, ZONE_CELLS, ZONE_SIGMA), 0.0, _polygon(corners, 1, box))


def _corners(zone: Zone, width: int, height: int) -> Points:
    return np.array(zone.polygon) * (width - 1, height - 1)


def _grain(mask: MaskName, side: int, cells: int, sigma: float) -> float:
    if mask is MaskName.MOSAIC:
        return max(SMALLEST_CELL, math.ceil(side / cells))
    return max(1.0, side * sigma) if mask is MaskName.BLUR else 0.0


def _bounds(points: Points, grow: int) -> Box:
    if np.abs(points).max() > FARTHEST:
        raise ValueError("an outline is larger than any picture")
    low, high = np.rint(points.min(axis=0)) - grow, np.rint(points.max(axis=0)) + grow + 1
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _clip(box: Box, width: int, height: int) -> Box | None:
    x0, y0, x1, y1 = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _ellipse(whole: Box, box: Box) -> Inside:
    """The pixels of ``box`` whose centre lies in the ellipse that fills ``whole``."""
    columns, rows = (
        (np.arange(box[axis], box[axis + 2]) + 0.5 - whole[axis]) / (whole[axis + 2] - whole[axis]) * 2 - 1
        for axis in (0, 1)
    )
    inside: Inside = rows[:, None] ** 2 + columns[None, :] ** 2 <= 1.0
    return inside


def _polygon(corners: Points, grow: int, box: Box) -> Inside:
    """The pixels of ``box`` in a polygon that is grown by so many pixels."""
    inside = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    drawn = (np.rint(corners) - box[:2]).astype(np.int32)
    cv2.fillPoly(inside, [drawn], 1)
    if grow:
        cv2.polylines(inside, [drawn], isClosed=True, color=1, thickness=2 * grow + 1)
    return inside.astype(bool)


def _spare(region: Region, zone: Zone, width: int, height: int, spared: dict[str, list[Region]]) -> Region | None:
    """What of the region the never-mask zone leaves; None: nothing."""
    taken = region.pixels & _polygon(_corners(zone, width, height), 0, region.box)
    if not taken.any():
        return region
    spared.setdefault(zone.name, []).append(replace(region, inside=taken))
    left = region.pixels & ~taken
    return replace(region, inside=left) if left.any() else None
