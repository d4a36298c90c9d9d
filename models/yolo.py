"""Any Ultralytics YOLO detection model, on a GPU or a CPU. Needs the extra ``gpu`` (AGPL-3.0: ``docs/licences.md``).

Ultralytics looks up names on the network when imported, sends usage events, downloads what it misses, installs
packages with pip and unpickles whatever a .pt file holds. All of that is off here, or the detector is not made.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sfumato.models import devices, weights
from sfumato.models.detectors import LOWEST_SCORE, DetectorError, DetectorOptions, Image, Smallest, Threshold
from sfumato.schemas.detection import Detection, DetectorName, Target

log = logging.getLogger(__name__)

MULTIPLE = 32
"""Sides of the canvas are a multiple of this, in pixels: the largest stride of the usual models."""
GREY = 114
"""What the models saw around pictures when they were trained."""
MOST_BOXES = 1000
"""Kept per picture; more than the engine accepts, so that it notices a crowd that was cut off."""
SUFFIXES = (".engine", ".onnx", ".pt")

CLASSES: dict[Target, frozenset[str]] = {
    Target.FACE: frozenset({"face", "faces", "human face", "head", "human head"}),
    Target.LICENCE_PLATE: frozenset(
        {"licence plate", "license plate", "licenceplate", "licenseplate", "number plate", "numberplate", "plate"}
        | {"car plate", "registration plate", "vehicle registration plate"}
    ),
    Target.PERSON: frozenset(
        {"person", "persons", "people", "pedestrian", "human", "human body", "man", "woman", "boy", "girl", "child"}
        | {"rider", "cyclist"}
    ),
    Target.VEHICLE: frozenset(
        {"vehicle", "car", "truck", "lorry", "bus", "van", "taxi", "trailer", "caravan", "motorcycle", "motorbike"}
        | {"motor", "moped", "scooter", "bicycle", "bike", "tricycle"}
    ),
}
"""Class names of models, in small letters, words parted by one space."""


class Yolo:
    name = DetectorName.ULTRALYTICS
    threshold = Threshold(0.1)

    def __init__(self, options: DetectorOptions) -> None:
        """:class:`DetectorError` where the model, the device or the extra will not do; nothing is downloaded."""
        path = _model_file(options.model)
        ultralytics, torch = _ultralytics()
        device = devices.choose(options.device, torch.cuda.device_count() if torch.cuda.is_available() else 0)
        _check_runtime(path, device)
        self.weights_sha256 = weights.sha256(path)
        self._long_side = options.long_side
        self._threads = options.threads or os.cpu_count() or 1
        self._torch = torch
        self._arguments = {
            "predictor": _predictor(),
            "device": device.removeprefix("cuda:"),
            "quantize": 16 if device.startswith("cuda") else None,
            "conf": LOWEST_SCORE,
            "max_det": MOST_BOXES,
            "rect": True,
            "save": False,
            "verbose": False,
        }
        try:
            self._model = ultralytics.YOLO(str(path))
            if type(self._model) is not ultralytics.YOLO or self._model.task != "detect":
                raise DetectorError(
                    f"{path} is no YOLO detection model: {_kind(self._model)}; give one trained to detect"
                )
            self._predict([np.full((MULTIPLE, MULTIPLE, 3), GREY, np.uint8)])
        except DetectorError:
            raise
        except Exception as error:
            raise DetectorError(f"cannot use {path} on {device}: {type(error).__name__}: {error}") from error
        backend = self._model.predictor.model
        if self._model.predictor.device.type != device.split(":")[0]:
            raise DetectorError(f"{path} would run on {self._model.predictor.device}, not on {device}")
        if backend.metadata.get("args", {}).get("nms"):
            raise DetectorError(f"{path} was exported with nms=True, which fixes its score threshold; export without")
        self._targets = map_classes(backend.names)
        self.targets = frozenset(self._targets.values())
        log.info("ultralytics: %s on %s for %s", path.name, device, ", ".join(sorted(self.targets)))

    def detect(self, images: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        """Raises RuntimeError where the model's output cannot be trusted to be complete."""
        if not images:
            return []
        shrunk = [_shrink(image, self._long_side) for image in images]
        height, width = (max(image.shape[axis] for image in shrunk) for axis in (0, 1))
        results = self._predict([_pad(image, _up(height), _up(width)) for image in shrunk])
        return [
            self._detections(result, image.shape[1] / small.shape[1], image.shape[0] / small.shape[0], image)
            for result, small, image in zip(results, shrunk, images, strict=True)
        ]

    def _predict(self, canvases: list[Image]) -> list[Any]:
        """One result per canvas, in order, boxes in the canvas's pixels."""
        self._torch.set_num_threads(self._threads)  # Ultralytics sets its own number when it loads a model
        results: list[Any] = self._model.predict(canvases, imgsz=canvases[0].shape[:2], **self._arguments)
        return results

    def _detections(self, result: Any, x: float, y: float, image: Image) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        boxes = result.boxes.xyxy.cpu().numpy().astype(np.float64) * (x, y, x, y)
        boxes = boxes.clip(0, (width, height, width, height)).round(1)
        found = zip(boxes.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True)
        return tuple(
            Detection(target=self._targets[int(index)], score=min(1.0, round(score, 3)), box=(x0, y0, x1, y1))
            for (x0, y0, x1, y1), score, index in found
            if int(index) in self._targets and x1 > x0 and y1 > y0
        )


