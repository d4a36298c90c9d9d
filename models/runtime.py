"""Runs a graph by one of the providers; the only place that knows OpenVINO or ONNX Runtime.

Which is the faster one on a CPU, and by how much: ``docs/decisions/0006-openvino.md``; on a GPU: ``docs/gpu.md``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.models import devices
from sfumato.models.detectors import DetectorError, DetectorOptions, Provider

log = logging.getLogger(__name__)

Array = NDArray[Any]
Call = Callable[[Array], list[Array]]
Load = Callable[[], Call]

COMPILED_SHAPES = 16
"""Input shapes whose compiled model is kept, per graph. Callers keep their shapes few: sides in steps, tiles of
one size."""
SELDOM = 8
"""So often a shape goes through a model for any height and width, before it gets a compiled model of its own: that one
is faster, but photographs come in as many sizes as there are cameras."""
SIDE = 32
"""A smaller axis of an input is the batch or the channels."""


class Runtime:
    """One graph with one input. It is read when first called, so that a detector no policy wants costs no memory.
    ``options.streams`` threads may call it at once.

    ``outputs``: the names of those wanted, in order; none: all, in the graph's order.
    Raises :class:`DetectorError` where the provider is unknown or absent, or cannot read such a graph.
    """

    def __init__(self, path: Path, options: DetectorOptions, outputs: Sequence[str] = ()) -> None:
        try:
            provider = PROVIDERS[Provider(options.provider)]
        except ValueError:
            known = ", ".join(Provider)
            raise DetectorError(f"SFUMATO_DETECTOR_PROVIDER: unknown {options.provider!r}; one of: {known}") from None
        self._load = provider(path, options, tuple(outputs))
        self._lock = Lock()
        self._call: Call | None = None

    def __call__(self, batch: Array) -> list[Array]:
        """``batch`` in the type and layout of the graph's input, of any size that the graph allows. Raises RuntimeError
        where what comes out is not finite: a detector would take it for a picture without objects."""
        with self._lock:
            if self._call is None:
                self._call = self._load()
        found = self._call(batch)
        if not all(np.isfinite(array).all() for array in found):
            raise RuntimeError("the network's output is not finite")
        return found


def _openvino(path: Path, options: DetectorOptions, outputs: tuple[str, ...], *, precision: str = "f32") -> Load:
    """Reads ONNX and TensorFlow's frozen graphs."""
    # By itself it takes one thread per physical core, which on a virtual machine may be half of them; and other
    # processes share the cores, so threads are not pinned to them. On CPUs that can it computes in bfloat16; here the
    # same picture gives the same boxes on every machine.
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": str(_threads(options)),
        "NUM_STREAMS": str(options.streams),
        "INFERENCE_PRECISION_HINT": precision,
    }

    def load() -> Call:
        core = _core()
        graph = core.read_model(path)
        seen: Counter[tuple[int, ...]] = Counter()

        @lru_cache(COMPILED_SHAPES)
        def compiled(shape: tuple[int, ...]) -> SimpleQueue[Any]:
            """A request for each stream; one takes one picture at a time."""
            model = graph.clone()
            model.reshape(list(shape))
            runnable = core.compile_model(model, "CPU", config)
            idle: SimpleQueue[Any] = SimpleQueue()
            for _ in range(options.streams):
                idle.put(runnable.create_infer_request())
            return idle

        def fit(shape: tuple[int, ...]) -> SimpleQueue[Any]:
            seen[shape] += 1
            return compiled(shape if seen[shape] > SELDOM else tuple(side if side < SIDE else -1 for side in shape))

        def call(batch: Array) -> list[Array]:
            idle = fit(batch.shape)
            request = idle.get()
            try:
                result = request.infer(batch, share_inputs=True)
            finally:
                idle.put(request)
            return [np.asarray(result[key]) for key in outputs or range(len(result))]

        return call

    return load


def _openvino_bf16(path: Path, options: DetectorOptions, outputs: tuple[str, ...]) -> Load:
    if "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DetectorError(
            "SFUMATO_DETECTOR_PROVIDER: this CPU does not compute in bfloat16, so openvino_bf16 would be no faster; "
            "set it to openvino"
        )
    return _openvino(path, options, outputs, precision="bf16")


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _onnxruntime(path: Path, options: DetectorOptions, outputs: tuple[str, ...]) -> Load:
    if path.suffix != ".onnx":
        raise DetectorError(
            f"SFUMATO_DETECTOR_PROVIDER: onnxruntime cannot read {path.name}, which is no ONNX graph; "
            "set it to openvino, or leave that detector out of SFUMATO_DETECTORS"
        )
    modules = _onnx("onnxruntime", "onnx")
    return lambda: _call(_session(modules, path, options, ["CPUExecutionProvider"]), outputs)


