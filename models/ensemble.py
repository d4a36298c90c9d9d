"""The detectors that a worker holds, as a union: each policy chooses, each box says whether it counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from sfumato.models import boxes
from sfumato.models.detectors import ON_REQUEST, Detector, Image, Smallest
from sfumato.models.tiles import TooManyViews
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.detection import Detection, DetectorName, Evidence, Target
from sfumato.schemas.policy import Policy

SAME = 0.3
"""Boxes of one detector that overlap so much (intersection over union) are one object."""
FAILING_SECONDS = 30.0
FAILING_CALLS = 50
"""A detector that has done nothing but raise for so long, so often, is broken: as where a GPU is lost, for which each
call of the process fails from then on. One camera whose pictures it cannot bear is not enough, where it sees others."""


class Ensemble:
    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)
        self._failing: dict[DetectorName, tuple[float, int]] = {}
        """Those that raised when last called: since when (monotonic, seconds), and how often since."""

    def broken(self) -> DetectorName | None:
        """A detector that only a fresh process may mend, if there is one."""
        before = time.monotonic() - FAILING_SECONDS
        failing = self._failing.items()
        return next((name for name, (since, calls) in failing if since <= before and calls >= FAILING_CALLS), None)

    def missing(self, policy: Policy) -> str | None:
        """What the policy asks for that no detector here can give, in words; None where all can be looked for."""
        for target, masking in policy.targets.items():
            if target is Target.MOTION and not masking.detectors:
                continue  # models/motion.py
            able = {detector.name for detector in self._detectors if target in detector.targets}
            if absent := set(masking.detectors) - able:
                return f"targets.{target}: no detector {', '.join(sorted(absent))} for it here"
            if not any(_wanted(detector, target, policy) for detector in self._detectors):
                named = f"; name {', '.join(sorted(able))} in its detectors to use it" if able else ""
                return f"targets.{target}: no detector here looks for it{named}"
        return None

    def records(self, policy: Policy) -> tuple[DetectorRecord, ...]:
        """The detectors that look at a frame of this policy, for its audit event."""
        return tuple(
            DetectorRecord(name=detector.name, weights_sha256=detector.weights_sha256)
            for detector in self._detectors
            if _chosen(detector, policy)
        )

    def detect(self, pictures: Sequence[Image], policies: Sequence[Policy]) -> list[tuple[Detection, ...]]:
        """What the chosen detectors find in each picture, in order. Boxes scored below the threshold that applies are
        marked weak. Raises what a detector raises, and RuntimeError where one skips a picture."""
        found: list[list[Detection]] = [[] for _ in pictures]
        for _, seen in self.apart(pictures, policies):
            for index, detections in enumerate(seen):
                found[index] += detections
        return [tuple(detections) for detections in found]

    def apart(
        self, pictures: Sequence[Image], policies: Sequence[Policy]
    ) -> Iterator[tuple[DetectorName, list[tuple[Detection, ...]]]]:
        """As :meth:`detect`, detector by detector: what each of those chosen finds in each picture."""
        for detector in self._detectors:
            asked = [index for index, policy in enumerate(policies) if _chosen(detector, policy)]
            if not asked:
                continue
            smallest = [_smallest(detector, policies[index]) for index in asked]
            seen = self._counted(detector, [pictures[index] for index in asked], smallest)
            if len(seen) != len(asked):
                raise RuntimeError(f"{detector.name} answered for a different number of pictures")
            found: list[tuple[Detection, ...]] = [() for _ in pictures]
            for index, detections in zip(asked, seen, strict=True):
                found[index] = tuple(_judged(detector, detections, policies[index]))
            yield detector.name, found

    def _counted(
        self, detector: Detector, pictures: Sequence[Image], smallest: Smallest
    ) -> list[tuple[Detection, ...]]:
        try:
            seen = self._look(detector, pictures, smallest)
        except TooManyViews:  # the policy asks for too much
            raise
        except Exception:
            since, calls = self._failing.get(detector.name, (time.monotonic(), 0))
            self._failing[detector.name] = since, calls + 1
            raise
        self._failing.pop(detector.name, None)
        return seen

    def _look(self, detector: Detector, pictures: Sequence[Image], smallest: Smallest) -> list[tuple[Detection, ...]]:
        return detector.detect(pictures, smallest)


def _chosen(detector: Detector, policy: Policy) -> frozenset[Target]:
    """The targets for which the policy wants this detector."""
    return frozenset(target for target in policy.targets if _wanted(detector, target, policy))


def _wanted(detector: Detector, target: Target, policy: Policy) -> bool:
    named = policy.targets[target].detectors
    chosen = detector.name in named if named else (detector.name, target) not in ON_REQUEST
    return target in detector.targets and chosen


def _smallest(detector: Detector, policy: Policy) -> int | None:
    return min((s for t in _chosen(detector, policy) if (s := policy.targets[t].smallest) is not None), default=None)


def _judged(detector: Detector, detections: Sequence[Detection], policy: Policy) -> list[Detection]:
    """Those that the policy wants, the weak ones marked."""
    found = list(_marked(detector, detections, policy))
    least = min((d.score for d in found if d.evidence is not Evidence.WEAK), default=math.inf)
    return [_raised(d, found) if d.evidence is Evidence.WEAK and d.score >= least else d for d in found]


def _raised(weak: Detection, found: Sequence[Detection]) -> Detection:
    """Where thresholds rise with the height, one that does not count may be a better one of the same object than one
    that does: then both count."""
    counts = any(
        d.evidence is not Evidence.WEAK
        and d.target is weak.target
        and d.score <= weak.score
        and boxes.overlap(d.box, weak.box) > SAME
        for d in found
    )
    return weak.model_copy(update={"evidence": Evidence.DETECTED}) if counts else weak


def _marked(detector: Detector, detections: Sequence[Detection], policy: Policy) -> Iterator[Detection]:
    wanted = _chosen(detector, policy)
    for detection in detections:
        if detection.target not in wanted:
            continue
        threshold = policy.targets[detection.target].threshold
        if threshold is None:
            threshold = detector.threshold.at(detection.box[3] - detection.box[1])
        certain = detection.score >= threshold
        yield detection if certain else detection.model_copy(update={"evidence": Evidence.WEAK})
