"""The providers: which run what, that they agree, and that what cannot run says what to do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import Settings, load
from sfumato.models import runtime
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


def test_both_providers_give_the_same_maps_at_any_size(graph):
    on = [Runtime(graph, options(provider=provider)) for provider in Provider]
    for height, width in ((32, 64), (96, 32), (32, 64)):
        picture = np.random.default_rng(width).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
        first, second = (run(picture) for run in on)
        assert first[0].shape == (1, 1, height // 4, width // 4)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


def test_outputs_are_chosen_by_name_in_the_order_asked_for(graph):
    picture = np.zeros((1, 3, 32, 32), np.float32)
    all_outputs = Runtime(graph, options())(picture)
    for provider in Provider:
        chosen = Runtime(graph, options(provider=provider), outputs=("539", "537"))(picture)
        np.testing.assert_allclose(chosen[0], all_outputs[2], atol=2e-3)
        np.testing.assert_allclose(chosen[1], all_outputs[0], atol=2e-3)


def test_the_graph_is_read_when_first_called(tmp_path):
    """A worker pays no memory for a detector that no policy wants."""
    run = Runtime(tmp_path / "absent.onnx", options())
    with pytest.raises(Exception, match="absent"):
        run(np.zeros((1, 3, 32, 32), np.float32))


def test_an_unknown_provider_is_named_with_the_known_ones(graph):
    with pytest.raises(DetectorError, match="SFUMATO_DETECTOR_PROVIDER: unknown 'tensorrt'; one of: openvino, onnxr"):
        Runtime(graph, options(provider="tensorrt"))
    with pytest.raises(ValueError, match="detector_provider"):
        Settings(detector_provider="tensorrt")


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime"])
def test_an_absent_provider_says_what_to_install(graph, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DetectorError, match=r"pip install 'sfumato\[onnx\]'"):
        Runtime(graph, options(provider="onnxruntime"))


def test_onnxruntime_refuses_a_graph_of_tensorflow(tmp_path):
    with pytest.raises(DetectorError, match=r"cannot read graph\.pb.*set it to openvino"):
        Runtime(tmp_path / "graph.pb", options(provider="onnxruntime"))
