"""Runs a graph on the CPU by one of the providers; the only place that knows OpenVINO or ONNX Runtime.

Which is the faster one, and by how much: ``docs/decisions/0006-openvino.md``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.models.detectors import DetectorError, DetectorOptions, Provider

Array = NDArray[Any]
Call = Callable[[Array], list[Array]]

COMPILED_SHAPES = 16
"""Input shapes whose compiled model OpenVINO keeps, per graph. Callers keep their shapes few: sides in steps, tiles of
one size."""
SELDOM = 8
"""So often a shape goes through a model for any height and width, before it gets a compiled model of its own: that one
is faster, but photographs come in as many sizes as there are cameras."""
SIDE = 32
"""A smaller axis of an input is the batch or the channels."""


class Runtime:
    """One graph with one input. It is read when first called, so that a detector no policy wants costs no memory.

    ``outputs``: the names of those wanted, in order; none: all, in the graph's order.
    Raises :class:`DetectorError` where the provider is unknown or absent, or cannot read such a graph.
    """

    def __init__(self, path: Path, options: DetectorOptions, outputs: Sequence[str] = ()) -> None:
        try:
            provider = PROVIDERS[Provider(options.provider)]
        except ValueError:
            known = ", ".join(Provider)
            raise DetectorError(f"SFUMATO_DETECTOR_PROVIDER: unknown {options.provider!r}; one of: {known}") from None
        threads = options.threads or os.cpu_count() or 1
        self._load = provider(path, threads, tuple(outputs))
        self._lock = Lock()
        self._call: Call | None = None

    def __call__(self, batch: Array) -> list[Array]:
        """``batch`` in the type and layout of the graph's input, of any size that the graph allows."""
        with self._lock:
            if self._call is None:
                self._call = self._load()
        return self._call(batch)


def _openvino(path: Path, threads: int, outputs: tuple[str, ...], *, precision: str = "f32") -> Callable[[], Call]:
    """Reads ONNX and TensorFlow's frozen graphs."""
    # By itself it takes one thread per physical core, which on a virtual machine may be half of them; and other
    # processes share the cores, so threads are not pinned to them. On CPUs that can it computes in bfloat16; here the
    # same picture gives the same boxes on every machine.
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": precision,
    }

    def load() -> Call:
        core = _core()
        graph = core.read_model(path)
        seen: Counter[tuple[int, ...]] = Counter()

        @lru_cache(COMPILED_SHAPES)
        def compiled(shape: tuple[int, ...]) -> Any:
            model = graph.clone()
            model.reshape(list(shape))
            return core.compile_model(model, "CPU", config)

        def fit(shape: tuple[int, ...]) -> Any:
            seen[shape] += 1
            return compiled(shape if seen[shape] > SELDOM else tuple(side if side < SIDE else -1 for side in shape))

        def call(batch: Array) -> list[Array]:
            result = fit(batch.shape)(batch)
            return [np.asarray(result[key]) for key in outputs or range(len(result))]

        return call

    return load


def _openvino_bf16(path: Path, threads: int, outputs: tuple[str, ...]) -> Callable[[], Call]:
    if "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DetectorError(
            "SFUMATO_DETECTOR_PROVIDER: this CPU does not compute in bfloat16, so openvino_bf16 would be no faster; "
            "set it to openvino"
        )
    return _openvino(path, threads, outputs, precision="bf16")


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _onnxruntime(path: Path, threads: int, outputs: tuple[str, ...]) -> Callable[[], Call]:
    if path.suffix != ".onnx":
        raise DetectorError(
            f"SFUMATO_DETECTOR_PROVIDER: onnxruntime cannot read {path.name}, which is no ONNX graph; "
            "set it to openvino, or leave that detector out of SFUMATO_DETECTORS"
        )
    try:
        onnx, onnxruntime = import_module("onnx"), import_module("onnxruntime")
    except ImportError as error:
        raise DetectorError(
            f"SFUMATO_DETECTOR_PROVIDER: onnxruntime needs pip install 'sfumato[onnx]' ({error})"
        ) from error

    def load() -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        graph = _any_size(onnx.load(str(path)))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        return lambda batch: [np.asarray(array) for array in session.run(list(outputs) or None, {source.name: batch})]

    return load


def _any_size(graph: Any) -> Any:
    """The graph with batch, height and width left open; CenterFace's states a fixed 10x3x32x32."""
    for number, values in enumerate((graph.graph.input, graph.graph.output)):
        for value in values:
            for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
                if number or axis != 1:  # the channels stay
                    dimension.dim_param = f"{value.name}_{axis}"
    return graph


PROVIDERS: dict[Provider, Callable[[Path, int, tuple[str, ...]], Callable[[], Call]]] = {
    Provider.OPENVINO: _openvino,
    Provider.OPENVINO_BF16: _openvino_bf16,
    Provider.ONNXRUNTIME: _onnxruntime,
}
"""Each checks at once what it needs and reads the graph later."""
