"""A face recogniser, to measure what a mask leaves of a face. It never names anybody: two faces go in, a distance comes
out, and the templates in between are forgotten.

dlib's ResNet (King 2017, 99.4 % on Labeled Faces in the Wild), aligned by five landmarks. Needs the extra ``attack``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.models import weights
from sfumato.models.boxes import Box
from sfumato.models.detectors import Image
from sfumato.schemas.fault import Fault

SAME_PERSON = 0.6
"""Two pictures of one person lie nearer than this (dlib's own threshold)."""
WEIGHTS = ("face_recogniser", "face_landmarks")
"""The rows of ``weights.toml`` that it needs."""
CHIP, AROUND = 150, 0.25
"""Side of an aligned face, in pixels, and how much around it is in it: what dlib's network was trained on."""

WIDER, LOWER = 1.3, 0.6
"""A square so many times as wide as a detector's box, its middle so far down in it: as dlib's own boxes lie."""

Template = NDArray[np.float64]
"""What identifies a face: shape (128,). Belongs nowhere but in memory."""


class RecogniserError(Fault, RuntimeError):
    """There is no recogniser here; the text names the extra."""


class Recogniser:
    """Not thread-safe."""

    name = "dlib"

    def __init__(self, folder: Path) -> None:
        """Raises :class:`RecogniserError` without the extra, and WeightError."""
        try:
            self._dlib: Any = import_module("dlib")
        except ImportError:
            raise RecogniserError("wants a face recogniser: pip install '.[attack]' in sfumato's checkout") from None
        network, landmarks = (str(weights.locate(name, folder)) for name in WEIGHTS)
        self.weights_sha256 = weights.WEIGHTS["face_recogniser"].sha256
        self._network = self._dlib.face_recognition_model_v1(network)
        self._landmarks = self._dlib.shape_predictor(landmarks)

    def landmarks(self, picture: Image, box: Box) -> Any:
        """Where eyes and nose of the face in a box are: dlib's ``full_object_detection``."""
        x, y = (box[0] + box[2]) / 2, box[1] + LOWER * (box[3] - box[1])
        half = WIDER * (box[2] - box[0]) / 2
        sides = (round(side) for side in (x - half, y - half, x + half, y + half))
        return self._landmarks(_rgb(picture), self._dlib.rectangle(*sides))

    def template(self, picture: Image, landmarks: Any) -> Template:
        """Of the face with these landmarks."""
        chip = self._dlib.get_face_chip(_rgb(picture), landmarks, CHIP, AROUND)
        return np.array(self._network.compute_face_descriptor(chip))

    def distances(self, box: Box, picture: Image, *others: Image) -> list[float]:
        """How far the face in a box of one picture lies from what is at the same place in each of the others."""
        landmarks = self.landmarks(picture, box)
        own = self.template(picture, landmarks)
        return [float(np.linalg.norm(own - self.template(other, landmarks))) for other in others]


def _rgb(picture: Image) -> Image:
    return np.ascontiguousarray(picture[:, :, ::-1])
