"""The benchmark of tracks and lookahead: what they cost beside the rest of the pipeline. ``make bench`` runs it.

One JSON object is the last line on stdout. The engine takes the clip's pictures as one live camera's, frame by frame,
once with the default hold and lookahead and once with neither, round after round. ``share`` is the time of tracks and
scene changes within that of the whole pipeline (decode, detect, track, mask, encode; each the median of the frames);
``ratio`` is the time with hold and lookahead by that without, which also counts what the further boxes cost to mask.
Both are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import islice

from bench import decoded, say
from stack import demonstration_policy

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images
from sfumato.models.detectors import DetectorOptions
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import Task
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.policy import Policy

GOALS = {"share": 0.03}
CLIP = "bikes"
FRAMES = 120
ROUNDS = 5
RATE = 25.0
STAGES = ("decode", "detect", "track", "mask", "encode")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    folder = load().weights_dir
    fetch(WEIGHTS["centerface"], folder)
    ensemble = Ensemble([detectors.make("centerface", DetectorOptions(threads=1, weights_dir=folder))])
    payloads = [images.encode(image, 85) for image in islice(decoded(CLIP), options.frames)]
    default = demonstration_policy("camera")
    bare = default.model_copy(update={"hold": 0.0, "lookahead": 0.0})
    rounds = []
    for number in range(options.rounds + 1):  # the first one warms up
        seconds, _, _ = anonymize(ensemble, bare, payloads)
        with_time, share, boxes = anonymize(ensemble, default, payloads)
        say(f"round {number}: {with_time / seconds:.3f} times the bare time, tracking {share:.2%}, {boxes:.1f} boxes")
        rounds.append((with_time / seconds, share))
    ratio, share = (statistics.median(figures) for figures in zip(*rounds[1:], strict=True))
    result = {
        "share": round(share, 4),
        "ratio": round(ratio, 3),
        "hold": default.hold,
        "lookahead": default.lookahead,
        "goals": GOALS,
        "clip": f"{CLIP} 640x272",
        "model_threads": 1,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result), flush=True)
    return 0


def anonymize(ensemble: Ensemble, policy: Policy, payloads: list[bytes]) -> tuple[float, float, float]:
    """CPU seconds for all frames, the share of tracking in the time of all stages, and boxes per frame."""
    engine, begun = Engine(ensemble, Limits()), datetime.now(UTC)
    started, done = time.process_time(), []
    for sequence, payload in enumerate(payloads):
        at = begun + timedelta(seconds=sequence / RATE)
        frame = RawFrame(FrameId("camera", 1, sequence), at, TimeSource.CAMERA, 640, 272, "image/jpeg", payload)
        done += engine.anonymize([Task(frame, policy)])
    done += engine.close_idle(-1)
    seconds = time.process_time() - started
    if [task.reason for task in done] != [None] * len(payloads):
        raise SystemExit("bench: not every frame was masked")
    times = {stage: statistics.median(task.timings[stage] for task in done) for stage in STAGES}
    return seconds, times["track"] / sum(times.values()), sum(len(task.detections) for task in done) / len(done)


if __name__ == "__main__":
    sys.exit(main())
