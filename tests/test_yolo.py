"""The ultralytics detector, on a CPU, with a YOLO whose weights this file sets so that it really detects:
red blocks of 16 pixels are faces, blue ones licence plates, each with a box of 32 pixels around its middle."""

import os
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from sfumato.models import detectors, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorError, DetectorOptions
from sfumato.models.yolo import CLASSES, MOST_BOXES, Yolo, map_classes
from sfumato.schemas.detection import Target

pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="the extra gpu is not installed")

DEVICE = os.environ.get("SFUMATO_TEST_DEVICE", "cpu")
"""On a machine with a GPU: ``SFUMATO_TEST_DEVICE=cuda``."""

RED, BLUE = (0, 0, 255), (255, 0, 0)
FACE, PLATE = Target.FACE, Target.LICENCE_PLATE
NAMES = {0: "face", 1: "License_Plate"}


def build(path, names=NAMES, end2end=False):
    """Cells of 8x8 pixels: how red, how blue; each kept as it is to the scores; every box two cells to each side."""
    from sfumato.models import yolo

    _, torch = yolo._ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    layout = {"nc": len(names), "end2end": end2end, "reg_max": 16, "ch": 3}
    layout |= {"backbone": [[-1, 1, "Conv", [16, 8, 8, 0]]], "head": [[[0], 1, "Detect", [len(names)]]]}
    model = DetectionModel(layout, verbose=False)
    head = model.model[-1]
    with torch.no_grad():
        first = model.model[0].conv.weight.zero_()
        for channel, (plus, minus) in enumerate([(0, 2), (2, 0)]):  # the model sees red, green, blue
            first[channel, plus], first[channel, minus] = 1 / 64, -1 / 64
        pairs = [(head.cv2, head.cv3)] + ([(head.one2one_cv2, head.one2one_cv3)] if end2end else [])
        for boxes, scores in pairs:
            for layer in scores.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    middle = layer.kernel_size[0] // 2
                    layer.weight.zero_()
                    for i in range(layer.out_channels):
                        if layer.groups > 1 or i < layer.in_channels:
                            layer.weight[i, 0 if layer.groups > 1 else i, middle, middle] = 1
            scores[0][-1].weight.mul_(60)
            scores[0][-1].bias.fill_(-8)
            boxes[0][-1].weight.zero_()
            boxes[0][-1].bias.view(4, 16).fill_(-20)[:, 2] = 20
    model.names, model.task = names, "detect"
    model.args = {"task": "detect", "imgsz": 640}
    torch.save({"model": model, "train_args": {"task": "detect"}}, path)
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return build(tmp_path_factory.mktemp("yolo") / "blocks.pt")


def make(path, **options):
    return detectors.make(
        "ultralytics", DetectorOptions(**{"device": DEVICE, "threads": 1, "model": str(path), **options})
    )


@pytest.fixture(scope="module")
def detector(model_file):
    return make(model_file)


