"""Masked pictures for the attacks, made by the product's own masks, and what the figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import images, masks
from sfumato.models.detectors import Image
from sfumato.models.weights import WEIGHTS as OWN
from sfumato.models.weights import read_table
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.policy import Policy

EVAL = Path(__file__).resolve().parents[2] / "shared" / "eval"
"""Labelled pictures of known people and plates; not part of the repository."""
WEIGHTS = OWN | read_table(Path(__file__).with_name("attack.toml").read_text())
QUALITY = 85
"""Of the JPEG through which every masked picture goes before it is attacked, as in production."""
RESAMPLES = 2000

Box = tuple[float, float, float, float]
Mask = Callable[[Image, Box], Image]
"""A picture and the box of the object, to the picture as published."""


def weight(name: str) -> str:
    """The path of a file of ``attack.toml`` or ``weights.toml``, fetched on first use."""
    return str(fetch(WEIGHTS[name], load().weights_dir))


def masking(target: Target, **fields: object) -> Mask:
    """A mask as a policy with these fields gives it; without fields: the target's default."""
    policy = Policy.model_validate(
        {
            "camera": "attacked",
            "version": 1,
            "controller": "attack",
            "purpose": "attack",
            "lawful_basis": "consent",
            "dpia": "attack",
            "retention_hours": 1,
            "targets": {target: fields},
        }
    )

    def mask(picture: Image, box: Box) -> Image:
        picture = picture.copy()
        masks.apply(picture, (Detection(target=target, score=1.0, box=box),), policy)
        return picture

    return mask


def unmasked(picture: Image, box: Box) -> Image:
    return picture


def deface_blur(picture: Image, box: Box) -> Image:
    """What deface 1.5.0 does by default: box grown by 0.3 on each side, box blur of half its size, under an ellipse."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    dx, dy = (box[2] - box[0]) * 0.3, (box[3] - box[1]) * 0.3
    x0, y0 = max(0, int(box[0] - dx)), max(0, int(box[1] - dy))
    x1, y1 = min(width, int(box[2] + dx)), min(height, int(box[3] + dy))
    patch = picture[y0:y1, x0:x1]
    blurred = cv2.blur(patch, ((x1 - x0) // 2, (y1 - y0) // 2))
    inside = np.zeros(patch.shape[:2], np.uint8)
    half = ((x1 - x0) // 2, (y1 - y0) // 2)
    cv2.ellipse(inside, half, half, 0, 0, 360, 1, -1)
    cv2.copyTo(blurred, inside, patch)
    return picture


def published(mask: Mask, picture: Image, box: Box) -> Image:
    """The masked picture, through JPEG."""
    return images.decode(images.encode(mask(picture, box), QUALITY), "image/jpeg", max_pixels=10**8)


def deconvolved(picture: Image, kernel: NDArray[np.float64], noise: float = 0.003) -> Image:
    """Wiener's filter for a known blur; ``noise``: the power of what is not picture, against that of the picture."""
    reach = max(kernel.shape) // 2 + 1
    padded = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_REFLECT).astype(np.float64)
    spread = np.zeros(padded.shape[:2])
    spread[: kernel.shape[0], : kernel.shape[1]] = kernel
    spread = np.roll(spread, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
    transfer = np.fft.rfft2(spread)
    inverse = np.conj(transfer) / (np.abs(transfer) ** 2 + noise)
    sharp = [np.fft.irfft2(np.fft.rfft2(padded[..., c]) * inverse, s=padded.shape[:2]) for c in range(3)]
    return np.stack(sharp, 2)[reach:-reach, reach:-reach].clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Figure:
    """An area under the curve with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def figure(pairs: Sequence[tuple[int, int]], same: NDArray[np.float64], scores: NDArray[np.float64]) -> Figure:
    """The area under the curve of pairs of pictures. The interval is of a bootstrap over pictures, since pairs that
    share one are not independent."""
    first, second = np.array(pairs).T
    random = np.random.default_rng(0)
    count = int(second.max()) + 1
    values = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(random.integers(0, count, count), minlength=count)
        values.append(area_under_curve(same, scores, (drawn[first] * drawn[second]).astype(float)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Figure(area_under_curve(same, scores, np.ones(len(scores))), float(low), float(high))


def area_under_curve(same: NDArray[np.float64], scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The probability that a pair of the same has a higher score than one of others (ROC); ties count half."""
    same_scores, others = scores[same > 0], np.sort(scores[same == 0])
    by_score = np.argsort(scores[same == 0])
    total = np.concatenate([[0.0], np.cumsum(weights[same == 0][by_score])])
    below = total[np.searchsorted(others, same_scores, "left")]
    not_above = total[np.searchsorted(others, same_scores, "right")]
    own = weights[same > 0]
    if own.sum() == 0 or total[-1] == 0:
        return float("nan")
    return float((own * (below + not_above)).sum() / 2 / own.sum() / total[-1])
