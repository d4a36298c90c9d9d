"""The curve from which a detector's threshold and sizes are chosen, on labelled pictures.

    python ops/curve.py DETECTOR [--labels ../shared/eval/labels.json] [--smallest none,24,12] [--threshold 0.1,0.3]
    python ops/curve.py clp,ppocr --target licence_plate    # a union; the threshold is the first one's, the others' own
    python ops/curve.py DETECTOR --shrink 12,16,20,24     # each large object alone, shrunk to so many pixels

Prints one JSON object per ``smallest``: for each threshold, the detector's own first, the share of the labelled objects
that stay exposed, by height in pixels, and the share of the picture masked outside of objects, on pictures labelled
completely. Boxes grow by the default dilation; an object is exposed where they leave more than a quarter of its
ellipse (0.85 of its box) uncovered, which is how the evaluation judges pixels. The labelled set is not part of this
repository.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors
from sfumato.models.detectors import Detector, DetectorOptions, Image, Threshold
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.masking import Masking

LABELS = Path(__file__).resolve().parents[2] / "shared" / "eval" / "labels.json"
BOUNDS = {"face": (12, 16, 24, 64), "person": (48, 96, 192), "licence_plate": (16, 24, 64)}
"""Upper ends of the buckets of height, in pixels, by class."""
COVERED = 0.75
MARGIN = 32
"""Pixels of grey to the left of and above an object that is shown alone."""
DILATION = Masking().dilation


def main() -> int:
    options = arguments()
    if not options.labels.is_file():
        print(f"curve: no labelled pictures at {options.labels}; give --labels FILE", file=sys.stderr)
        return 1
    settings = load()
    names = options.detector.split(",")
    for name in detectors.needs(*names):
        fetch(WEIGHTS[name], settings.weights_dir)
    made = DetectorOptions(provider=options.provider, threads=options.threads, weights_dir=settings.weights_dir)
    chosen = [detectors.make(name, made) for name in names]
    targets = {options.target} if options.target else {str(target) for target in chosen[0].targets}
    for smallest in options.smallest:
        seen, started = [], time.perf_counter()
        for picture, entry in chosen_pictures(options, targets):
            found = [one for detector in chosen for one in look(detector, picture, smallest, detector is chosen[0])]
            seen.append((picture.shape[:2], [d for d in found if d.target in targets], entry))
        spent = (time.perf_counter() - started) * 1000 / max(1, len(seen))
        print(
            json.dumps(
                {
                    "detector": options.detector,
                    "smallest": smallest,
                    "pictures": len(seen),
                    "ms_per_picture": round(spent, 1),
                    "by_threshold": {
                        "own": judge(seen, chosen[0].threshold, bool(options.shrink)),
                        **{t: judge(seen, Threshold(t), bool(options.shrink)) for t in options.threshold},
                    },
                }
            ),
            flush=True,
        )
    return 0


def look(detector: Detector, picture: Image, smallest: int | None, first: bool) -> list[Detection]:
    """What the detector finds; of those after the first only what reaches their own threshold, as certain."""
    (found,) = detector.detect([picture], [smallest])
    if first:
        return list(found)
    return [d.model_copy(update={"score": 1.0}) for d in found if d.score >= detector.threshold.at(height(d))]


def height(found: Detection) -> float:
    return found.box[3] - found.box[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help=f"or several, comma-separated, of {', '.join(DetectorName)}")
    parser.add_argument("--target", choices=[*Target], help="default: all that the first detector looks for")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--provider", default="openvino")
    parser.add_argument("--smallest", type=listed(lambda v: None if v == "none" else int(v)), default=[None])
    parser.add_argument("--threshold", type=listed(float), default=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--clips", help="these clips only, by name, comma-separated; default: all pictures and clips")
    parser.add_argument(
        "--shrink", type=listed(int), help="heights in pixels to which every larger object is shrunk, alone"
    )
    parser.add_argument("--empty", help="only pictures whose names begin so, comma-separated; they show none of these")
    return parser.parse_args()


def listed(one: Any) -> Any:
    return lambda text: [one(part) for part in text.split(",")]


def chosen_pictures(options: argparse.Namespace, targets: set[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not options.empty:
        yield from pictures(options.labels, targets, options.clips, options.shrink)
        return
    for path in sorted((options.labels.parent / "images").iterdir()):
        if path.name.startswith(tuple(options.empty.split(","))):
            yield cv2.imread(str(path)), {"objects": [], "aside": [], "complete": True}


def pictures(path: Path, targets: set[str], clips: str | None, shrink: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each labelled picture with its objects of these classes, those of other classes and ignored ones, and whether it
    is labelled completely."""
    labels = json.loads(path.read_text())
    for name, entry in labels["images"].items() if clips is None else ():
        picture = cv2.imread(str(path.parent / "images" / name))
        yield from shrunk(picture, sorted_out(entry, entry["objects"], entry.get("ignore", []), targets), shrink)
    for name, entry in labels["clips"].items() if not shrink else ():
        if clips is not None and Path(name).stem not in clips.split(","):
            continue
        capture = cv2.VideoCapture(str(path.parent / "clips" / name))
        for number in range(entry["frames"]):
            ok, picture = capture.read()
            if ok and str(number) in entry["objects"]:
                ignored = entry.get("ignore", {}).get(str(number), [])
                yield picture, sorted_out(entry, entry["objects"][str(number)], ignored, targets)


