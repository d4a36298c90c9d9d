"""The attack on masked faces: a recogniser says whether two pictures show the same person.

The attacker knows the mask and where eyes and nose are. He compares masked pictures with equally masked ones and with
plain ones, undoes the mask as far as it can be undone, and compares the masked pixels themselves, which needs no face.
Recogniser: dlib's ResNet (King 2017, 99.4 % on Labeled Faces in the Wild), five landmarks.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import attacked
import cv2
import dlib
import numpy as np
from attacked import EVAL, Box, Figure, Mask
from numpy.typing import NDArray

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import recogniser
from sfumato.models.detectors import DetectorOptions, Image, make
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Target

LOOK = 32
"""Side to which the box of a face is brought where pixels are compared."""
FRAMES, JITTER = 25, 0.05
"""A film of a face: so many pictures, in each of which the detector's box is off by so much of its size (standard
deviation)."""

Undo = Callable[[Image, Box], Image]


@dataclass(frozen=True)
class Face:
    """A portrait. ``box``: as CenterFace finds it. ``landmarks``: dlib's, found before it was masked."""

    name: str
    picture: Image
    box: Box
    landmarks: dlib.full_object_detection


@dataclass(frozen=True)
class Row:
    """One mask under attack. ``undo``: the counter-measure, where there is one. ``frames``: how many differently
    masked pictures of the same moment the attacker averages."""

    name: str
    mask: Mask
    undo: Undo | None = None
    frames: int = 1


class FaceAttack:
    """The portraits and the recogniser. ``limit``: only so many portraits."""

    columns = ("against masked", "against plain", "undone", "pixels")

    def __init__(self, limit: int | None = None) -> None:
        for weight in recogniser.WEIGHTS:
            attacked.weight(weight)
        self._recogniser = recogniser.Recogniser(load().weights_dir)
        with (EVAL / "identities" / "pairs.csv").open() as file:
            pairs = {frozenset((row["file_x"], row["file_y"])): row["Decision"] for row in csv.DictReader(file)}
        names = sorted({name for pair in pairs for name in pair})[:limit]
        self.faces = list(_found(names))
        self._pairs = list(combinations(range(len(self.faces)), 2))
        self._same = np.array([pairs[frozenset((names[i], names[j]))] == "Yes" for i, j in self._pairs], float)

    def run(self, row: Row) -> dict[str, Figure]:
        """Area under the ROC of same against other person, by column, each with its interval."""
        shown = [self._shown(row, face) for face in self.faces]
        masked = self._describe(shown)
        figures = {
            "against masked": self._figure(masked, masked),
            "against plain": self._figure(masked, self._plain),
            "pixels": self._figure(*[[_look(p, face.box) for p, face in zip(shown, self.faces, strict=True)]] * 2),
        }
        if row.undo is not None:
            undone = self._describe([row.undo(p, face.box) for p, face in zip(shown, self.faces, strict=True)])
            both = [self._figure(undone, undone), self._figure(undone, self._plain)]
            figures["undone"] = max(both, key=lambda figure: figure.value)
        return figures

    @cached_property
    def _plain(self) -> list[NDArray[np.float64]]:
        return self._describe([face.picture for face in self.faces])

    def _shown(self, row: Row, face: Face) -> Image:
        if row.frames == 1:
            return attacked.published(row.mask, face.picture, face.box)
        random = np.random.default_rng(0)
        size = np.array([face.box[2] - face.box[0], face.box[3] - face.box[1]] * 2)
        boxes = [tuple(face.box + random.normal(0, JITTER, 4) * size) for _ in range(row.frames)]
        pictures = [attacked.published(row.mask, face.picture, box).astype(np.float32) for box in boxes]
        return np.mean(pictures, axis=0).round().astype(np.uint8)

    def _describe(self, pictures: Sequence[Image]) -> list[NDArray[np.float64]]:
        """Unit of the result: dlib's descriptors, of which those of one person lie within 0.6."""
        found = []
        for picture, face in zip(pictures, self.faces, strict=True):
            found.append(self._recogniser.template(picture, face.landmarks))
        return found

    def _figure(self, probes: Sequence[NDArray[np.float64]], gallery: Sequence[NDArray[np.float64]]) -> Figure:
        near = -np.linalg.norm(np.array(probes)[:, None] - np.array(gallery)[None], axis=2)
        near = _normalized(near) + _normalized(near.T)
        return attacked.figure(self._pairs, self._same, np.array([near[i, j] for i, j in self._pairs]))


