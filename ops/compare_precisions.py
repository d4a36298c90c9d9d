"""CenterFace in float32, bfloat16 and int8: how fast, and what stays exposed; for docs/decisions/0006-openvino.md.

    python ops/compare_precisions.py [--labels ../shared/eval/labels.json]

int8 is ONNX Runtime's static quantization, calibrated on frames of the clips ``bikes`` and ``carphone``; OpenVINO runs
all three. Needs the extra ``test``. Prints one JSON object: median milliseconds per picture in turn on one thread, and,
where there are labelled pictures, the share of labelled faces exposed at CenterFace's own thresholds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import curve
import numpy as np
import onnx
import openvino
from clips import clip
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import images
from sfumato.models.centerface import CenterFace, _blob
from sfumato.models.detectors import DetectorOptions
from sfumato.models.runtime import _any_size
from sfumato.models.weights import WEIGHTS

CALIBRATED_AT = (640, 352)
FRAMES = 24
OPSET = 13
SIZES = ((640, 360), (1280, 720))
ROUNDS = 7


class Frames(CalibrationDataReader):  # type: ignore[misc]
    """Every fifth frame of the clips, in one size."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._frames = (
            images.resize(frame, *CALIBRATED_AT) for name in ("bikes", "carphone") for frame in frames(name)
        )

    def get_next(self) -> dict[str, Any] | None:
        frame = next(self._frames, None)
        return None if frame is None else {self._source: _blob(frame)}


def frames(name: str) -> Iterator[Any]:
    with av.open(str(clip(name))) as container:
        for frame in islice(container.decode(video=0), 0, FRAMES * 5, 5):
            yield frame.to_ndarray(format="bgr24")


def quantized(path: Path, folder: Path) -> Path:
    """The graph in int8, per channel."""
    open_size, prepared, target = (folder / f"{name}.onnx" for name in ("open", "prepared", "int8"))
    # Quantization per channel is known from this version of the operators on.
    onnx.save(version_converter.convert_version(_any_size(onnx.load(str(path))), OPSET), str(open_size))
    quant_pre_process(str(open_size), str(prepared), skip_symbolic_shape=True)
    source = onnx.load(str(prepared)).graph.input[0].name
    quantize_static(str(prepared), str(target), Frames(source), quant_format=QuantFormat.QDQ, per_channel=True)
    return target


class Compiled:
    """A graph by OpenVINO in one precision; stands in for a detector's runtime."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        self._core = openvino.Core()
        self._graph = self._core.read_model(path)
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": precision,
        }
        self._models: dict[tuple[int, ...], Any] = {}

    def __call__(self, batch: Any) -> list[Any]:
        if batch.shape not in self._models:
            model = self._graph.clone()
            model.reshape(list(batch.shape))
            self._models[batch.shape] = self._core.compile_model(model, "CPU", self._options)
        result = self._models[batch.shape](batch)
        return [np.asarray(result[index]) for index in range(len(result))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, default=curve.LABELS)
    options = parser.parse_args()
    settings = load()
    path = fetch(WEIGHTS["centerface"], settings.weights_dir)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {"f32": (path, "f32"), "bf16": (path, "bf16"), "int8": (quantized(path, Path(folder)), "f32")}
        made = {name: detector(*graph, settings.weights_dir) for name, graph in graphs.items()}
        result = {"ms_per_picture": speed(made), "exposed": exposed(made, options.labels), "cores": os.cpu_count()}
    print(json.dumps(result))
    return 0


def detector(graph: Path, precision: str, weights_dir: Path) -> CenterFace:
    made = CenterFace(DetectorOptions(threads=1, weights_dir=weights_dir))
    made._runtime = Compiled(graph, precision, 1)  # type: ignore[assignment]
    return made


def speed(made: dict[str, CenterFace]) -> dict[str, dict[str, float]]:
    frame = next(islice(frames("bikes"), 16, None))
    found = {}
    for size in SIZES:
        picture = images.resize(frame, *size)
        times: dict[str, list[float]] = {name: [] for name in made}
        for number in range(ROUNDS + 1):  # the first one compiles
            for name, one in made.items():
                started = time.perf_counter()
                one.detect([picture])
                if number:
                    times[name].append((time.perf_counter() - started) * 1000)
        found[f"{size[0]}x{size[1]}"] = {name: round(statistics.median(values), 1) for name, values in times.items()}
    return found


def exposed(made: dict[str, CenterFace], labels: Path) -> dict[str, Any] | None:
    if not labels.is_file():
        print(f"no labelled pictures at {labels}: accuracy was not measured", file=sys.stderr)
        return None
    seen: dict[str, list[Any]] = {name: [] for name in made}
    for picture, entry in curve.pictures(labels, {"face"}, None, None):
        for name, one in made.items():
            seen[name].append((picture.shape[:2], list(one.detect([picture])[0]), entry))
    return {name: curve.judge(rows, CenterFace.threshold, False) for name, rows in seen.items()}


if __name__ == "__main__":
    sys.exit(main())
