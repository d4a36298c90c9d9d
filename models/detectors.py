"""The detectors: image batch in, boxes out. One line in ``DETECTORS`` adds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.fault import Fault

Image = NDArray[np.uint8]
"""A picture: uint8, shape (height, width, 3), channels blue, green, red."""


Smallest = Sequence[int | None] | None
"""For each picture the height of the smallest object to be caught, in its pixels."""


class DetectorError(Fault, RuntimeError):
    """A detector cannot be made: unknown name, missing weight, unusable device. The text says what to do."""


class Threshold:
    """The score from which a box counts. ``rises``: from this height of the box on, in pixels, this score.

    Large objects are scored high, so that a large box of a low score is a false alarm, and one that costs much area.
    """

    def __init__(self, score: float, *rises: tuple[float, float]) -> None:
        self._steps = ((0.0, score), *rises)

    @property
    def range(self) -> tuple[float, float]:
        """The score under which no box counts, and the one from which each does."""
        scores = [score for _, score in self._steps]
        return min(scores), max(scores)

    def at(self, height: float) -> float:
        return next(score for least, score in reversed(self._steps) if height >= least)

    def met(self, boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which count, shape (n,), of boxes (n, 4) as x0 y0 x1 y1 with their scores (n,)."""
        from_height, asked = np.array(self._steps).T
        heights = boxes[:, 3] - boxes[:, 1]
        return np.asarray(scores >= asked[np.searchsorted(from_height, heights, "right").clip(1) - 1])


class Detector(Protocol):
    """What the engine needs of a detector. ``weights_sha256`` goes into every audit event; ``threshold`` is for
    policies that give none: scores of different detectors do not compare."""

    name: DetectorName
    targets: frozenset[Target]
    threshold: Threshold
    weights_sha256: str

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Boxes for each picture, in its own pixels, in order. Those of a batch may differ in size.

        From ``smallest`` the detector chooses its input size or tiles; None: as :class:`DetectorOptions` say.
        Returns every detection scored :data:`LOWEST_SCORE` or more; the threshold is applied later.
        """
        ...


LOWEST_SCORE = 0.05


class Provider(StrEnum):
    """What runs the graphs of the detectors; ``sfumato.models.runtime`` holds one function for each."""

    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino_bf16"
    """Computes in bfloat16: about twice as fast on CPUs that can, and other scores."""
    ONNXRUNTIME = "onnxruntime"
    CUDA = "cuda"
    """ONNX Runtime on an NVIDIA GPU."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """``threads`` 0: all cores. ``streams``: pictures of a batch looked at at once. ``long_side``: pictures are shrunk
    to it, in pixels, never enlarged. ``provider`` is a :class:`Provider`. ``device``: the GPU. ``model`` is for
    detectors that let the user choose it."""

    threads: int = 0
    streams: int = 1
    provider: str = Provider.OPENVINO
    long_side: int = 1280
    device: str = "auto"
    model: str = ""
    weights_dir: Path = Path.home() / ".cache" / "sfumato"


def _centerface(options: DetectorOptions) -> Detector:
    from sfumato.models.centerface import CenterFace

    return CenterFace(options)


def _clp(options: DetectorOptions) -> Detector:
    from sfumato.models.clp import Clp

    return Clp(options)


def _mtcnn(options: DetectorOptions) -> Detector:
    from sfumato.models.mtcnn import Mtcnn

    return Mtcnn(options)


def _ppocr(options: DetectorOptions) -> Detector:
    from sfumato.models.ppocr import PpOcr

    return PpOcr(options)


def _ssdlite(options: DetectorOptions) -> Detector:
    from sfumato.models.ssdlite import Ssdlite

    return Ssdlite(options)


def _ultralytics(options: DetectorOptions) -> Detector:
    from sfumato.models.yolo import Yolo

    return Yolo(options)


DETECTORS: dict[DetectorName, tuple[Callable[[DetectorOptions], Detector], tuple[str, ...]]] = {
    DetectorName.CENTERFACE: (_centerface, ("centerface",)),
    DetectorName.CLP: (_clp, ("clp",)),
    DetectorName.MTCNN: (_mtcnn, ("mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet")),
    DetectorName.PPOCR: (_ppocr, ("ppocr",)),
    DetectorName.SSDLITE: (_ssdlite, ("ssdlite",)),
    DetectorName.ULTRALYTICS: (_ultralytics, ()),
}
"""How each is made, and the rows of ``weights.toml`` that it needs."""

ON_REQUEST = frozenset({(DetectorName.PPOCR, Target.LICENCE_PLATE)})
"""What a detector looks for only where the policy names it: in a street of shops lettering of a plate's shape is
everywhere (``docs/detectors.md`` has the areas)."""


def make(name: str, options: DetectorOptions) -> Detector:
    """The detector of that name; :class:`DetectorError` lists the valid names."""
    return _row(name)[0](options)


def needs(*names: str) -> list[str]:
    """The rows of ``weights.toml`` that these detectors need, each once; :class:`DetectorError` lists valid names."""
    return list(dict.fromkeys(weight for name in names for weight in _row(name)[1]))


def _row(name: str) -> tuple[Callable[[DetectorOptions], Detector], tuple[str, ...]]:
    try:
        return DETECTORS[DetectorName(name)]
    except ValueError:
        raise DetectorError(f"unknown detector {name!r}; one of: {', '.join(sorted(DETECTORS))}") from None