def rows() -> list[Row]:
    """What is attacked; the first row shows that the attack works, the default stands second."""

    def of(**fields: object) -> Mask:
        return attacked.masking(Target.FACE, **fields)

    mosaics = {cells: of(mask="mosaic", cells=cells) for cells in (8, 6, 4, 2)}
    return [
        Row("none", attacked.unmasked),
        Row("default", of()),
        *(
            Row(f"blur {sigma:g}", of(mask="blur", sigma=sigma), lambda p, b, s=sigma: _sharpened(p, b, s))
            for sigma in (0.03, 0.06, 0.1, 0.15, 0.25)
        ),
        Row("deface's blur", attacked.deface_blur, _unboxed),
        *(Row(f"mosaic {n}", mask, lambda p, b, n=n: _smoothed(p, b, n)) for n, mask in mosaics.items()),
        *(Row(f"mosaic {n}, {FRAMES} frames", mask, frames=FRAMES) for n, mask in mosaics.items()),
        *(Row(name, of(mask=name)) for name in ("inpaint", "noise", "solid")),
    ]


def _found(names: Sequence[str]) -> list[Face]:
    fetch(WEIGHTS["centerface"], load().weights_dir)
    detector = make("centerface", DetectorOptions(weights_dir=load().weights_dir))
    frontal = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(attacked.weight("face_landmarks"))
    faces = []
    for name in names:
        picture = cv2.imread(str(EVAL / "identities" / name))
        rgb = np.ascontiguousarray(picture[:, :, ::-1])
        seen = max(frontal(rgb, 1), key=lambda box: box.area())
        middle = (seen.center().x, seen.center().y)
        boxes = [detection.box for detection in detector.detect([picture])[0] if detection.score > 0.3]
        box = min(boxes, key=lambda b: np.hypot((b[0] + b[2]) / 2 - middle[0], (b[1] + b[3]) / 2 - middle[1]))
        faces.append(Face(name, picture, box, landmarks(rgb, seen)))
    return faces


def _normalized(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's scores against how near others come to it, since some faces are near to all (as Z-norm and T-norm in
    speaker verification: Auckenthaler et al. 2000)."""
    others = scores.copy()
    np.fill_diagonal(others, np.nan)
    spread = np.nanstd(others, axis=1, keepdims=True)
    return (scores - np.nanmean(others, axis=1, keepdims=True)) / np.maximum(spread, 1e-6)


def _look(picture: Image, box: Box) -> NDArray[np.float64]:
    """The pixels of a box, brought to one size, mean and contrast."""
    x0, y0, x1, y1 = (max(0, round(side)) for side in box)
    look = cv2.resize(picture[y0:y1, x0:x1], (LOOK, LOOK), interpolation=cv2.INTER_AREA).astype(np.float64)
    return (look - look.mean()).ravel() / max(look.std(), 1.0) / LOOK


def _patch(picture: Image, box: Box) -> tuple[Image, Image, float]:
    """A copy, its part under the default's grown box, and that part's longer side in pixels."""
    picture = picture.copy()
    dx, dy = (box[2] - box[0]) * 0.25, (box[3] - box[1]) * 0.25
    x0, y0 = max(0, int(box[0] - dx)), max(0, int(box[1] - dy))
    patch = picture[y0 : int(box[3] + dy) + 1, x0 : int(box[2] + dx) + 1]
    return picture, patch, max((box[2] - box[0]) * 1.5, (box[3] - box[1]) * 1.5)


def _sharpened(picture: Image, box: Box, sigma: float) -> Image:
    picture, patch, side = _patch(picture, box)
    line = cv2.getGaussianKernel(int(side * sigma * 3) * 2 + 1, side * sigma)
    patch[:] = attacked.deconvolved(patch, line @ line.T)
    return picture


def _unboxed(picture: Image, box: Box) -> Image:
    picture, patch, _ = _patch(picture, box)
    width, height = int((box[2] - box[0]) * 1.6) // 2, int((box[3] - box[1]) * 1.6) // 2
    patch[:] = attacked.deconvolved(patch, np.full((height, width), 1 / height / width))
    return picture


def _smoothed(picture: Image, box: Box, cells: int) -> Image:
    """A mosaic's cells as the samples they are, interpolated."""
    picture, patch, side = _patch(picture, box)
    height, width = patch.shape[:2]
    cell = side / cells
    grid = (max(1, int(width // cell)), max(1, int(height // cell)))
    means = cv2.resize(patch, grid, interpolation=cv2.INTER_AREA)
    patch[:] = cv2.resize(means, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture
