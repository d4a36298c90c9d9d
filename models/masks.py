"""The masks: what replaces the pixels of a region. One line in ``MASKS`` adds one.

Nothing of what is masked can be read from what is written:

- The strongest mask is written first, and a masked pixel is never written again. A weaker one reads the picture as
  the stronger left it.
- Solid, noise and inpaint read no masked pixel at all.
- A mosaic covers whole cells, and each pixel counts in one cell of one mosaic at most: a cell that meets what is
  masked already becomes grey, so that its mean tells nothing finer than a cell.
- A blur can be undone (``docs/masks.md``). It is there for those who must have it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import Image
from sfumato.models.images import GREY
from sfumato.models.regions import Inside, Region, cut, regions
from sfumato.schemas.detection import Detection
from sfumato.schemas.masking import MaskName
from sfumato.schemas.policy import Policy

NOISE_SIDE = 512
"""Side of the tile of noise that is laid over the picture again and again, in pixels."""
SURROUNDINGS = 0.25
"""Inpainting looks so far around a region, as a share of its longer side."""
BLUR_SIGMA = 4
"""A wider blur is made of a picture shrunk until its standard deviation is about this, in pixels."""

Masked = NDArray[np.bool_]
"""Of the whole picture: which pixels are masked already."""
Known = NDArray[np.bool_]
"""Of the whole picture: which pixels belong to no region."""


def solid(image: Image, region: Region, masked: Masked, known: Known | None) -> tuple[Image, Inside | None]:
    """Uniform grey."""
    return np.full_like(image[cut(region.box)], GREY), region.inside


def noise(image: Image, region: Region, masked: Masked, known: Known | None) -> tuple[Image, Inside | None]:
    """Random pixels, the same in every picture: nothing of the picture goes into them."""
    x0, y0, x1, y1 = region.box
    rows, columns = np.arange(y0, y1) % NOISE_SIDE, np.arange(x0, x1) % NOISE_SIDE
    return _noise()[rows[:, None], columns], region.inside


def inpaint(image: Image, region: Region, masked: Masked, known: Known | None) -> tuple[Image, Inside | None]:
    """The region's surroundings drawn inwards; grey where none of them is free of masks."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = region.box
    reach = max(4, round(max(x1 - x0, y1 - y0) * SURROUNDINGS))
    outer = (max(0, x0 - reach), max(0, y0 - reach), min(width, x1 + reach), min(height, y1 + reach))
    if known is None or not known[cut(outer)].any():
        return solid(image, region, masked, known)
    weight = known[cut(outer)].astype(np.float32)
    filled = _pull(image[cut(outer)] * weight[:, :, None], weight)
    inner = filled[y0 - outer[1] : y1 - outer[1], x0 - outer[0] : x1 - outer[0]]
    return inner.round().clip(0, 255).astype(np.uint8), region.inside


def mosaic(image: Image, region: Region, masked: Masked, known: Known | None) -> tuple[Image, Inside | None]:
    """Means of whole cells, none narrower than ``region.grain`` unless the picture ends there."""
    patch, before = image[cut(region.box)], masked[cut(region.box)]
    height, width = patch.shape[:2]
    grid = (max(1, int(width // region.grain)), max(1, int(height // region.grain)))
    means = cv2.resize(patch, grid, interpolation=cv2.INTER_AREA)
    if before.any():
        means[_touched(before, grid)] = GREY
    filled: Image = cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST)
    if region.inside is None:
        return filled, None
    cells = _touched(region.inside, grid).astype(np.uint8)
    return filled, cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def blur(image: Image, region: Region, masked: Masked, known: Known | None) -> tuple[Image, Inside | None]:
    """Gaussian, of standard deviation ``region.grain`` in pixels."""
    patch = image[cut(region.box)]
    height, width = patch.shape[:2]
    shrink = max(1.0, region.grain / BLUR_SIGMA)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), region.grain / shrink, borderType=cv2.BORDER_REPLICATE)
    filled: Image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return filled, region.inside


MASKS: dict[MaskName, Callable[[Image, Region, Masked, Known | None], tuple[Image, Inside | None]]] = {
    MaskName.SOLID: solid,
    MaskName.NOISE: noise,
    MaskName.INPAINT: inpaint,
    MaskName.MOSAIC: mosaic,
    MaskName.BLUR: blur,
}


def apply(image: Image, detections: tuple[Detection, ...], policy: Policy) -> tuple[str, ...]:
    """Mask every detection and zone of the policy in place. Returns the names of the never-mask zones in which
    something found stayed unmasked. Raises KeyError for an unknown mask or target."""
    height, width = image.shape[:2]
    found, spared = regions(detections, policy, width, height)
    if not found and not spared:
        return ()
    masked = write(image, found)
    return tuple(
        zone.name
        for zone in policy.zones
        if any((region.pixels & ~masked[cut(region.box)]).any() for region in spared.get(zone.name, ()))
    )


def write(image: Image, found: list[Region]) -> Masked:
    """Mask regions that lie in the picture, sorted the strongest first, in place. Returns what is masked now."""
    masked = np.zeros(image.shape[:2], bool)
    known = _known(found, masked) if any(region.mask is MaskName.INPAINT for region in found) else None
    edges = []
    for region in found:
        filled, inside = MASKS[region.mask](image, region, masked, known)
        patch, before = image[cut(region.box)], masked[cut(region.box)]
        if region.feather:
            edges.append((region, filled, inside))
        if before.any():
            inside = ~before if inside is None else inside & ~before
        if inside is None:
            patch[:] = filled
            before[:] = True
        else:
            cv2.copyTo(filled, inside.view(np.uint8), patch)
            before |= inside
    for region, filled, inside in edges:
        _soften(image, region, filled, inside, masked)
    return masked


def _known(found: list[Region], masked: Masked) -> Known:
    known = np.ones_like(masked)
    for region in found:  # whole boxes: a mosaic may cover more than its shape
        known[cut(region.box)] = False
    return known


def _touched(pixels: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which cells of a grid (columns, rows) over the pixels hold one that is set; shape (rows, columns)."""
    share = cv2.resize(pixels.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    touched: NDArray[np.bool_] = share > 0
    return touched


def _soften(image: Image, region: Region, filled: Image, inside: Inside | None, masked: Masked) -> None:
    """Let the mask fade out over pixels around it that nothing masks."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = region.box
    reach = int(np.ceil(region.feather))
    outer = (max(0, x0 - reach), max(0, y0 - reach), min(width, x1 + reach), min(height, y1 + reach))
    sides = (y0 - outer[1], outer[3] - y1, x0 - outer[0], outer[2] - x1)
    covered = region.pixels if inside is None else inside
    away = cv2.copyMakeBorder((~covered).astype(np.uint8), *sides, cv2.BORDER_CONSTANT, value=1)
    away = cv2.distanceTransform(away, cv2.DIST_L2, 3)
    opacity = (1 - away / (region.feather + 1)).clip(0, 1) * ~masked[cut(outer)]
    patch = image[cut(outer)]
    beyond = cv2.copyMakeBorder(filled, *sides, cv2.BORDER_REPLICATE).astype(np.float32)
    patch[:] = (patch + (beyond - patch) * opacity[:, :, None]).round().astype(np.uint8)


def _pull(colour: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill the pixels of weight 0 from ever coarser pictures of the others (push-pull: Gortler et al., "The Lumigraph",
    1996). ``colour`` is multiplied by the weight; one weight at least is not 0."""
    height, width = weight.shape
    own: NDArray[np.float32] = (colour / np.maximum(weight, 1e-6)[:, :, None]).astype(np.float32)
    if weight.all() or height == width == 1:
        return own
    size = (-(-width // 2), -(-height // 2))
    halves: list[Any] = [cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (colour, weight)]
    coarse: NDArray[np.float32] = cv2.resize(_pull(*halves), (width, height), interpolation=cv2.INTER_LINEAR)
    filled: NDArray[np.float32] = np.where(weight[:, :, None] > 0, own, coarse)
    return filled


@lru_cache(1)
def _noise() -> Image:
    return np.random.default_rng(0).integers(0, 256, (NOISE_SIDE, NOISE_SIDE, 3), np.uint8)
