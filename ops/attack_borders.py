"""What a camera's own JPEG tells of an object outside the object's box: two pictures that differ only inside a box are
encoded and decoded as a camera and a worker would, and compared around it."""

from __future__ import annotations

from itertools import islice

import av
import cv2
import numpy as np
from clips import clip

from sfumato.models import images
from sfumato.models.detectors import Image

TRIALS = 100
RINGS = {"1 to 2": (1, 2), "3 to 4": (3, 4), "5 to 8": (5, 8), "9 to 16": (9, 16), "over 16": (17, 10**6)}
"""Distances from the box, in pixels."""
columns = tuple(RINGS)


def run(quality: int) -> dict[str, str]:
    """By distance, the mean and the largest difference in grey levels."""
    with av.open(str(clip("bikes"))) as film:
        (frame,) = islice(film.decode(video=0), 1)
    scene: Image = frame.to_ndarray(format="bgr24")
    random = np.random.default_rng(0)
    found: dict[str, list[tuple[float, int]]] = {ring: [] for ring in RINGS}
    for _ in range(TRIALS):
        side = int(random.integers(16, 80))
        y, x = (int(random.integers(0, room - side)) for room in scene.shape[:2])
        other, outside = scene.copy(), np.ones(scene.shape[:2], np.uint8)
        other[y : y + side, x : x + side] = 255 - other[y : y + side, x : x + side]
        outside[y : y + side, x : x + side] = 0
        first, second = (
            images.decode(images.encode(picture, quality), "image/jpeg", max_pixels=10**8).astype(int)
            for picture in (scene, other)
        )
        away = cv2.distanceTransform(outside, cv2.DIST_C, 3)
        for ring, (near, far) in RINGS.items():
            difference = abs(first - second).max(axis=2)[(away >= near) & (away <= far)]
            found[ring].append((float(difference.mean()), int(difference.max())))
    return {ring: f"{np.mean([m for m, _ in all_]):.1f}, {max(w for _, w in all_)}" for ring, all_ in found.items()}
