"""How often the second look is wrong, and how often it is right: ``sfumato inspect``'s rule on pictures whose faces
are known.

Every known face is masked and the picture looked at again: whatever counts as a find is a false alarm. Then one face
a picture is left unmasked: is it found? With ``--eval DIR`` (``labels.json``, ``images/``, ``clips/``) the faces are
those that people labelled, on entries labelled completely. Without it, the demonstration's clips and what the detector
itself finds in them: it then only says that masks cause no alarms. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
from clips import clip
from stack import demonstration_policy

from sfumato.agents.anonymize import detector_options
from sfumato.agents.fetch import fetch
from sfumato.agents.settings import load
from sfumato.models import detectors, images, masks
from sfumato.models.detectors import Image
from sfumato.models.inspector import CERTAIN, COVERED, Inspector, Sighting, cover, covered_share
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.policy import Policy

CERTAINS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
COVEREDS = (0.25, 0.5, 0.75)
SIZES = {"under 24 px": 24, "24 to 63 px": 64, "64 px and more": 10**9}
DEMO_CLIPS = ("bikes", "carphone")
EVERY = 10
"""Of the demonstration's clips one frame in so many is used; of labelled ones those that are labelled."""


class Case(NamedTuple):
    """A picture and all its faces; ``ignored``: faces too doubtful to be planted, masked all the same."""

    name: str
    picture: Image
    faces: list[Detection]
    ignored: list[Detection]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eval", type=Path, help="a folder with labels.json, images/ and clips/")
    parser.add_argument("--limit", type=int, help="only so many pictures, for a quick look")
    options = parser.parse_args()
    settings = load()
    fetch(WEIGHTS["centerface"], settings.weights_dir)
    names = settings.inspect_detectors.split(",")
    made = [detectors.make(name, detector_options(settings)) for name in names]
    inspector = Inspector(
        made, settings.detector_names(), certain=lambda _: min(CERTAINS), covered=max(COVEREDS) + 1e-9
    )
    cases = labelled(options.eval) if options.eval else demonstration(made[0])
    tally = Tally()
    for number, case in enumerate(islice(cases, options.limit)):
        tally.frames += 1
        for mask in (MaskName.SOLID, MaskName.MOSAIC):
            tally.alarms[mask] += look(inspector, case, mask, None)
        plant(inspector, case, number, tally)
        print(f"\r{tally.frames} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(json.dumps(tally.report(names, "people" if options.eval else "the detector itself"), indent=2))


class Tally:
    def __init__(self) -> None:
        self.frames = 0
        self.alarms: dict[MaskName, list[Sighting]] = {MaskName.SOLID: [], MaskName.MOSAIC: []}
        self.planted: list[tuple[str, list[Sighting]]] = []
        """Each planted leak: its size, and what was seen of it."""

    def report(self, names: list[str], labels: str) -> dict[str, Any]:
        return {
            "detectors": names,
            "faces_labelled_by": labels,
            "frames": self.frames,
            "planted": {size: sum(s == size for s, _ in self.planted) for size in SIZES},
            "in_force": self._row(CERTAIN[DetectorName.CENTERFACE], COVERED),
            "curve": [self._row(certain, covered) for covered in COVEREDS for certain in CERTAINS],
        }

    def _row(self, certain: float, covered: float) -> dict[str, Any]:
        def counts(sighting: Sighting) -> bool:
            return sighting.detection.score >= certain and sighting.covered < covered

        found = {size: [any(map(counts, seen)) for s, seen in self.planted if s == size] for size in SIZES}
        return {
            "certain": certain,
            "covered": covered,
            "false_alarms_per_1000_frames": {
                mask.value: round(1000 * sum(map(counts, seen)) / max(1, self.frames), 1)
                for mask, seen in self.alarms.items()
            },
            "planted_found": {size: round(sum(hits) / len(hits), 3) for size, hits in found.items() if hits},
        }


def plant(inspector: Inspector, case: Case, number: int, tally: Tally) -> None:
    """Leave one face of the picture unmasked, small and large ones in turn."""
    if not case.faces:
        return
    left = sorted(case.faces, key=height)[number % len(case.faces)]
    others = tuple(face for face in [*case.faces, *case.ignored] if face is not left)
    if covered_share(cover(case.picture.shape[:2], others, policy(MaskName.MOSAIC), Target.FACE), left) >= COVERED:
        return  # its neighbours' masks hide it
    seen = look(inspector, case, MaskName.MOSAIC, left)
    size = next(name for name, top in SIZES.items() if height(left) < top)
    tally.planted.append((size, [sighting for sighting in seen if same(sighting.detection, left)]))


def look(inspector: Inspector, case: Case, mask: MaskName, left: Detection | None) -> list[Sighting]:
    """Mask every face but ``left``, encode, decode, look again."""
    masked = tuple(face for face in [*case.faces, *case.ignored] if face is not left)
    picture = case.picture.copy()
    masks.apply(picture, masked, policy(mask))
    published = images.decode(images.encode(picture, 85), "image/jpeg", max_pixels=10**9)
    return inspector.inspect(published, masked, policy(mask))


def policy(mask: MaskName) -> Policy:
    face = Masking(mask=mask, shape=Shape.ELLIPSE)
    return demonstration_policy("north").model_copy(update={"targets": {Target.FACE: face}})


def labelled(folder: Path) -> Iterator[Case]:
    """The pictures and clips on which people labelled every face."""
    labels = json.loads((folder / "labels.json").read_text())
    for name, entry in labels["images"].items():
        if "face" in entry["complete"]:
            picture = cv2.imread(str(folder / "images" / name))
            yield Case(name, picture, faces(entry["objects"]), boxes(entry.get("ignore", [])))
    for name, entry in labels["clips"].items():
        if "face" in entry["complete"]:
            for index, picture in frames(folder / "clips" / name):
                if str(index) in entry["objects"]:
                    ignored = entry.get("ignore", {}).get(str(index), [])
                    yield Case(f"{name} {index}", picture, faces(entry["objects"][str(index)]), boxes(ignored))


def demonstration(detector: detectors.Detector) -> Iterator[Case]:
    """Frames of the demonstration's clips, and the faces that the detector masks in them."""
    for name in DEMO_CLIPS:
        for index, picture in frames(clip(name)):
            if index % EVERY == 0:
                (found,) = detector.detect([picture])
                sure = [face for face in found if face.score >= 0.5]
                doubtful = [face for face in found if detector.threshold <= face.score < 0.5]
                yield Case(f"{name} {index}", picture, sure, doubtful)


def frames(path: Path) -> Iterator[tuple[int, Image]]:
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            yield index, frame.to_ndarray(format="bgr24")


def faces(objects: list[dict[str, Any]]) -> list[Detection]:
    return boxes([found["box"] for found in objects if found["class"] == "face"])


def boxes(found: list[list[float]]) -> list[Detection]:
    return [Detection(target=Target.FACE, score=1.0, box=tuple(box)) for box in found]


def height(face: Detection) -> float:
    return face.box[3] - face.box[1]


def same(seen: Detection, left: Detection) -> bool:
    """Whether the middle of what was seen lies in the face."""
    x, y = (seen.box[0] + seen.box[2]) / 2, (seen.box[1] + seen.box[3]) / 2
    return left.box[0] <= x <= left.box[2] and left.box[1] <= y <= left.box[3]


if __name__ == "__main__":
    main()
