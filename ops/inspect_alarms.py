"""How often the second look is wrong, and how often it is right: ``sfumato inspect``'s rule on pictures whose objects
are known.

Every known object is masked and the picture looked at again: whatever counts as a find is a false alarm. Then one
object a picture is left unmasked: is it found? And what the first look misses, is that found? With ``--eval DIR``
(``labels.json``, ``images/``, ``clips/``) the objects are those that people labelled, on entries labelled completely.
Without it, the demonstration's clips and what the detector itself finds in them: it then only says that masks cause no
alarms. Also, what a second look costs. Prints one JSON object. SFUMATO_DETECTORS and SFUMATO_INSPECT_DETECTORS hold as
for ``sfumato inspect``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
from clips import clip
from stack import demonstration_policy

from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images, masks
from sfumato.models.detectors import LOWEST_SCORE, Detector, Image
from sfumato.models.inspector import COVERED, Inspector, Sighting, certain, cover, covered_share
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.policy import Policy

CERTAINS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
COVEREDS = (0.25, 0.5, 0.75)
SIZES = {"under 24 px": 24, "24 to 63 px": 64, "64 px and more": 10**9}
DEMO_CLIPS = ("bikes", "carphone")
EVERY = 10
"""Of the demonstration's clips one frame in so many is used; of labelled ones those that are labelled."""


