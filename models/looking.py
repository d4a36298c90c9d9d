"""Which pictures of a film the detectors look at.

Looked at is a picture every :data:`EVERY` seconds. Those between two of them are looked at as well, halving again and
again, unless both show the same objects in about the same places: then each object masks the union of both places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from sfumato.models import boxes
from sfumato.schemas.detection import Detection, Evidence
from sfumato.schemas.outcome import Reason

T = TypeVar("T")

EVERY = 0.12
"""Seconds; what is in view for less than this may be missed. Three pictures at 25 a second, one at 10."""
SAME_PLACE = 0.5
"""Intersection over union from which an object counts as having stayed: what it moved by, dilation covers."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found in one picture, weak boxes included; ``reason`` where it cannot be known, with its ``detail``.
    ``looked``: whether detectors saw this very picture."""

    detections: tuple[Detection, ...] = ()
    reason: Reason | None = None
    detail: str | None = None
    looked: bool = True


Look = Callable[[Sequence[T]], Sequence[Sight]]


def step(rate: float) -> int:
    """Of how many pictures one is looked at, at so many a second."""
    return max(1, int(EVERY * rate + 0.001))


class Watcher(Generic[T]):
    """``look``: what is found in each of some pictures. ``step``: of so many pictures one is looked at in any case.
    ``batch``: so many of those are looked at together."""

    def __init__(self, look: Look[T], step: int, batch: int) -> None:
        self._look = look
        self._step = step
        self._chunk = step * batch
        self._last: Sight | None = None

    def watch(self, pictures: Iterable[T]) -> Iterator[tuple[T, Sight]]:
        """Every picture with what is taken to be in it, in order; some are held back for those that follow."""
        chunk: list[T] = []
        for picture in pictures:
            chunk.append(picture)
            if len(chunk) == self._chunk:
                yield from self._settle(chunk)
                chunk = []
        if chunk:
            yield from self._settle(chunk)

    def _settle(self, chunk: list[T]) -> Iterator[tuple[T, Sight]]:
        known: dict[int, Sight] = {} if self._last is None else {-1: self._last}
        wanted = {*range(self._step - 1, len(chunk), self._step), len(chunk) - 1}
        if self._last is None:
            wanted.add(0)
        while wanted:
            order = sorted(wanted)
            known |= zip(order, self._look([chunk[index] for index in order]), strict=True)
            wanted = {
                (left + right) // 2
                for left, right in pairwise(sorted(known))
                if right - left > 1 and between(known[left], known[right]) is None
            }
        for left, right in pairwise(sorted(known)):
            for index in range(left + 1, right):
                known[index] = between(known[left], known[right]) or known[right]
        self._last = known[len(chunk) - 1]
        for index, picture in enumerate(chunk):
            yield picture, known[index]


def between(left: Sight, right: Sight) -> Sight | None:
    """What is masked in the pictures between two that were looked at; None where they do not show the same."""
    if left.reason is not None or right.reason is not None:
        return None
    ahead, back = _partners(left, right), _partners(right, left)
    if ahead is None or back is None:
        return None
    found = {_key(detection): detection for detection in (*ahead, *back)}
    return Sight(tuple(found.values()), looked=False)


def _partners(one: Sight, other: Sight) -> list[Detection] | None:
    """Each detection of one sight joined with its own of the other; a weak one may have none."""
    joined = []
    for detection in one.detections:
        alike = [d for d in other.detections if d.target is detection.target]
        partner = max(alike, key=lambda d: boxes.overlap(d.box, detection.box), default=None)
        if partner is not None and boxes.overlap(partner.box, detection.box) >= SAME_PLACE:
            weak = {detection.evidence, partner.evidence} == {Evidence.WEAK}
            both = {
                "box": boxes.union(detection.box, partner.box),
                "score": min(detection.score, partner.score),
                "evidence": Evidence.WEAK if weak else Evidence.TRACKED,
                "outline": None,
            }
            joined.append(detection.model_copy(update=both))
        elif detection.evidence is Evidence.WEAK:
            joined.append(detection)
        else:
            return None
    return joined


def _key(detection: Detection) -> tuple[object, ...]:
    return detection.target, detection.box, detection.evidence
