"""CenterFace, the default face detector, on OpenVINO.

Method: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019
(arXiv 1911.03599). Weight: ``weights.toml``. OpenVINO rather than ONNX Runtime: it takes the graph's
fixed input size away by itself and is the faster one here (``docs/decisions/0006-openvino.md``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from sfumato.models import images, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorOptions, Image, Smallest
from sfumato.schemas.detection import Detection, DetectorName, Target

STRIDE = 4
"""Pixels of the input per cell of the output maps."""
MULTIPLE = 32
"""Input sides are padded to a multiple of this, in pixels."""
OVERLAP = 0.3
"""Boxes that overlap a better one by more than this (intersection over union) are the same face."""
COMPILED_SIZES = 16
"""Input sizes whose compiled model is kept: a fleet has few; a size seen anew costs a compilation."""


class CenterFace:
    name = DetectorName.CENTERFACE
    targets = frozenset({Target.FACE})
    threshold = 0.1

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`~sfumato.models.weights.WeightError` where the weight is absent or differs."""
        path = weights.locate("centerface", options.weights_dir)
        self.weights_sha256 = weights.WEIGHTS["centerface"].sha256
        self._long_side = options.long_side
        self._openvino = openvino.Core()
        self._graph = path
        # By itself OpenVINO takes one thread per physical core, which on a virtual machine may be half of them.
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": "NO",  # other processes share the cores
            "INFERENCE_NUM_THREADS": str(options.threads or os.cpu_count() or 1),
        }
        self._compiled = lru_cache(COMPILED_SIZES)(self._compile)

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, image: Image) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        scale = min(1.0, self._long_side / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = images.resize(image, *size)
        result = self._compiled(*_padded_size(image))(_pad(image)[np.newaxis])
        heat, size_map, offset = (np.asarray(result[i])[0] for i in range(3))
        boxes, scores = _decode(heat[0], size_map, offset)
        boxes /= (image.shape[1] / width, image.shape[0] / height) * 2
        boxes = boxes.clip(0, (width, height, width, height))
        return tuple(
            Detection.model_construct(target=Target.FACE, score=round(float(score), 3), box=_rounded(box))
            for box, score in zip(boxes, scores, strict=True)
            if box[2] > box[0] and box[3] > box[1]
        )

    def _compile(self, height: int, width: int) -> Any:
        model = self._openvino.read_model(self._graph)
        model.reshape([1, 3, height, width])
        convert = PrePostProcessor(model)
        tensor = convert.input().tensor()
        tensor.set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")).set_color_format(ColorFormat.BGR)
        convert.input().preprocess().convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB)
        convert.input().model().set_layout(openvino.Layout("NCHW"))
        return self._openvino.compile_model(convert.build(), "CPU", self._config)


def _padded_size(image: Image) -> tuple[int, int]:
    height, width = image.shape[:2]
    return height + -height % MULTIPLE, width + -width % MULTIPLE


def _pad(image: Image) -> Image:
    height, width = _padded_size(image)
    return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)))


def _decode(
    heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Maps of the network to boxes (n, 4) as x0 y0 x1 y1 in input pixels, and scores (n,)."""
    rows, columns = np.nonzero(heat >= LOWEST_SCORE)
    scores = heat[rows, columns]
    heights, widths = np.exp(size[:, rows, columns].astype(np.float64)) * STRIDE
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE - heights / 2
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE - widths / 2
    kept = np.array(
        cv2.dnn.NMSBoxes(np.stack([x, y, widths, heights], 1).tolist(), scores.tolist(), LOWEST_SCORE, OVERLAP),
        dtype=int,
    ).reshape(-1)
    return np.stack([x, y, x + widths, y + heights], 1)[kept].reshape(-1, 4), scores[kept]


def _rounded(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    return x0, y0, x1, y1