def sorted_out(entry: dict[str, Any], objects: Any, ignored: Any, targets: set[str]) -> dict[str, Any]:
    return {
        "objects": [o for o in objects if o["class"] in targets],
        "aside": [o["box"] for o in objects] + ignored,
        "complete": targets <= set(entry["complete"]),
    }


def shrunk(picture: Any, entry: dict[str, Any], heights: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The picture as it is; or each object that is much higher, cut out with as much around it, once per height,
    shrunk to it and alone on grey."""
    if not heights:
        yield picture, entry
        return
    for one in entry["objects"]:
        x0, y0, x1, y1 = one["box"]
        high = y1 - y0
        left, top = max(0, x0 - high), max(0, y0 - high)
        part = picture[top : y1 + high, left : x1 + high]
        for height in (height for height in heights if high >= 1.5 * max(heights)):
            scale = height / high
            small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            canvas = np.full((MARGIN + 2 * small.shape[0], MARGIN + 2 * small.shape[1], 3), 128, np.uint8)
            canvas[MARGIN : MARGIN + small.shape[0], MARGIN : MARGIN + small.shape[1]] = small
            box = [round(MARGIN + (v - at) * scale) for v, at in zip(one["box"], (left, top) * 2, strict=True)]
            yield canvas, {"objects": [{**one, "box": box}], "aside": [box], "complete": True, "height": height}


def judge(seen: list[Any], threshold: Threshold, by_height: bool) -> dict[str, Any]:
    counts: dict[str, list[int]] = {}
    outside: list[float] = []
    for shape, found, entry in seen:
        boxes = [dilated(d.box) for d in found if d.score >= threshold.at(height(d))]
        for one in entry["objects"]:
            size = f"{entry['height']:03}" if by_height else bucket(one)
            for key in dict.fromkeys(("all", size)):
                row = counts.setdefault(key, [0, 0])
                row[0] += uncovered(one["box"], boxes)
                row[1] += 1
        if entry["complete"]:
            outside.append(area_outside(shape, boxes, entry["aside"]))
    exposed = {key: [round(bare / n, 3), n] for key, (bare, n) in sorted(counts.items(), key=lambda row: row[0])}
    return {"exposed": exposed, "masked_outside": round(float(np.mean(outside)), 4) if outside else None}


def bucket(one: dict[str, Any]) -> str:
    height, bounds = one["box"][3] - one["box"][1], BOUNDS.get(one["class"], (24, 64))
    return next((f"<{bound:03}" for bound in bounds if height < bound), f">={bounds[-1]:03}")


def dilated(box: Any) -> tuple[float, ...]:
    dx, dy = (box[2] - box[0]) * DILATION, (box[3] - box[1]) * DILATION
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


def uncovered(box: Any, boxes: list[tuple[float, ...]]) -> bool:
    """Whether more than a quarter of the box's ellipse is under none of the boxes."""
    y, x = np.mgrid[0.5:48, 0.5:48] / 24 - 1
    inside = x**2 + y**2 <= 0.85**2
    x = (x + 1) / 2 * (box[2] - box[0]) + box[0]
    y = (y + 1) / 2 * (box[3] - box[1]) + box[1]
    covered = np.zeros_like(inside)
    for x0, y0, x1, y1 in boxes:
        covered |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return bool((covered & inside).sum() < COVERED * inside.sum())


def area_outside(shape: Any, boxes: list[tuple[float, ...]], aside: Any) -> float:
    """Share of the picture under boxes, outside of every labelled or ignored object grown by 15 % a side."""
    masked = np.zeros(shape, bool)
    for box in boxes:
        x0, y0, x1, y1 = (max(0, round(v)) for v in box)
        masked[y0:y1, x0:x1] = True
    for x0, y0, x1, y1 in aside:
        dx, dy = int(0.15 * (x1 - x0)) + 4, int(0.15 * (y1 - y0)) + 4
        masked[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx] = False
    return float(masked.mean())


if __name__ == "__main__":
    sys.exit(main())
