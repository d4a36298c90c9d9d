"""``sfumato mask`` beside deface on the same films: frames per second, and what looking at every picture would find.

Needs deface in ``.cache/deface`` (``make .cache/deface/.done``). Both are started anew for each film, in turn, round
after round; a ratio is the median of the rounds', since shared machines drift. ``cpu`` is of CPU seconds, which a busy
machine changes less. deface looks for faces alone: ``faces`` is the like for like, ``default`` masks plates as well.
``uncovered``: of the boxes scored 0.2 (deface's threshold) or more that a look at every picture finds, those that the
quicker way does not cover by three quarters; and the same of all boxes that count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from clips import clip
from evaluate import DEFACE

from sfumato.agents import rules
from sfumato.agents.settings import load
from sfumato.models import boxes
from sfumato.models.boxes import Box
from sfumato.models.film import Film, Options
from sfumato.schemas.detection import Evidence, load_boxes

GOAL = 3.0
CLIPS = ("bikes", "carphone")
COVERED = 0.75
OURS = {"faces": ["--targets", "face"], "default": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", nargs="*", type=Path, help=f"default: the clips {', '.join(CLIPS)}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not DEFACE.is_file():
        raise SystemExit("deface is not there: make .cache/deface/.done")
    films = options.films or [clip(name) for name in CLIPS]
    found = {film.stem: measure(film, options.rounds) for film in films}
    print(json.dumps({"goal": GOAL, **found}))


def measure(film: Path, rounds: int) -> dict[str, Any]:
    with av.open(str(film)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    ratios: dict[str, list[float]] = {f"{name} {kind}": [] for name in OURS for kind in ("fps", "cpu")}
    speeds: dict[str, list[float]] = {name: [] for name in (*OURS, "deface")}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            theirs = clocked(DEFACE, "--backend", "onnxrt", film, "--output", Path(scratch, "deface.mp4"))
            speeds["deface"].append(frames / theirs[0])
            for name, chosen in OURS.items():
                command = [sys.executable, "-m", "sfumato.agents.cli", "mask", film, "--out", Path(scratch, name)]
                ours = clocked(*command, *chosen)
                speeds[name].append(frames / ours[0])
                ratios[f"{name} fps"].append(theirs[0] / ours[0])
                ratios[f"{name} cpu"].append(theirs[1] / ours[1])
    return {
        "frames": frames,
        "fps": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "ratio": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "uncovered": uncovered(film),
    }


def clocked(*command: object) -> tuple[float, float]:
    """Run a command; seconds by the clock and of CPU, its start included."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def uncovered(film: Path) -> dict[str, str]:
    """Of what is found where every picture is looked at, how much is not covered where some are left out."""
    settings = load()
    chosen = rules.chosen(settings, None, "face", None)
    ensemble = rules.load(settings, chosen.policy)
    thorough, quick = (
        [load_boxes(text) for text in Film(film, ensemble, chosen.policy, Options(every_frame=every)).look().boxes]
        for every in (True, False)
    )
    dilation = next(iter(chosen.policy.targets.values())).dilation
    counts = {score: [0, 0] for score in (0.2, 0.0)}
    for truth, masked in zip(thorough, quick, strict=True):
        for detection in truth:
            if detection.evidence is not Evidence.DETECTED:
                continue
            bare = not any(boxes.share(detection.box, grown(m.box, dilation)) >= COVERED for m in masked)
            for score, count in counts.items():
                count[0] += bare and detection.score >= score
                count[1] += detection.score >= score
    return {name: "/".join(map(str, counts[score])) for name, score in (("scored 0.2", 0.2), ("all", 0.0))}


def grown(box: Box, share: float) -> Box:
    dx, dy = (box[2] - box[0]) * share, (box[3] - box[1]) * share
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


if __name__ == "__main__":
    main()
