"""The benchmark of sealed raw footage: what encryption costs beside the rest of the pipeline. ``make bench`` runs it.

One JSON object is the last line on stdout. ``microseconds``: CPU time to seal and to open one frame, the median of the
rounds. ``share``: that of sealing and opening within the CPU time of a frame on its way from the message to its ending
(read, open, decode, detect, track, mask, encode, audit), sealing added; so much of the frames per second do an ingestor
and a worker lose that share their cores. ``ratio``: the time of that way for sealed messages by that for the same ones
in the clear, round by round; its spread is wider than what it measures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from bench import decoded, say
from stack import demonstration_policy

from sfumato.agents.anonymize import Anonymizer, Ending, Record
from sfumato.agents.fetch import fetch
from sfumato.agents.footage.key_files import KeyFiles
from sfumato.agents.footage.sealing import Opener, Sealer
from sfumato.agents.settings import load
from sfumato.models import detectors, images
from sfumato.models.detectors import DetectorOptions
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import Message, RawFrame, TimeSource

GOALS = {"share": 0.03}
CLIP = "bikes"
FRAMES = 120
ROUNDS = 5
RATE = 25.0
SIZES = {"6 KB": 6_000, "100 KB": 100_000}
REPEATS = 500
BEGUN = datetime.now(UTC)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    folder = load().weights_dir
    fetch(WEIGHTS["centerface"], folder)
    ensemble = Ensemble([detectors.make("centerface", DetectorOptions(threads=1, weights_dir=folder))])
    payloads = [images.encode(image, 85) for image in islice(decoded(CLIP), options.frames)]
    with tempfile.TemporaryDirectory() as keys:
        store = KeyFiles(Path(keys) / "keys")
        sealer, opener = Sealer(store), Opener(store, required=False)
        rounds = [compare(ensemble, sealer, opener, payloads, number) for number in range(options.rounds + 1)][1:]
        sizes = {name: microseconds(sealer, opener, size) for name, size in SIZES.items()}
    share, ratio = (statistics.median(figures) for figures in zip(*rounds, strict=True))
    result = {
        "share": round(share, 5),
        "ratio": round(ratio, 3),
        "microseconds": sizes,
        "goals": GOALS,
        "clip": f"{CLIP} 640x272, {round(statistics.mean(map(len, payloads)) / 1000)} KB a frame",
        "model_threads": 1,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result), flush=True)
    return 0


def compare(
    ensemble: Ensemble, sealer: Sealer, opener: Opener, payloads: list[bytes], number: int
) -> tuple[float, float]:
    """The share of sealing and opening, and the ratio, of one round; round 0 warms up."""
    frames = [frame(sequence, payload) for sequence, payload in enumerate(payloads)]
    started = time.process_time()
    sealed = [sealer.seal(frame) for frame in frames]
    sealing = time.process_time() - started
    started = time.process_time()
    for each in sealed:
        opener.open(each)
    opening = time.process_time() - started
    # In turns first and second, so that what happens to the machine meanwhile hits both alike.
    ways = [[message.to_message() for message in messages] for messages in (sealed, frames)]
    order = (0, 1) if number % 2 else (1, 0)
    seconds = {way: anonymize(ensemble, opener, ways[way]) for way in order}
    share = (sealing + opening) / (seconds[0] + sealing)
    say(f"round {number}: sealing and opening {share:.2%}, sealed {seconds[0] / seconds[1]:.3f} times the clear time")
    return share, seconds[0] / seconds[1]


def anonymize(ensemble: Ensemble, opener: Opener, messages: list[Message]) -> float:
    """CPU seconds from the messages to their audit events and outputs."""
    anonymizer = Anonymizer(Engine(ensemble, Limits()), lambda frame: demonstration_policy("camera"), opener)
    endings: list[Ending] = []
    started = time.process_time()
    for offset, (key, value, headers) in enumerate(messages):
        read = anonymizer.read(Record(key, value, headers, Origin(topic="bench", partition=0, offset=offset)))
        if isinstance(read, Ending):
            raise SystemExit(f"bench: a frame was dropped: {read.audit.reason}")
        endings += [ending for _, ending in anonymizer.anonymize([read])]
    endings += [ending for _, ending in anonymizer.close_idle(-1)]
    for ending in endings:
        ending.messages()
    seconds = time.process_time() - started
    if [ending.audit.reason for ending in endings] != [None] * len(messages):
        raise SystemExit("bench: not every frame was masked")
    return seconds


def microseconds(sealer: Sealer, opener: Opener, size: int) -> dict[str, float]:
    plain = frame(0, os.urandom(size))
    sealed = sealer.seal(plain)
    return {"seal": _cpu(lambda: sealer.seal(plain)), "open": _cpu(lambda: opener.open(sealed))}


def _cpu(work: Callable[[], Any]) -> float:
    figures = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REPEATS):
            work()
        figures.append((time.process_time() - started) / REPEATS * 1e6)
    return round(statistics.median(figures), 1)


def frame(sequence: int, payload: bytes) -> RawFrame:
    at = BEGUN + timedelta(seconds=sequence / RATE)
    id_ = FrameId("camera", 1, sequence)
    return RawFrame(id_, at, TimeSource.CAMERA, 640, 272, "image/jpeg", payload)


if __name__ == "__main__":
    sys.exit(main())
