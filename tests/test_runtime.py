"""The providers: which run what, that they agree, and that what cannot run says what to do."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import Settings, load
from sfumato.models import devices, runtime
from sfumato.models.detectors import DetectorError, DetectorOptions, Provider
from sfumato.models.runtime import Runtime
from sfumato.models.weights import WEIGHTS


@pytest.fixture(scope="module")
def graph():
    return fetch(WEIGHTS["centerface"], load().weights_dir)


def options(**values):
    return DetectorOptions(threads=1, **values)


def test_every_provider_has_its_function():
    assert set(runtime.PROVIDERS) == set(Provider)


@pytest.fixture
def capable(monkeypatch):
    """A CPU that says of itself that it computes in bfloat16; OpenVINO computes in float32 where it cannot."""
    capabilities = ["FP32", "BF16"]
    core = runtime._core()
    monkeypatch.setattr(runtime, "_core", lambda: Core(core, capabilities))
    return capabilities


class Core:
    def __init__(self, core, capabilities):
        self._core, self._capabilities = core, capabilities

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self._capabilities

    def __getattr__(self, name):
        return getattr(self._core, name)


def test_bfloat16_gives_nearly_the_same_maps_and_is_refused_where_the_cpu_cannot(graph, capable):
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    exact = Runtime(graph, options())(picture)
    for a, b in zip(exact, Runtime(graph, options(provider="openvino_bf16"))(picture), strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)
    capable.remove("BF16")
    with pytest.raises(DetectorError, match=r"does not compute in bfloat16.*set it to openvino"):
        Runtime(graph, options(provider="openvino_bf16"))


EXACT = (Provider.OPENVINO, Provider.ONNXRUNTIME)


def test_both_providers_give_the_same_maps_at_any_size(graph):
    on = [Runtime(graph, options(provider=provider)) for provider in EXACT]
    for height, width in ((32, 64), (96, 32), (32, 64)):
        picture = np.random.default_rng(width).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
        first, second = (run(picture) for run in on)
        assert first[0].shape == (1, 1, height // 4, width // 4)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


def test_outputs_are_chosen_by_name_in_the_order_asked_for(graph):
    picture = np.zeros((1, 3, 32, 32), np.float32)
    all_outputs = Runtime(graph, options())(picture)
    for provider in EXACT:
        chosen = Runtime(graph, options(provider=provider), outputs=("539", "537"))(picture)
        np.testing.assert_allclose(chosen[0], all_outputs[2], atol=2e-3)
        np.testing.assert_allclose(chosen[1], all_outputs[0], atol=2e-3)


def test_the_graph_is_read_when_first_called(tmp_path):
    """A worker pays no memory for a detector that no policy wants."""
    run = Runtime(tmp_path / "absent.onnx", options())
    with pytest.raises(Exception, match="absent"):
        run(np.zeros((1, 3, 32, 32), np.float32))


def test_an_unknown_provider_is_named_with_the_known_ones(graph):
    with pytest.raises(
        DetectorError, match="SFUMATO_DETECTOR_PROVIDER: unknown 'tensorrt'; one of: openvino, openvino_bf16, onnxr"
    ):
        Runtime(graph, options(provider="tensorrt"))
    with pytest.raises(ValueError, match="detector_provider"):
        Settings(detector_provider="tensorrt")


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime"])
def test_an_absent_provider_says_what_to_install(graph, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DetectorError, match=r"pip install '\.\[onnx\]' in"):
        Runtime(graph, options(provider="onnxruntime"))


def test_onnxruntime_refuses_a_graph_of_tensorflow(tmp_path):
    with pytest.raises(DetectorError, match=r"cannot read graph\.pb.*set it to openvino"):
        Runtime(tmp_path / "graph.pb", options(provider="onnxruntime"))


@pytest.fixture
def gpu(monkeypatch):
    """The GPU's provider on a machine without one: its lines run, and ONNX Runtime computes on the CPU."""
    import onnxruntime

    made = SimpleNamespace(asked=[], wrong=0.0)

    class Session(onnxruntime.InferenceSession):
        def __init__(self, graph, how, providers):
            self.is_gpu = not isinstance(providers[0], str)
            if self.is_gpu:
                made.asked.append(providers[0][1])
            super().__init__(graph, how, providers=["CPUExecutionProvider"])

        def run(self, *arguments):
            return [array + (made.wrong if self.is_gpu else 0.0) for array in super().run(*arguments)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(runtime, "CUDA", "CPUExecutionProvider")
    return made


def test_a_gpu_gives_the_same_maps_in_float32(graph, gpu):
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    run = Runtime(graph, options(provider="cuda", device="cuda:1"))
    (how,) = gpu.asked  # asked for before the first picture: a worker that cannot use its GPU does not start
    assert (how["device_id"], how["use_tf32"]) == ("1", "0")
    for a, b in zip(run(picture), Runtime(graph, options())(picture), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    run(picture)
    assert len(gpu.asked) == 2
    run(picture[:, :, :32])  # another shape has a session of its own: one whose shape changes is slow
    run(picture)
    assert len(gpu.asked) == 3


def test_a_gpu_that_computes_something_else_is_not_believed(graph, gpu):
    """Seen with an option of ONNX Runtime: maps without faces."""
    run = Runtime(graph, options(provider="cuda"))
    gpu.wrong = 0.1
    for _ in range(2):
        with pytest.raises(DetectorError, match=r"does not give what the CPU gives .* \(1, 3, 32, 64\)"):
            run(np.zeros((1, 3, 32, 64), np.float32))
    gpu.wrong = np.nan
    with pytest.raises(DetectorError, match="does not give"):
        run(np.zeros((1, 3, 32, 64), np.float32))


def test_without_a_gpu_cuda_does_not_turn_to_the_cpu(graph, monkeypatch):
    with pytest.raises(DetectorError, match=r"cuda needs onnxruntime-gpu.*pip install '\.\[cuda\]' in"):
        Runtime(graph, options(provider="cuda"))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [runtime.CUDA])
    with pytest.raises(DetectorError, match=r"cuda cannot use GPU 2: check `nvidia-smi`"):
        Runtime(graph, options(provider="cuda", device="cuda:2"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DetectorError, match=r"cuda needs pip install '\.\[cuda\]' in"):
        Runtime(graph, options(provider="cuda"))


def test_graphs_of_tensorflow_stay_on_the_cpu(caplog):
    caplog.set_level("INFO")
    path = fetch(WEIGHTS["ssdlite"], load().weights_dir)
    scores = ("detection_scores:0",)
    picture = np.random.default_rng(0).integers(0, 255, (1, 300, 300, 3), np.uint8)
    (found,), (same,) = (Runtime(path, options(provider=name), scores)(picture) for name in ("cuda", "openvino"))
    np.testing.assert_array_equal(found, same)
    assert "is no ONNX graph: OpenVINO runs it on the CPU" in caplog.text


def test_the_device_is_the_one_asked_for():
    assert devices.choose("auto", 0) == devices.choose("cpu", 0) == devices.choose("cpu", 2) == "cpu"
    assert devices.choose("auto", 2) == devices.choose("cuda", 2) == "cuda:0"
    assert devices.choose("cuda:1", 2) == "cuda:1"
    assert (devices.cuda_index("auto"), devices.cuda_index("cuda"), devices.cuda_index("cuda:3")) == (0, 0, 3)
    for asked, gpus in (("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)):
        with pytest.raises(DetectorError, match=rf"{asked} asked for, but {gpus} CUDA device.*set it to cpu"):
            devices.choose(asked, gpus)
    for asked in ("", "gpu", "cuda:", "cuda:-1", "0", "mps", "CUDA"):
        with pytest.raises(DetectorError, match="is not auto, cuda or cuda:N"):
            devices.choose(asked, 2)
    with pytest.raises(DetectorError, match="'cpu' is not"):
        devices.cuda_index("cpu")


@pytest.mark.parametrize("provider", EXACT)
def test_several_threads_at_once_get_each_their_own_maps(graph, provider):
    run = Runtime(graph, options(provider=provider, streams=4))
    pictures = [np.full((1, 3, 64, 64), value, np.float32) for value in range(0, 256, 8)]
    alone = [run(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, pictures * 4))
    for one, other in zip(alone * 4, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_output_that_is_not_finite_raises(graph, monkeypatch):
    """It would be a picture without faces: nothing compares as greater than a NaN."""
    answer = [np.zeros(4, np.float32), np.array([0, np.nan], np.float32)]
    monkeypatch.setitem(runtime.PROVIDERS, Provider.OPENVINO, lambda *_: lambda: lambda _: answer)
    with pytest.raises(RuntimeError, match="not finite"):
        Runtime(graph, options())(np.zeros((1, 3, 32, 32), np.float32))
