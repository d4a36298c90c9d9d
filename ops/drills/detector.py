"""A worker whose detector misbehaves while a file says so: the product's Faust app, with its detector wrapped.

``faust -A drills.detector worker``. The file that ``DRILL_FAULT`` names holds a name of :data:`FAULTS`,
:data:`WEDGE`, or nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sfumato.agents import anonymize
from sfumato.agents.app import app as app
from sfumato.models import detectors
from sfumato.models.detectors import Detector, DetectorOptions, Image, Smallest
from sfumato.schemas.detection import Detection, DetectorName

SLOWER = 20
STEADY = 0.05
"""Seconds per picture of the detector with a known capacity."""
Look = Callable[[], list[tuple[Detection, ...]]]


def _hang(look: Look) -> list[tuple[Detection, ...]]:
    while True:
        time.sleep(60)


def _fail(look: Look) -> list[tuple[Detection, ...]]:
    raise RuntimeError("a drill")


def _slow(look: Look) -> list[tuple[Detection, ...]]:
    started = time.perf_counter()
    found = look()
    time.sleep((SLOWER - 1) * (time.perf_counter() - started))
    return found


def _steady(look: Look) -> list[tuple[Detection, ...]]:
    found = look()
    time.sleep(STEADY * len(found))
    return found


def _elsewhere(look: Look, *box: float) -> list[tuple[Detection, ...]]:
    """Boxes in other places than where the faces are; unvalidated, as a detector's arithmetic can make them."""
    return [tuple(each.model_copy(update={"box": box}) for each in boxes) for boxes in look()]


FAULTS: dict[str, Callable[[Look], list[tuple[Detection, ...]]]] = {
    "": lambda look: look(),
    "hang": _hang,
    "raise": _fail,
    "slow": _slow,
    "steady": _steady,
    "nan": lambda look: _elsewhere(look, *[float("nan")] * 4),
    "outside": lambda look: _elsewhere(look, 5000.0, 5000.0, 5100.0, 5100.0),
}
WEDGE = "wedge"
"""Not of the detector: what was computed is never delivered, so that commits stand still."""


def fault() -> str:
    return Path(os.environ["DRILL_FAULT"]).read_text()


class Misbehaving:
    """A detector, and what it does wrong."""

    def __init__(self, detector: Detector) -> None:
        self.name, self.targets, self.threshold = detector.name, detector.targets, detector.threshold
        self.weights_sha256 = detector.weights_sha256
        self._detector = detector

    def detect(self, pictures: Sequence[Image], smallest: Smallest = None) -> list[tuple[Detection, ...]]:
        return FAULTS.get(fault(), FAULTS[""])(lambda: self._detector.detect(pictures, smallest))


def _centerface(options: DetectorOptions) -> Detector:
    return Misbehaving(make(options))


async def _deliver(*arguments: Any) -> None:
    while fault() == WEDGE:
        await asyncio.sleep(0.2)
    await deliver(*arguments)


make, weights = detectors.DETECTORS[DetectorName.CENTERFACE]
deliver = anonymize.deliver
if "DRILL_FAULT" in os.environ:  # not where somebody only wants to know the names
    detectors.DETECTORS[DetectorName.CENTERFACE] = (_centerface, weights)
    anonymize.deliver = _deliver