class Case(NamedTuple):
    """A picture and all its objects; ``ignored``: those too doubtful to be planted, masked all the same."""

    picture: Image
    objects: list[Detection]
    ignored: list[Detection]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eval", type=Path, help="a folder with labels.json, images/ and clips/")
    parser.add_argument("--target", type=Target, default=Target.FACE, help="face (default), person, …")
    parser.add_argument("--limit", type=int, help="only so many pictures, for a quick look")
    options = parser.parse_args()
    settings = load()
    for weight in WEIGHTS.values():
        fetch(weight, settings.weights_dir)
    made = [detectors.make(name, settings.detector_options()) for name in settings.inspector_names()]
    able = [detector for detector in made if options.target in detector.targets]
    if not able:
        parser.error(f"no detector of SFUMATO_INSPECT_DETECTORS looks for {options.target}")
    names = settings.detector_names()
    others = [detectors.make(name, settings.detector_options()) for name in names if name not in {d.name for d in made}]
    first = [d for d in [*made, *others] if d.name in names and options.target in d.targets]
    inspector = Inspector(
        made, settings.detector_names(), certain=lambda _: min(CERTAINS), covered=max(COVEREDS) + 1e-9, same=2.0
    )
    cases = labelled(options.eval, options.target) if options.eval else demonstration(able[0], options.target)
    tally = Tally(options.target)
    for number, case in enumerate(islice(cases, options.limit)):
        tally.frames += 1
        for mask in (MaskName.SOLID, MaskName.MOSAIC):
            tally.alarms[mask] += look(inspector, case, policy(options.target, mask), None)
        plant(inspector, case, number, tally)
        miss(inspector, first, case, tally)
        print(f"\r{tally.frames} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    in_force = tally.row(None, COVERED)
    curve = [tally.row(score, covered) for covered in COVEREDS for score in CERTAINS]
    report = {
        "target": options.target,
        "detectors": [detector.name for detector in able],
        "labelled_by": "people" if options.eval else "the detector itself",
        "frames": tally.frames,
        "planted": {size: sum(s == size for s, _ in tally.planted) for size in SIZES},
        "missed_by_first_look": {size: sum(s == size for s, _ in tally.missed) for size in SIZES},
        "in_force": in_force,
        "curve": curve,
        "second_look_divided_by_first": cost(inspector, policy(options.target, MaskName.MOSAIC), able[0]),
    }
    print(json.dumps(report, indent=2))


class Tally:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.frames = 0
        self.alarms: dict[MaskName, list[Sighting]] = {MaskName.SOLID: [], MaskName.MOSAIC: []}
        self.planted: list[tuple[str, list[Sighting]]] = []
        """Each planted leak: its size, and what was seen of it."""
        self.missed: list[tuple[str, list[Sighting]]] = []
        """Likewise each object that the first look misses."""

    def row(self, score: float | None, covered: float) -> dict[str, Any]:
        """``score`` None: each detector's own, as in force."""

        def counts(sighting: Sighting) -> bool:
            least = certain(sighting.look.detector) if score is None else score
            return sighting.detection.score >= least and sighting.covered < covered

        def found(leaks: list[tuple[str, list[Sighting]]]) -> dict[str, float]:
            hits = {size: [any(map(counts, seen)) for s, seen in leaks if s == size] for size in SIZES}
            return {size: round(sum(hit) / len(hit), 3) for size, hit in hits.items() if hit}

        return {
            "certain": score,
            "covered": covered,
            "false_alarms_per_1000_frames": {
                mask.value: round(1000 * sum(map(counts, seen)) / max(1, self.frames), 1)
                for mask, seen in self.alarms.items()
            },
            "planted_found": found(self.planted),
            "missed_found": found(self.missed),
        }


def plant(inspector: Inspector, case: Case, number: int, tally: Tally) -> None:
    """Leave one object of the picture unmasked, small and large ones in turn."""
    if not case.objects:
        return
    left = sorted(case.objects, key=height)[number % len(case.objects)]
    others = tuple(each for each in [*case.objects, *case.ignored] if each is not left)
    under = policy(tally.target, MaskName.MOSAIC)
    if covered_share(cover(case.picture.shape[:2], others, under, tally.target), left) >= COVERED:
        return  # its neighbours' masks hide it
    seen = look(inspector, case, under, left)
    tally.planted.append((size_of(left), [sighting for sighting in seen if same(sighting.detection, left)]))


def miss(inspector: Inspector, first: list[Detector], case: Case, tally: Tally) -> None:
    """Mask what the first look finds by itself, and look again."""
    found = tuple(
        box
        for detector in first
        for box in detector.detect([case.picture])[0]
        if box.target is tally.target and box.score >= detector.threshold.at(box.box[3] - box.box[1])
    )
    under = policy(tally.target, MaskName.MOSAIC)
    covered = cover(case.picture.shape[:2], found, under, tally.target)
    bare = [each for each in case.objects if covered_share(covered, each) < COVERED]
    if bare:
        seen = look(inspector, Case(case.picture, list(found), []), under, None)
        tally.missed += [(size_of(each), [s for s in seen if same(s.detection, each)]) for each in bare]


def size_of(found: Detection) -> str:
    return next(name for name, top in SIZES.items() if height(found) < top)


def look(inspector: Inspector, case: Case, under: Policy, left: Detection | None) -> list[Sighting]:
    """Mask every object but ``left``, encode, decode, look again."""
    masked = tuple(each for each in [*case.objects, *case.ignored] if each is not left)
    picture = case.picture.copy()
    masks.apply(picture, masked, under)
    published = images.decode(images.encode(picture, 85), "image/jpeg", max_pixels=10**9)
    return inspector.inspect(published, masked, under)


def cost(inspector: Inspector, under: Policy, detector: Detector) -> dict[str, float]:
    """How many times as long a second look takes as a first one by this detector, by size of the picture."""
    [(_, picture)] = islice(frames(clip("bikes")), 1)
    ratios = {}
    for width, height_ in ((640, 272), (1280, 720), (1920, 1080)):
        resized = images.resize(picture, width, height_)
        first = seconds(lambda resized=resized: detector.detect([resized]))  # type: ignore[misc]
        second = seconds(lambda resized=resized: inspector.inspect(resized, (), under))  # type: ignore[misc]
        ratios[f"{width}x{height_}"] = round(second / first, 1)
    return ratios


def seconds(work: Callable[[], object]) -> float:
    """The median of five runs, after one that compiles."""
    work()
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[2]


def policy(target: Target, mask: MaskName) -> Policy:
    shape = Shape.ELLIPSE if target is Target.FACE else Shape.RECTANGLE
    return demonstration_policy("north").model_copy(update={"targets": {target: Masking(mask=mask, shape=shape)}})


def labelled(folder: Path, target: Target) -> Iterator[Case]:
    """The pictures and clips on which people labelled every object of the class."""
    labels = json.loads((folder / "labels.json").read_text())
    for name, entry in labels["images"].items():
        if target in entry["complete"]:
            picture = cv2.imread(str(folder / "images" / name))
            yield Case(picture, of(target, entry["objects"]), boxes(target, entry.get("ignore", [])))
    for name, entry in labels["clips"].items():
        if target in entry["complete"]:
            for index, picture in frames(folder / "clips" / name):
                if str(index) in entry["objects"]:
                    ignored = entry.get("ignore", {}).get(str(index), [])
                    yield Case(picture, of(target, entry["objects"][str(index)]), boxes(target, ignored))


def demonstration(detector: Detector, target: Target) -> Iterator[Case]:
    """Frames of the demonstration's clips, and what the detector masks in them."""
    for name in DEMO_CLIPS:
        for index, picture in frames(clip(name)):
            if index % EVERY == 0:
                (found,) = detector.detect([picture])
                found = tuple(each for each in found if each.target is target)
                sure = [each for each in found if each.score >= 0.5]
                doubtful = [each for each in found if LOWEST_SCORE <= each.score < 0.5]
                yield Case(picture, sure, doubtful)


def frames(path: Path) -> Iterator[tuple[int, Image]]:
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            yield index, frame.to_ndarray(format="bgr24")


def of(target: Target, objects: list[dict[str, Any]]) -> list[Detection]:
    return boxes(target, [found["box"] for found in objects if found["class"] == target])


def boxes(target: Target, found: list[list[float]]) -> list[Detection]:
    return [Detection(target=target, score=1.0, box=tuple(box)) for box in found]


def height(found: Detection) -> float:
    return found.box[3] - found.box[1]


def same(seen: Detection, left: Detection) -> bool:
    """Whether the middle of what was seen lies in the object."""
    x, y = (seen.box[0] + seen.box[2]) / 2, (seen.box[1] + seen.box[3]) / 2
    return left.box[0] <= x <= left.box[2] and left.box[1] <= y <= left.box[3]


if __name__ == "__main__":
    main()
