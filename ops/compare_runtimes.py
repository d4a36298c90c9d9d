"""CenterFace on OpenVINO and on ONNX Runtime, in turn: the figures of docs/decisions/0006-openvino.md.

Needs the extra ``test`` (onnx, onnxruntime). Prints one JSON object: median milliseconds per picture.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import openvino

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models.weights import WEIGHTS

SIZES = ((288, 640), (544, 960))
ROUNDS = 15


def main() -> None:
    path = str(fetch(WEIGHTS["centerface"], load().weights_dir))
    found: dict[str, dict[str, float]] = {}
    for threads in (1, 2):
        for height, width in SIZES:
            picture = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
            runs = {
                "openvino": on_openvino(path, height, width, threads, picture),
                "onnxruntime": on_onnxruntime(path, threads, picture),
            }
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(ROUNDS):
                for name, run in runs.items():
                    started = time.perf_counter()
                    run()
                    times[name].append((time.perf_counter() - started) * 1000)
            key = f"{width}x{height}, {threads} threads"
            found[key] = {name: round(statistics.median(values), 1) for name, values in times.items()}
    print(json.dumps(found))


def on_openvino(path: str, height: int, width: int, threads: int, picture: object) -> Callable[[], object]:
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, 3, height, width])
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO"}
    compiled = core.compile_model(model, "CPU", options)
    return lambda: compiled(picture)


def on_onnxruntime(path: str, threads: int, picture: object) -> Callable[[], object]:
    graph = onnx.load(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The graph states a fixed size of 10x3x32x32.
    for axis, dimension in enumerate(graph.graph.input[0].type.tensor_type.shape.dim):
        dimension.dim_param = f"axis{axis}"
    for number, output in enumerate(graph.graph.output):
        for axis, dimension in enumerate(output.type.tensor_type.shape.dim):
            dimension.dim_param = f"out{number}_{axis}"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: picture})


if __name__ == "__main__":
    main()
