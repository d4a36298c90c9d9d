"""What stays exposed, beside deface on the same pictures and clips: ``make eval``.

Needs a folder of labelled pictures and clips with its scorer (``labels.json``, ``images/``, ``clips/``, ``score.py``);
where there is none, says so and ends well. ``--gate`` leaves deface out and compares with the kept figures
(``evaluation.json``): exit status 1 where a class is exposed more often than they say. ``--keep`` writes them anew.
The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EVALUATION = HERE.parent.parent / "shared" / "eval"
KEPT = HERE / "evaluation.json"
DEFACE = HERE.parent / ".cache" / "deface" / "bin" / "deface"
KINDS = ("images", "clips")
CLASSES = ("face", "licence_plate", "person")
PEOPLE = """
[[policy]]
camera = "evaluation"
version = 1
controller = "evaluation"
purpose = "evaluation"
lawful_basis = "public_task"
dpia = "none: public test pictures"
retention_hours = 1
targets = { face = {}, licence_plate = {}, person = {}, motion = {} }
"""

Labels = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One anonymizer's outputs: which, of which kinds, and what they are scored for. ``people_fixed``, with motion, is
    for what a fixed camera saw: the clips whose people are labelled. ``faces`` looks for no more than deface does."""

    name: str
    kinds: tuple[str, ...]
    classes: tuple[str, ...]
    mask: Callable[[list[Path], Path], None]


def sfumato(*options: str) -> Callable[[list[Path], Path], None]:
    def mask(inputs: list[Path], out: Path) -> None:
        command = [sys.executable, "-m", "sfumato.agents.cli", "mask", *map(str, inputs), "--out", str(out), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return mask


def deface(inputs: list[Path], out: Path) -> None:
    """deface writes beside its input, so it gets copies."""
    copies = [Path(shutil.copy(path, out)) for path in inputs]
    subprocess.run([DEFACE, "--backend", "onnxrt", *map(str, copies)], check=True, capture_output=True)
    for copy in copies:
        copy.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eval", type=Path, default=EVALUATION, help="folder with labels.json and score.py")
    parser.add_argument("--gate", action="store_true", help="without deface, against the kept figures")
    parser.add_argument("--keep", action="store_true", help="write the figures that the gate compares with")
    options = parser.parse_args()
    if not (options.eval / "labels.json").is_file():
        print(f"no labelled pictures at {options.eval} (labels.json): nothing was measured", file=sys.stderr)
        return 0
    labels: Labels = json.loads((options.eval / "labels.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        people = Path(scratch, "people.toml")
        people.write_text(PEOPLE)
        runs = [
            Run("default", KINDS, ("face", "licence_plate"), sfumato()),
            Run("people", ("images",), ("person",), sfumato("--targets", "face,licence_plate,person")),
            Run("people_fixed", ("clips",), ("person",), sfumato("--policy", str(people))),
        ]
        if not options.gate:
            runs.append(Run("faces", KINDS, ("face",), sfumato("--targets", "face")))
            runs.append(Run("deface", KINDS, CLASSES, deface))
        found = {run.name: evaluate(run, options.eval, labels, Path(scratch, run.name)) for run in runs}
    if not options.gate:
        for name in ("faces", "default"):
            found[name]["speed_to_deface"] = round(speed(found[name]) / speed(found["deface"]), 2)
    shares = exposed(found)
    worse = [] if options.keep or not KEPT.is_file() else rises(shares, json.loads(KEPT.read_text()))
    if options.keep:
        KEPT.write_text(json.dumps(shares, indent=2, sort_keys=True) + "\n")
    for line in worse:
        print(line, file=sys.stderr)
    print(json.dumps({**found, "worse": worse}))
    return bool(worse)


def evaluate(run: Run, folder: Path, labels: Labels, out: Path) -> dict[str, Any]:
    """Mask, then score: as a whole, on pictures without people, and by how the pictures were made worse."""
    found: dict[str, Any] = {"seconds": {}}
    chosen: Labels = {}
    for kind in run.kinds:
        (out / kind).mkdir(parents=True)
        chosen[kind] = {
            n: e for n, e in labels[kind].items() if run.classes != ("person",) or "person" in e["complete"]
        }
        inputs = [folder / kind / name for name in chosen[kind]]
        started = time.perf_counter()
        run.mask(inputs, out / kind)
        found["seconds"][kind] = round(time.perf_counter() - started, 1)
        found["count"] = {**found.get("count", {}), kind: sum(e.get("frames", 1) for e in chosen[kind].values())}
    found |= score(run, folder, chosen, out)
    if "images" in run.kinds and "face" in run.classes:
        pictures = chosen["images"]
        empty = {n: e for n, e in pictures.items() if not {o["class"] for o in e["objects"]} & {"face", "person"}}
        found["without_people"] = score(run, folder, {"images": empty}, out)["images"]["masked_area_outside"]
        for worsened in ("far", "dark"):
            some = {n: e for n, e in pictures.items() if n.startswith(f"{worsened}_")}
            found[worsened] = score(run, folder, {"images": some}, out)["images"].get("face")
    return found


def score(run: Run, folder: Path, labels: Labels, out: Path) -> dict[str, Any]:
    """The scorer's own words on these labels."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(labels, file)
        file.flush()
        command = [sys.executable, folder / "score.py", file.name, out, "--originals", folder]
        told = subprocess.run(
            [*command, "--classes", ",".join(run.classes)], capture_output=True, text=True, check=False
        )
    try:
        result: dict[str, Any] = json.loads(told.stdout)
    except json.JSONDecodeError:
        raise SystemExit(f"{run.name}: the scorer failed: {told.stderr[-500:]}") from None
    if result["missing"]:
        raise SystemExit(f"{run.name} left out {', '.join(result['missing'])}")
    return {kind: result[kind] for kind in labels}


def speed(found: dict[str, Any]) -> float:
    """Frames per second on the clips."""
    return float(found["count"]["clips"] / found["seconds"]["clips"])


def exposed(found: dict[str, Any]) -> dict[str, str]:
    """``run kind class`` to ``exposed/all``, of our own runs."""
    return {
        f"{name} {kind} {label}": f"{row['exposed']}/{row['n']}"
        for name in ("default", "people", "people_fixed")
        for kind in KINDS
        for label, row in found[name].get(kind, {}).items()
        if label in CLASSES
    }


def rises(shares: dict[str, str], kept: dict[str, str]) -> Iterable[str]:
    """Where more is exposed than was kept, or where the kept figures are of other labels."""

    def split(share: str) -> tuple[int, int]:
        first, second = share.split("/")
        return int(first), int(second)

    lines = [f"{key}: not measured now, {kept[key]} kept" for key in kept.keys() - shares.keys()]
    for key, share in shares.items():
        (now, of), (before, before_of) = split(share), split(kept.get(key, "0/0"))
        if of == before_of and now > before:
            lines.append(f"{key}: {share} exposed, {kept[key]} kept")
        elif of != before_of:
            lines.append(f"{key}: labels changed from {before_of} to {of}; keep new figures with --keep")
    return sorted(lines)


if __name__ == "__main__":
    sys.exit(main())