def picture(height, width, *blocks, side=16):
    image = np.full((height, width, 3), 90, np.uint8)
    for colour, x, y in blocks:
        image[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = colour
    return image


def best(found, target):
    """The box of the surest detection of that target."""
    return max((d for d in found if d.target == target and d.score > 0.5), key=lambda d: d.score).box


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_finds_each_class_where_it_is(detector, model_file):
    assert detector.name == "ultralytics"
    assert detector.targets == {FACE, PLATE}
    assert detector.weights_sha256 == weights.sha256(model_file)
    (found,) = detector.detect([picture(360, 640, (RED, 100, 60), (BLUE, 520, 300))])
    assert {d.target for d in found} == {FACE, PLATE}
    assert best(found, FACE) == pytest.approx((84, 44, 116, 76), abs=8)
    assert best(found, PLATE) == pytest.approx((504, 284, 536, 316), abs=8)
    assert all(LOWEST_SCORE <= d.score <= 1 for d in found)


def test_nothing_is_found_where_nothing_is(detector):
    assert detector.detect([picture(100, 100)]) == [()]
    assert detector.detect([]) == []


def test_a_batch_of_different_sizes_keeps_its_order_and_pixels(detector):
    places = [(72, 40, 120, 200), (400, 200, 360, 640), (40, 440, 500, 90), (200, 24, 57, 333)]
    images = [picture(height, width, (RED, x, y)) for x, y, height, width in places]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        results = detector.detect([images[i] for i in order])
        assert [middle(best(found, FACE)) for found in results] == [pytest.approx(places[i][:2], abs=6) for i in order]
    assert [len(found) for found in detector.detect([images[0], picture(64, 64), images[1]])][1] == 0


def test_large_pictures_are_shrunk_and_boxes_scaled_back(model_file):
    large = picture(1080, 1920, (BLUE, 1600, 200), side=96)  # 16 pixels once shrunk to 320
    (found,) = make(model_file, long_side=320).detect([large])
    assert best(found, PLATE) == pytest.approx((1504, 104, 1696, 296), abs=40)


def test_boxes_end_at_the_picture(detector):
    (found,) = detector.detect([picture(90, 130, (RED, 122, 82), (BLUE, 8, 8))])
    assert best(found, FACE)[2:] == (130, 90)
    assert best(found, PLATE)[:2] == (0, 0)


def test_more_objects_than_the_engine_accepts_are_all_reported(detector):
    blocks = [(RED, x, y) for x in range(20, 1260, 40) for y in range(20, 700, 40)]
    (found,) = detector.detect([picture(720, 1280, *blocks)])
    assert 500 < len(blocks) <= len(found) <= MOST_BOXES


def test_classes_that_are_no_target_are_left_out(tmp_path):
    detector = make(build(tmp_path / "half.pt", {0: "dog", 1: "number-plate"}))
    assert detector.targets == {PLATE}
    (found,) = detector.detect([picture(96, 96, (RED, 20, 20), (BLUE, 70, 70))])
    assert {d.target for d in found} == {PLATE}


def test_a_model_that_chooses_its_own_boxes(tmp_path):
    """Its export reports 300 boxes at most: a crowd must not end there unnoticed."""
    from ultralytics import YOLO

    checkpoint = build(tmp_path / "end2end.pt", end2end=True)
    exported = make(YOLO(checkpoint).export(format="onnx", imgsz=320, nms=False, simplify=False))
    assert exported._model.predictor.model.end2end
    for detector in (make(checkpoint), exported):
        (found,) = detector.detect([picture(128, 320, (RED, 200, 60))])
        assert middle(best(found, FACE)) == pytest.approx((200, 60), abs=8)
    with pytest.raises(RuntimeError, match="300 objects, and did: there may be more"):
        exported.detect([np.full((320, 320, 3), RED, np.uint8)])


def test_output_that_is_not_finite_raises(tmp_path, detector):
    from sfumato.models import yolo

    _, torch = yolo._ultralytics()
    path = build(tmp_path / "nan.pt")
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["model"].model[-1].cv3[0][-1].bias.data.fill_(float("nan"))
    torch.save(checkpoint, path)
    with pytest.raises(DetectorError, match="not finite"):
        make(path)


def test_threads_are_limited(model_file):
    import torch

    for threads in (1, 2):
        make(model_file, threads=threads).detect([picture(64, 64)])
        assert torch.get_num_threads() == threads


def test_an_onnx_export_finds_the_same(tmp_path, model_file, detector):
    from ultralytics import YOLO

    image = picture(320, 320, (RED, 100, 60), (BLUE, 250, 300))
    wide = picture(180, 400, (BLUE, 300, 100))
    copy = shutil.copy(model_file, tmp_path / "blocks.pt")
    for batch, dynamic in ((2, False), (1, True)):
        path = YOLO(copy).export(format="onnx", imgsz=320, batch=batch, dynamic=dynamic, simplify=False)
        exported = make(path)
        assert exported.targets == {FACE, PLATE}
        found, second, third = exported.detect([image, image, wide])
        assert best(found, FACE) == pytest.approx(best(detector.detect([image])[0], FACE), abs=16)
        assert middle(best(second, PLATE)) == pytest.approx((250, 300), abs=16)
        assert middle(best(third, PLATE)) == pytest.approx((300, 100), abs=16)
    path = YOLO(copy).export(format="onnx", imgsz=320, nms=True, simplify=False)
    with pytest.raises(DetectorError, match="nms=True"):
        make(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "is not set"),
        ("absent.pt", "never downloaded"),
        ("yolo11n.pt", "never downloaded"),
        ("https://example.org/a.pt", "never downloaded"),
        (".", "is a folder"),
        ("notes.txt", "does not end in one of .engine, .onnx, .pt"),
    ],
)
def test_a_model_that_is_no_file_is_refused(name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DetectorError, match=text):
        make(name)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_file_that_is_no_yolo_is_refused_and_not_run(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage.pt").write_bytes(b"\0garbage" * 100)
    (tmp_path / "garbage.onnx").write_bytes(b"\0garbage" * 100)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    for name in ("garbage.pt", "garbage.onnx", "pickle.pt", "evil.pt"):
        with pytest.raises(DetectorError, match=f"cannot use .*{name} on {DEVICE}"):
            make(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_a_model_without_a_target_lists_its_classes(tmp_path):
    with pytest.raises(DetectorError, match=r"none of the model's classes is a target .*: dog, cat"):
        make(build(tmp_path / "pets.pt", {0: "dog", 1: "cat"}))


def test_a_tensorrt_engine_needs_a_gpu_and_its_package(tmp_path, monkeypatch):
    from sfumato.models import yolo

    path = tmp_path / "model.engine"
    path.write_bytes(b"\0")
    with pytest.raises(DetectorError, match="runs on cuda only"):
        make(path, device="cpu")
    monkeypatch.setattr(yolo, "find_spec", lambda name: None)
    with pytest.raises(DetectorError, match="pip install tensorrt"):
        yolo._check_runtime(path, "cuda:0")
    with pytest.raises(DetectorError, match="pip install onnxruntime-gpu"):
        yolo._check_runtime(tmp_path / "model.onnx", "cuda:0")
    with pytest.raises(DetectorError, match=r"pip install onnxruntime$"):
        yolo._check_runtime(tmp_path / "model.onnx", "cpu")


def test_cuda_is_refused_where_there_is_none(model_file, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DetectorError, match="0 CUDA device"):
        make(model_file, device="cuda")


def test_a_model_that_went_to_another_device_is_refused(model_file, monkeypatch):
    """ONNX Runtime without its CUDA provider goes on on the CPU: Ultralytics warns, sfumato refuses."""
    predict = Yolo._predict

    def elsewhere(self, canvases):
        result = predict(self, canvases)
        self._model.predictor.device = SimpleNamespace(type="meta")
        return result

    monkeypatch.setattr(Yolo, "_predict", elsewhere)
    with pytest.raises(DetectorError, match=f"not on {DEVICE}"):
        make(model_file)


def test_class_names_are_matched_however_they_are_written():
    names = {
        0: "Face",
        1: "license_plate",
        2: "Licence-Plate",
        3: "Number Plate",
        4: "plate",
        5: "PERSON",
        6: "bicycle",
    }
    names |= {7: "truck", 8: "motorcycle", 9: "bus", 10: "car", 11: "surface", 12: "template"}
    targets = [FACE, PLATE, PLATE, PLATE, PLATE, Target.PERSON] + [Target.VEHICLE] * 5
    assert map_classes(names) == dict(enumerate(targets))
    aliases = [alias for names in CLASSES.values() for alias in names]
    assert len(aliases) == len(set(aliases))


def test_no_network_no_pip_no_settings(model_file, tmp_path):
    """A fresh interpreter in which every look-up of a name and every subprocess raises; HOME stays empty,
    and the threads of OpenCV and OpenMP are left as they were."""
    code = """
import sys
def hook(event, arguments):
    # torch asks for the C compiler and the processor; nothing may ask for pip or a name on the network
    if event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname"):
        print("NETWORK", event, arguments, flush=True)
    if event in ("subprocess.Popen", "os.system") and "pip" in str(arguments):
        print("PIP", arguments, flush=True)
sys.addaudithook(hook)
import os, cv2, numpy
from sfumato.models import detectors
before = cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
options = detectors.DetectorOptions(device="cpu", threads=1, model=sys.argv[1])
found = detectors.make("ultralytics", options).detect([numpy.full((64, 64, 3), (0, 0, 255), numpy.uint8)])
print("FOUND", len(found[0]) > 0, (cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")) == before)
"""
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("YOLO_", "PYTEST_", "XDG_"))}
    run = subprocess.run(
        [sys.executable, "-c", code, str(model_file)],
        env={**kept, "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.splitlines() == ["FOUND True True"], run.stdout + run.stderr
    assert {path.name for path in home.iterdir()} <= {".nv"}  # CUDA's own cache, where there is a GPU


def test_ultralytics_imported_before_is_refused(model_file):
    code = """
import sys, ultralytics
from sfumato.models import detectors
try:
    detectors.make("ultralytics", detectors.DetectorOptions(device="cpu", model=sys.argv[1]))
except detectors.DetectorError as error:
    print(error)
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ULTRALYTICS_", "YOLO_"))}
    run = subprocess.run(
        [sys.executable, "-c", code, str(model_file)],
        env={**kept, "YOLO_CONFIG_DIR": str(model_file.parent), "YOLO_OFFLINE": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "import it later" in run.stdout, run.stdout + run.stderr