CUDA = "CUDAExecutionProvider"
EXACT = {
    "use_tf32": "0",  # on by default: it rounds what is multiplied to 10 bits
    "cudnn_conv_algo_search": "HEURISTIC",  # does not try all of them for each shape
    "arena_extend_strategy": "kSameAsRequested",  # takes less memory, for every shape has a session of its own
}
"""As exact as the CPU. ``fuse_conv_bias``, which would plan sooner, gave wrong maps (``docs/gpu.md``)."""
TOLERANCE = 0.01
"""By so much, absolute or relative, what the GPU gives may differ from what the CPU gives."""


def _cuda(path: Path, options: DetectorOptions, outputs: tuple[str, ...]) -> Load:
    """ONNX graphs on a GPU, in float32 as on the CPU. OpenVINO runs those of TensorFlow, which ONNX Runtime cannot
    read, on the CPU: to leave out what they find would be worse."""
    if path.suffix != ".onnx":
        log.info("%s is no ONNX graph: OpenVINO runs it on the CPU", path.name)
        return _openvino(path, options, outputs)
    modules = _onnx("cuda", "cuda")
    onnxruntime = modules[1]
    if CUDA not in onnxruntime.get_available_providers():
        raise DetectorError(
            "SFUMATO_DETECTOR_PROVIDER: cuda needs onnxruntime-gpu, and onnxruntime is installed: pip uninstall "
            "onnxruntime, then pip install '.[cuda]' in sfumato's checkout"
        )
    onnxruntime.preload_dlls()  # CUDA's libraries, from the packages that pip installed
    _cuda_session(modules, path, options)  # a worker that cannot use its GPU does not start
    on_cpu = cache(lambda: _session(modules, path, options, ["CPUExecutionProvider"]))

    # A session plans its convolutions anew whenever the shape of its input changes, CenterFace's in more than a second.
    @lru_cache(COMPILED_SHAPES)
    def planned(shape: tuple[int, ...]) -> Call:
        session = _cuda_session(modules, path, options)
        _check(session, on_cpu(), shape)
        return _call(session, outputs)

    return lambda: lambda batch: planned(batch.shape)(batch)


def _check(on_gpu: Any, on_cpu: Any, shape: tuple[int, ...]) -> None:
    """Whether a GPU's plan for inputs of this shape computes what the graph says: a wrong one would find no face."""
    noise = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    for ours, theirs in zip(_call(on_gpu, ())(noise), _call(on_cpu, ())(noise), strict=True):
        if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
            raise DetectorError(f"the GPU does not give what the CPU gives for an input of shape {shape}")


def _cuda_session(modules: tuple[Any, Any], path: Path, options: DetectorOptions) -> Any:
    index = devices.cuda_index(options.device)
    session = _session(modules, path, options, [(CUDA, {**EXACT, "device_id": str(index)})])
    if CUDA not in session.get_providers():  # it has turned to the CPU
        raise DetectorError(
            f"SFUMATO_DETECTOR_PROVIDER: cuda cannot use GPU {index}: check `nvidia-smi`, that the container is given "
            "the GPU, and that its driver fits CUDA and cuDNN (docs/gpu.md); or set it to openvino"
        )
    return session


def _onnx(provider: str, extra: str) -> tuple[Any, Any]:
    """The modules onnx and onnxruntime."""
    try:
        return import_module("onnx"), import_module("onnxruntime")
    except ImportError as error:
        raise DetectorError(
            f"SFUMATO_DETECTOR_PROVIDER: {provider} needs pip install '.[{extra}]' in sfumato's checkout ({error})"
        ) from error


def _session(modules: tuple[Any, Any], path: Path, options: DetectorOptions, providers: Sequence[Any]) -> Any:
    onnx, onnxruntime = modules
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = _threads(options)
    how.log_severity_level = 3
    graph = _any_size(onnx.load(str(path)))
    return onnxruntime.InferenceSession(graph.SerializeToString(), how, providers=providers)


def _call(session: Any, outputs: tuple[str, ...]) -> Call:
    (source,) = session.get_inputs()
    return lambda batch: [np.asarray(array) for array in session.run(list(outputs) or None, {source.name: batch})]


def _threads(options: DetectorOptions) -> int:
    return options.threads or os.cpu_count() or 1


def _any_size(graph: Any) -> Any:
    """The graph with batch, height and width left open; CenterFace's states a fixed 10x3x32x32."""
    for number, values in enumerate((graph.graph.input, graph.graph.output)):
        for value in values:
            for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
                if number or axis != 1:  # the channels stay
                    dimension.dim_param = f"{value.name}_{axis}"
    return graph


PROVIDERS: dict[Provider, Callable[[Path, DetectorOptions, tuple[str, ...]], Load]] = {
    Provider.OPENVINO: _openvino,
    Provider.OPENVINO_BF16: _openvino_bf16,
    Provider.ONNXRUNTIME: _onnxruntime,
    Provider.CUDA: _cuda,
}
"""Each checks at once what it needs and reads the graph later."""
