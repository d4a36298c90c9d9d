"""What a detector covers of labelled objects, what it masks besides, and how long it takes, by threshold.

    python ops/curve.py clp                      # or several, as a union: clp,ppocr (the threshold is the first one's)
    python ops/curve.py ppocr --target text --smallest 24 --eval DIR

DIR holds ``labels.json``, ``images/`` and ``clips/`` in the form of ``../shared/eval`` (the default), whose ``score.py``
scores whole films instead. An object is covered where its boxes, grown as a policy's are, hide 75 % of its labelled box.
Prints a Markdown table and the milliseconds per picture: on a busy machine only their ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors
from sfumato.models.detectors import Detector, DetectorOptions, Image
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import Masking

EVAL = Path(__file__).resolve().parent.parent.parent / "shared" / "eval"
COVERED = 0.75
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SIZES = {"under 24 px": 24, "under 64 px": 64, "larger": 10**9}
"""By height of the labelled box, in pixels."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Labelled:
    """A picture, the boxes of its objects of the target, the boxes of what may be masked or not, and whether all
    objects of the target are labelled."""

    name: str
    picture: Image
    boxes: list[Box]
    ignored: list[Box]
    complete: bool


@dataclass
class Point:
    """What one threshold gives. ``beside``: masked shares of pictures outside the objects; ``without``: of pictures
    that show none."""

    covered: dict[str, list[bool]] = field(default_factory=lambda: {size: [] for size in SIZES})
    beside: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    missed: list[tuple[str, Box]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", help="names, comma-separated")
    parser.add_argument("--eval", type=Path, default=EVAL)
    parser.add_argument("--target", type=Target, choices=list(Target), help="where the detector has several")
    parser.add_argument("--smallest", type=int, help="height of the smallest object to be caught, in pixels")
    parser.add_argument("--long-side", type=int, default=DetectorOptions().long_side)
    parser.add_argument("--dilation", type=float, default=Masking().dilation)
    parser.add_argument("--list", type=float, metavar="THRESHOLD", help="name the objects missed at this threshold")
    args = parser.parse_args()
    if not (args.eval / "labels.json").is_file():
        sys.exit(f"{args.eval} holds no labels.json: there is nothing to measure on")
    options = DetectorOptions(threads=1, long_side=args.long_side, weights_dir=load().weights_dir)
    chosen = [_make(name, options) for name in args.detectors.split(",")]
    target = args.target or min(chosen[0].targets)
    pictures = list(labelled(args.eval, target))
    curve, milliseconds = measure(chosen, target, pictures, args.smallest, args.dilation)
    report(curve)
    print(f"\nmedian {statistics.median(milliseconds):.0f} ms per picture, {len(pictures)} pictures, one thread")
    for name, box in curve[args.list].missed if args.list else ():
        print("missed", name, box)


def _make(name: str, options: DetectorOptions) -> Detector:
    if name in WEIGHTS:
        fetch(WEIGHTS[name], options.weights_dir)
    return detectors.make(name, options)


def labelled(folder: Path, target: Target) -> Iterator[Labelled]:
    """The labelled pictures, those of clips included. Boxes are x0 y0 x1 y1 in pixels."""
    labels = json.loads((folder / "labels.json").read_text())
    for name, entry in labels["images"].items():
        picture = cv2.imread(str(folder / "images" / name))
        yield _entry(name, picture, target, entry, entry["objects"], entry.get("ignore", []))
    for name, entry in labels["clips"].items():
        capture, index = cv2.VideoCapture(str(folder / "clips" / name)), 0
        while (read := capture.read())[0]:
            if (objects := entry["objects"].get(str(index))) is not None:
                ignored = entry.get("ignore", {}).get(str(index), [])
                yield _entry(f"{name}:{index}", read[1], target, entry, objects, ignored)
            index += 1


def _entry(name: str, picture: Image, target: Target, entry: dict, objects: list, ignored: list) -> Labelled:
    boxes = [tuple(o["box"]) for o in objects if o["class"] == target]
    return Labelled(name, picture, boxes, [tuple(box) for box in ignored], target in entry["complete"])


def measure(
    chosen: list[Detector], target: Target, pictures: list[Labelled], smallest: int | None, dilation: float
) -> tuple[dict[float, Point], list[float]]:
    """The point for each threshold of the first detector (the others keep their own), and milliseconds per picture
    (a picture's first pass, which may compile the graph for its size, is not the one timed)."""
    curve = {threshold: Point() for threshold in THRESHOLDS}
    milliseconds = []
    for item in pictures:
        for detector in chosen:
            detector.detect([item.picture], [smallest])
        started = time.perf_counter()
        found = [detector.detect([item.picture], [smallest])[0] for detector in chosen]
        milliseconds.append((time.perf_counter() - started) * 1000)
        for threshold, point in curve.items():
            mask = np.zeros(item.picture.shape[:2], bool)
            for detector, detections in zip(chosen, found, strict=True):
                least = threshold if detector is chosen[0] else detector.threshold
                _draw(mask, [d for d in detections if d.target == target and d.score >= least], dilation)
            _score(point, item, mask)
    return curve, milliseconds


def _draw(mask: NDArray[np.bool_], detections: list[Detection], dilation: float) -> None:
    for detection in detections:
        x0, y0, x1, y1 = detection.box
        dx, dy = dilation * (x1 - x0), dilation * (y1 - y0)
        mask[max(0, int(y0 - dy)) : max(0, round(y1 + dy)), max(0, int(x0 - dx)) : max(0, round(x1 + dx))] = True


def _score(point: Point, item: Labelled, mask: NDArray[np.bool_]) -> None:
    for box in item.boxes:
        x0, y0, x1, y1 = box
        covered = bool(mask[y0:y1, x0:x1].mean() >= COVERED)
        size = next(size for size, top in SIZES.items() if y1 - y0 < top)
        point.covered[size].append(covered)
        if not covered:
            point.missed.append((item.name, box))
    if item.complete:
        beside = mask.copy()
        for x0, y0, x1, y1 in item.boxes + item.ignored:  # a mask reaches a little beyond its object
            dx, dy = int(0.25 * (x1 - x0)) + 4, int(0.25 * (y1 - y0)) + 4
            beside[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx] = False
        (point.beside if item.boxes else point.without).append(float(beside.mean()))


def report(curve: dict[float, Point]) -> None:
    print("| threshold | covered |", " | ".join(SIZES), "| masked beside the objects | masked where there are none |")
    print("| ---: |" + " ---: |" * (len(SIZES) + 3))
    for threshold, point in curve.items():
        everything = [covered for size in point.covered.values() for covered in size]
        sizes = " | ".join(_count(size) for size in point.covered.values())
        print(f"| {threshold} | {_count(everything)} | {sizes} | {_share(point.beside)} | {_share(point.without)} |")


def _count(covered: list[bool]) -> str:
    return f"{sum(covered)}/{len(covered)}"


def _share(shares: list[float]) -> str:
    return f"{100 * statistics.mean(shares):.2f} %" if shares else "none labelled"


if __name__ == "__main__":
    main()
