"""Milliseconds per picture of each detector, by provider, threads and input; ``make bench`` runs it.

    python ops/bench_detectors.py [--detectors centerface,ssdlite] [--rounds 5]

Prints one JSON object. What is compared takes turns within each round and the figure is the median of the rounds, since
shared machines drift: compare within a run only. Pictures are those of the clip ``bikes``, enlarged. Detectors
whose model the user brings are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import av
from clips import clip

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images
from sfumato.models.detectors import DETECTORS, DetectorError, DetectorOptions, Provider
from sfumato.models.tiles import TooManyViews
from sfumato.models.weights import WEIGHTS

SIZES = ((640, 360), (1280, 720), (1920, 1080))
THREADS = (1, 2)
SMALLEST = (None, 24)
MOST_SECONDS = 5.0
"""For one picture: what takes longer on the first try is measured once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = [name for name in DETECTORS if detectors.needs(name)]
    parser.add_argument("--detectors", default=",".join(own), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with av.open(str(clip("bikes"))) as container:
        frame = next(islice(container.decode(video=0), 80, None)).to_ndarray(format="bgr24")
    found = {name: measure(name, frame, options.rounds) for name in options.detectors.split(",")}
    print(json.dumps({"ms_per_picture": found, "cores": os.cpu_count(), "rounds": options.rounds}), flush=True)
    return 0


def measure(name: str, frame: Any, rounds: int) -> dict[str, Any]:
    """Figures by size and smallest object; in each, milliseconds per provider and threads, and ratios."""
    folder = load().weights_dir
    for weight in detectors.needs(name):
        fetch(WEIGHTS[weight], folder)
    able: dict[str, Any] = {}
    unable: dict[str, str] = {}
    for provider in Provider:
        for threads in THREADS:
            try:
                able[f"{provider}, {threads}"] = detectors.make(
                    name, DetectorOptions(threads=threads, provider=provider, weights_dir=folder)
                )
            except DetectorError as error:
                unable[provider] = str(error)
    result: dict[str, Any] = {"unable": unable} if unable else {}
    for width, height in SIZES:
        picture = images.resize(frame, width, height)
        for smallest in SMALLEST:
            key = f"{width}x{height}" + (f", smallest {smallest}" if smallest else "")
            calls = {how: partial(detector.detect, [picture], [smallest]) for how, detector in able.items()}
            print(f"bench: {name} {key}", file=sys.stderr, flush=True)
            try:
                result[key] = row(medians(calls, rounds))
            except TooManyViews as error:  # such a frame is fully masked
                result[key] = {"refused": str(error)}
    return result


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {how: [] for how in calls}
    for how in calls:
        calls[how]()  # compiles
    for number in range(rounds):
        for how, call in calls.items():
            if number and times[how][0] > MOST_SECONDS * 1000:
                continue
            started = time.perf_counter()
            call()
            times[how].append((time.perf_counter() - started) * 1000)
    return {how: statistics.median(values) for how, values in times.items()}


def row(ms: dict[str, float]) -> dict[str, float]:
    figures = {how: round(value, 1) for how, value in ms.items()}
    for threads in THREADS:
        if f"onnxruntime, {threads}" in ms:
            figures[f"onnxruntime ÷ openvino, {threads}"] = round(
                ms[f"onnxruntime, {threads}"] / ms[f"openvino, {threads}"], 2
            )
    figures["openvino: 2 threads ÷ 1"] = round(ms["openvino, 2"] / ms["openvino, 1"], 2)
    return figures


if __name__ == "__main__":
    sys.exit(main())
