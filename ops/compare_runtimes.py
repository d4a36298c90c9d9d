"""What runs CenterFace's graph the fastest: the figures of docs/decisions/0006-openvino.md.

Providers, OpenVINO's bfloat16 and a batch of four, in turn. Needs the extra ``test`` (onnx, onnxruntime). Prints one
JSON object: median milliseconds per picture.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import openvino

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models.detectors import DetectorOptions, Provider
from sfumato.models.runtime import Runtime
from sfumato.models.weights import WEIGHTS

SIZES = ((288, 640), (544, 960))
BATCH = 4
ROUNDS = 5


def main() -> None:
    path = fetch(WEIGHTS["centerface"], load().weights_dir)
    found: dict[str, dict[str, float]] = {}
    for threads in (1, 2):
        on = {provider: Runtime(path, DetectorOptions(threads=threads, provider=provider)) for provider in Provider}
        for height, width in SIZES:
            batch = np.random.default_rng(0).uniform(0, 255, (BATCH, 3, height, width)).astype(np.float32)
            runs: dict[str, Callable[[], object]] = {name: partial(run, batch[:1]) for name, run in on.items()}
            runs["openvino, bfloat16"] = partial(in_bfloat16(str(path), threads, batch[:1].shape), batch[:1])
            runs["openvino, batch of 4"] = partial(on[Provider.OPENVINO], batch)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(ROUNDS + 1):  # the first one compiles
                for name, run in runs.items():
                    started = time.perf_counter()
                    run()
                    if number:
                        times[name].append((time.perf_counter() - started) * 1000 / (BATCH if "batch" in name else 1))
            key = f"{width}x{height}, {threads} threads"
            found[key] = {name: round(statistics.median(values), 1) for name, values in times.items()}
    print(
        json.dumps(
            {
                "ms_per_picture": found,
                "cpu_computes_in": openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
            }
        )
    )


def in_bfloat16(path: str, threads: int, shape: tuple[int, ...]) -> Callable[[object], object]:
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO"}
    compiled: Callable[[object], object] = core.compile_model(
        model, "CPU", {**options, "INFERENCE_PRECISION_HINT": "bf16"}
    )
    return compiled


if __name__ == "__main__":
    main()
