"""A GPU beside the CPU: what docs/gpu.md says of speed, and that both find the same.

    python ops/bench_gpu.py [--runs openvino:1,cuda:1,cuda:8] [--parts detect,engine] [--photographs FOLDER]

A run is ``PROVIDER:STREAMS``. Prints one JSON object. ``detect``: pictures per second of each detector, in batches.
``engine``: frames per second of decoding, looking, masking and encoding in one process, by what is masked.
``pipeline``: the same through the embedded broker and ``sfumato anonymize``, from the first frame sent to the last one
audited, with so many workers. ``agreement``: boxes of the first run that another run does not have (intersection over
union of a half or more), and by how much scores differ. Pictures are those of the clip ``bikes``, enlarged; what is
compared takes turns. On a machine without a GPU: ``--runs openvino:1,openvino:2,onnxruntime:2``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from pathlib import Path
from shutil import which
from typing import Any

from bench import BenchReader, Sender, decoded, pipeline_fps, say
from stack import Stack, demonstration_policy

from sfumato.agents.broker import free_port
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.settings import Settings, load
from sfumato.models import boxes, detectors, images
from sfumato.models.detectors import Detector, DetectorOptions
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import Task
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.policy import Policy

CLIP = "bikes"
SIZES = ((1280, 720), (1920, 1080))
DETECTORS = ("centerface", "clp", "ppocr", "ssdlite")
BATCH = 32
CAMERAS = 8
RATE = 25.0
MASKED = {"face": ("face",), "face, licence_plate": ("face", "licence_plate")}
MASKED |= {"face, licence_plate, person": (*MASKED["face, licence_plate"], "person")}
PARTS = ("agreement", "detect", "engine", "pipeline")
BROKER_BYTES = 16_000_000_000
QUEUE_BYTES = 1_000_000_000
SAME = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="openvino:1,cuda:1,cuda:8", help="PROVIDER:STREAMS, comma-separated")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of detect and engine")
    parser.add_argument("--workers", type=int, default=4, help="of the pipeline")
    parser.add_argument("--frames", type=int, default=4000, help="through the pipeline")
    parser.add_argument("--photographs", type=Path, help="folder of JPEGs whose boxes are compared, too")
    options = parser.parse_args()
    settings = load()
    list(fetch_weights(settings))
    pictures = [*islice(decoded(CLIP), BATCH)]
    made = {run: make(run, settings) for run in options.runs.split(",")}
    parts = options.parts.split(",")
    result: dict[str, Any] = {part: {} for part in parts}
    if "agreement" in parts:
        result["agreement"] = agreement(made, [*pictures, *photographs(options.photographs)])
    for width, height in SIZES:
        size = f"{width}x{height}"
        large = [images.resize(picture, width, height) for picture in pictures]
        payloads = [images.encode(picture, 85) for picture in large]
        if "detect" in parts:
            result["detect"][size] = {
                name: in_turn({run: detecting(found[name], large) for run, found in made.items()}, options.seconds)
                for name in DETECTORS
            }
        if "engine" in parts:
            result["engine"][size] = {
                masked: in_turn({run: Feed(found, payloads, masked) for run, found in made.items()}, options.seconds)
                for masked in MASKED
            }
        if "pipeline" in parts:
            result["pipeline"][size] = {
                run: through_kafka(run, payloads, options.workers, options.frames) for run in made
            }
    result |= {
        "batch": BATCH,
        "workers": options.workers,
        "frames": options.frames,
        "clip": CLIP,
        "cores": os.cpu_count(),
    }
    result["gpu"] = memory()
    print(json.dumps(result), flush=True)
    return 0


def photographs(folder: Path | None) -> list[Any]:
    files = sorted(folder.glob("*.jpg")) if folder else []
    found = [images.decode(file.read_bytes(), "image/jpeg", max_pixels=40_000_000) for file in files]
    return [images.resize(picture, *SIZES[0]) for picture in found]


def make(run: str, settings: Settings) -> dict[str, Detector]:
    provider, streams = run.split(":")
    options = DetectorOptions(provider=provider, streams=int(streams), weights_dir=settings.weights_dir)
    return {name: detectors.make(name, options) for name in DETECTORS}


def in_turn(calls: dict[str, Callable[[], int]], seconds: float) -> dict[str, float]:
    """Pictures per second of each, after one call that warms it up."""
    found = {}
    for run, call in calls.items():
        call()
        started, done = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            done += call()
        found[run] = round(done / (time.perf_counter() - started), 1)
    say(str(found))
    return found


def detecting(detector: Detector, pictures: list[Any]) -> Callable[[], int]:
    return lambda: len(detector.detect(pictures))


class Feed:
    """An engine and its cameras; each call gives it a batch."""

    def __init__(self, made: dict[str, Detector], payloads: list[bytes], masked: str) -> None:
        self._policies = [policy(f"camera-{i}", MASKED[masked]) for i in range(CAMERAS)]
        self._engine = Engine(Ensemble([*made.values()]), Limits(), threads=min(16, os.cpu_count() or 1))
        self._payloads, self._numbers, self._begun = payloads, count(), datetime.now(UTC)

    def __call__(self) -> int:
        done = self._engine.anonymize([*self._batch()])
        if failed := [task.reason for task in done if task.reason]:
            raise SystemExit(f"bench: not every frame was masked: {failed[0]}")
        return len(done)

    def _batch(self) -> Iterator[Task]:
        for payload in self._payloads:
            sequence, camera = divmod(next(self._numbers), CAMERAS)
            at = self._begun + timedelta(seconds=sequence / RATE)
            id = FrameId(f"camera-{camera}", 1, sequence)
            yield Task(RawFrame(id, at, TimeSource.CAMERA, 1, 1, "image/jpeg", payload), self._policies[camera])


def policy(camera: str, targets: tuple[str, ...]) -> Policy:
    masking = {target: {"mask": "mosaic"} for target in targets}
    return Policy.model_validate({**demonstration_policy(camera).model_dump(mode="json"), "targets": masking})


def through_kafka(run: str, payloads: list[bytes], workers: int, frames: int) -> float:
    provider, streams = run.split(":")
    overrides = {"detector_provider": provider, "detector_streams": int(streams), "batch_size": BATCH}
    overrides |= {
        "codec_threads": 8,
        "partitions": 2 * CAMERAS,
        "broker_memory_bytes": BROKER_BYTES,
        "queue_bytes": QUEUE_BYTES,
    }
    cameras = [f"camera-{i}" for i in range(4 * CAMERAS)]
    with Stack("embedded", Path(tempfile.mkdtemp(prefix="sfumato-bench-")), **overrides) as stack:
        stack.publish(*(policy(camera, MASKED["face"]) for camera in cameras))
        for worker in range(workers):
            port = free_port()
            stack.start("anonymize", name=f"anonymize-{worker}", metrics_port=port)
            stack.wait_for(f"anonymize-{worker}", 60, partial(assigned, stack, port))
        with BenchReader(stack.settings) as reader, closing(Sender(stack.settings)) as sender:
            pipeline_fps(stack, reader, sender, cameras, 0, payloads * 2)  # warms it up
            found = pipeline_fps(stack, reader, sender, cameras, 1, [payloads[i % BATCH] for i in range(frames)])
            if reader.account.outcomes.keys() != {Outcome.MASKED}:
                raise SystemExit(f"bench: not every frame was masked: {reader.account.report()}")
    say(f"pipeline, {run}: {found:.1f}")
    return round(found, 1)


def assigned(stack: Stack, port: int) -> bool:
    return stack.metric("sfumato_assigned_partitions", port) > 0


def agreement(made: dict[str, dict[str, Detector]], pictures: list[Any]) -> dict[str, Any]:
    """What each further run finds beside the first one, of boxes that count."""
    first, *others = made
    found: dict[str, Any] = {}
    for run in others:
        found[run] = {}
        for name in DETECTORS:
            pairs = zip(made[first][name].detect(pictures), made[run][name].detect(pictures), strict=True)
            found[run][name] = compared([*pairs], made[run][name])
    return found


def compared(pairs: list[tuple[tuple[Detection, ...], tuple[Detection, ...]]], detector: Detector) -> dict[str, Any]:
    total, missing, difference = 0, 0, 0.0
    for ours, theirs in pairs:
        for one in ours:
            if one.score < detector.threshold.at(one.box[3] - one.box[1]):
                continue
            total += 1
            same = [
                other for other in theirs if boxes.overlap(one.box, other.box) >= SAME and other.target == one.target
            ]
            missing += not same
            difference = max([difference, *(min(abs(one.score - other.score) for other in same) for _ in same[:1])])
    return {"boxes": total, "missing": missing, "most_score_difference": round(difference, 4)}


def memory() -> str:
    """What all processes hold of the GPU's memory, as nvidia-smi says; nothing where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,memory.used", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() if which(command[0]) else ""


def same(one: Detection, other: Detection) -> bool:
    return one.target == other.target and boxes.overlap(one.box, other.box) >= SAME


if __name__ == "__main__":
    sys.exit(main())