def map_classes(names: Mapping[int, str]) -> dict[int, Target]:
    """Class index to target, for the classes that are one; DetectorError where none is."""
    known = {name: target for target, aliases in CLASSES.items() for name in aliases}
    plain = {index: re.sub(r"[\s_-]+", " ", name).strip().lower() for index, name in names.items()}
    found = {index: known[name] for index, name in plain.items() if name in known}
    if not found:
        listed = ", ".join(list(names.values())[:20]) + (", ..." if len(names) > 20 else "")
        raise DetectorError(
            f"none of the model's classes is a target ({', '.join(sorted(Target))}): {listed}; "
            "give a model with class names that docs/gpu.md lists"
        )
    return found


def _model_file(model: str) -> Path:
    if not model:
        raise DetectorError("SFUMATO_DETECTOR_MODEL is not set: the ultralytics detector needs the path of a model")
    path = Path(model)
    if path.is_dir():
        raise DetectorError(f"SFUMATO_DETECTOR_MODEL: {model} is a folder; give one file: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DetectorError(f"SFUMATO_DETECTOR_MODEL: no file {model}; models are never downloaded, put it there")
    if path.suffix not in SUFFIXES:
        raise DetectorError(f"SFUMATO_DETECTOR_MODEL: {model} does not end in one of {', '.join(SUFFIXES)}")
    return path.resolve()


def _check_runtime(path: Path, device: str) -> None:
    """Ultralytics would install what a format needs, or turn to another device; here either is an error."""
    if path.suffix == ".engine" and device == "cpu":
        raise DetectorError(f"{path} is a TensorRT engine and runs on cuda only; set SFUMATO_DETECTOR_DEVICE to cuda")
    module, package = {".engine": ("tensorrt", "tensorrt"), ".onnx": ("onnxruntime", "onnxruntime")}.get(
        path.suffix, ("torch", "torch")
    )
    if find_spec(module) is None:
        on_gpu = "-gpu" if path.suffix == ".onnx" and device != "cpu" else ""
        raise DetectorError(f"{path.suffix} models need a package that is absent: pip install {package}{on_gpu}")


def _ultralytics() -> tuple[Any, Any]:
    """The modules ultralytics and torch, the former cut off from the network, pip, pickles and the user's settings."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", ULTRALYTICS_SAFE_LOAD="true", YOLO_VERBOSE="false")
    threads = cv2.getNumThreads()
    openmp = os.environ.get("OMP_NUM_THREADS")
    try:
        with tempfile.TemporaryDirectory(prefix="sfumato-") as folder:
            configured = os.environ.get("YOLO_CONFIG_DIR")
            os.environ["YOLO_CONFIG_DIR"] = folder  # it writes its settings on import
            try:
                import torch
                import torchvision  # noqa: F401 - its suppression of overlapping boxes is the faster one
                import ultralytics
                from ultralytics import utils
            finally:
                _restore("YOLO_CONFIG_DIR", configured)
    except ImportError as error:
        raise DetectorError(
            f"the ultralytics detector needs pip install '.[gpu]' in sfumato's checkout ({error})"
        ) from error
    finally:
        _restore("OMP_NUM_THREADS", openmp)
        cv2.setNumThreads(threads)  # it sets 0
    if utils.ONLINE or utils.AUTOINSTALL or not utils.SAFE_LOAD:
        raise DetectorError("ultralytics was imported before sfumato could cut it off the network: import it later")
    return ultralytics, torch


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _predictor() -> type[Any]:
    """Ultralytics' own, except that it raises where that one would return fewer boxes than the model found."""
    from ultralytics.models.yolo.detect import DetectionPredictor
    from ultralytics.utils import nms

    class Predictor(DetectionPredictor):  # type: ignore[misc]
        def postprocess(self, preds: Any, img: Any, orig_imgs: Any, **_: Any) -> Any:
            output = preds[0] if isinstance(preds, (list, tuple)) else preds
            chosen = bool(self.model.end2end)  # the model itself chose its boxes, rows of six
            if (output.shape[-1] != 6) if chosen else (output.shape[1] != 4 + len(self.model.names)):
                raise RuntimeError(f"output of shape {tuple(output.shape)} is not that of a YOLO detection model")
            if not output.isfinite().all():
                raise RuntimeError("the model's output holds values that are not finite")
            found = nms.non_max_suppression(
                output, self.args.conf, self.args.iou, max_det=MOST_BOXES, end2end=chosen, max_time_img=inf
            )
            if chosen and any(len(boxes) >= output.shape[1] for boxes in found):
                raise RuntimeError(f"the model can report {output.shape[1]} objects, and did: there may be more")
            return self.construct_results(found, img, orig_imgs)

    return Predictor


def _kind(model: Any) -> str:
    return f"{type(model).__name__}, task {model.task}"


def _up(side: int) -> int:
    return side + -side % MULTIPLE


def _shrink(image: Image, long_side: int) -> Image:
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _pad(image: Image, height: int, width: int) -> Image:
    """The picture in the top left corner of a grey canvas."""
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas
