"""The second look: what another detector, and the same one at a larger scale, sees on a published picture.

What it sees is a leak only where it is scored as certain and is not covered by what was masked. The covered area is
drawn by the code that masks, so the two agree on every dilation and shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sfumato.models import boxes, masks
from sfumato.models.detectors import Detector, Image
from sfumato.models.tiles import TooManyViews
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.masking import MaskName
from sfumato.schemas.policy import Policy
from sfumato.schemas.zone import Rule, Zone

LARGER = 2
"""The same detector looks again for objects smaller by this factor."""
SMALLEST = {Target.PERSON: 50, Target.VEHICLE: 40}
SMALLEST_ELSE = 12
"""Height in pixels of what it then looks for where the policy names none, or something larger."""
LEAST = 4
"""No object smaller than this is looked for, in pixels."""
CERTAIN = {DetectorName.CENTERFACE: 0.6, DetectorName.MTCNN: 0.9}
"""Scores from which a sighting counts as a leak: higher than those from which a box is masked; chosen from the curve
that ``ops/inspect_alarms.py`` prints (docs/inspect.md)."""
CERTAIN_ELSE = 0.5
SAME = 0.3
"""Boxes that overlap so much (intersection over union) are one object: a leak that two detectors see is one find."""
COVERED = 0.5
"""A sighting of which this share of the box was masked is no leak."""


@dataclass(frozen=True, slots=True)
class Look:
    """One inference: which detector looks for what, and the height in pixels of the smallest to be caught."""

    detector: Detector
    targets: frozenset[Target]
    smallest: int | None

    @property
    def record(self) -> DetectorRecord:
        return DetectorRecord(name=self.detector.name, weights_sha256=self.detector.weights_sha256)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A leak as one look saw it; ``index`` counts what the detector saw in the picture, from 0; ``covered``: the share
    of its box that was masked."""

    detection: Detection
    look: Look
    index: int
    covered: float


def certain(detector: Detector) -> float:
    """The score from which what the detector sees counts as a leak."""
    return CERTAIN.get(detector.name, CERTAIN_ELSE)


class Inspector:
    """``detectors``: those at hand; ``masking``: the names of those that the anonymizer uses where a policy names
    none; ``certain`` and ``covered``: from which score, and under which covered share, something seen is a leak;
    ``same``: from which overlap on it is one that was seen already.
    Not thread-safe."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        masking: Collection[str],
        *,
        certain: Callable[[Detector], float] = certain,
        covered: float = COVERED,
        same: float = SAME,
    ) -> None:
        self._detectors = tuple(detectors)
        self._masking = frozenset(masking)
        self._certain = certain
        self._covered = covered
        self._same = same

    def looks(self, policy: Policy) -> tuple[Look, ...]:
        """Every detector here that sees a target of the policy; one that also masked looks at a larger scale. One look
        per detector and scale."""
        wanted: dict[tuple[DetectorName, int | None], set[Target]] = {}
        for target, masking in policy.targets.items():
            used = frozenset(masking.detectors) or self._masking
            for detector in self._detectors:
                if target in detector.targets:
                    smallest = _smaller(target, masking.smallest) if detector.name in used else masking.smallest
                    wanted.setdefault((detector.name, smallest), set()).add(target)
        named = {detector.name: detector for detector in self._detectors}
        return tuple(Look(named[name], frozenset(targets), s) for (name, s), targets in wanted.items())

    def unseen(self, policy: Policy) -> frozenset[Target]:
        """Targets of the policy that no detector here looks for."""
        return frozenset(policy.targets) - {target for look in self.looks(policy) for target in look.targets}

    def inspect(self, picture: Image, masked: tuple[Detection, ...], policy: Policy) -> list[Sighting]:
        """The leaks of a picture whose ``masked`` boxes are covered as the policy says; each detector's in a row.
        Raises what a detector raises."""
        sightings: list[Sighting] = []
        covered: dict[Target, NDArray[np.bool_]] = {}
        count: Counter[DetectorName] = Counter()
        for planned in self.looks(policy):
            look, found = _see(planned, picture)
            for box in found:
                if box.target not in look.targets or box.score < self._certain(look.detector):
                    continue
                if box.target not in covered:
                    covered[box.target] = cover(picture.shape[:2], masked, policy, box.target)
                share = covered_share(covered[box.target], box)
                if share < self._covered and not self._known(box, sightings):
                    sightings.append(Sighting(box, look, count[look.detector.name], share))
                    count[look.detector.name] += 1
        return sightings

    def _known(self, box: Detection, sightings: Sequence[Sighting]) -> bool:
        """Whether another detector saw the object already."""
        earlier = (seen.detection for seen in sightings)
        return any(seen.target is box.target and boxes.overlap(seen.box, box.box) >= self._same for seen in earlier)


def _smaller(target: Target, smallest: int | None) -> int:
    usual = SMALLEST.get(target, SMALLEST_ELSE)
    return usual if smallest is None else max(LEAST, min(usual, smallest // LARGER))


def _see(look: Look, picture: Image) -> tuple[Look, tuple[Detection, ...]]:
    """What the look sees. Objects too small for a picture of this size are left out: the next size is taken."""
    while True:
        try:
            (found,) = look.detector.detect([picture], [look.smallest])
            return look, found
        except TooManyViews:
            if look.smallest is None or look.smallest > picture.shape[0]:
                raise
            look = replace(look, smallest=look.smallest * 2)


def covered_share(covered: NDArray[np.bool_], seen: Detection) -> float:
    """The share of the box that is covered; 1 where it lies outside the picture."""
    height, width = covered.shape
    x0, y0 = (max(0, int(v)) for v in seen.box[:2])
    x1, y1 = min(width, max(x0 + 1, round(seen.box[2]))), min(height, max(y0 + 1, round(seen.box[3])))
    inside = covered[y0:y1, x0:x1]
    return float(inside.mean()) if inside.size else 1.0


def cover(shape: tuple[int, int], masked: tuple[Detection, ...], policy: Policy, target: Target) -> NDArray[np.bool_]:
    """Where the picture is masked by these detections and the policy's zones, or where a zone spares the target:
    bool, (height, width)."""
    solid = {name: masking.model_copy(update={"mask": MaskName.SOLID}) for name, masking in policy.targets.items()}
    zones = [_always(zone) if _spares(zone, target) else zone for zone in policy.zones]
    drawn = policy.model_copy(update={"targets": solid, "zones": tuple(zones)})
    canvas: Image = np.full((*shape, 3), 255, np.uint8)
    masks.apply(canvas, tuple(box for box in masked if box.target in policy.targets), drawn)
    covered: NDArray[np.bool_] = (canvas != 255).any(axis=2)
    return covered


def _spares(zone: Zone, target: Target) -> bool:
    return zone.rule is Rule.NEVER_MASK and target in zone.spares


def _always(zone: Zone) -> Zone:
    return zone.model_copy(update={"rule": Rule.ALWAYS_MASK, "mask": MaskName.SOLID})
