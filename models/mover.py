"""What moves in a film: the target ``motion``, with a background that is known from the first picture on.

The live engine fully masks while it learns the background. A film can be read ahead instead: its beginning, played
backwards and, where it is short, to and fro, teaches the background before the first picture is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, cycle, pairwise

from sfumato.models import planes
from sfumato.models.detectors import Image
from sfumato.models.motion import SMALLEST, SMALLEST_SIDE, WARM_UP_FRAMES, WARM_UP_SECONDS, Motion
from sfumato.models.planes import Planes
from sfumato.schemas.detection import Detection
from sfumato.schemas.masking import Masking

ENOUGH_SECONDS, ENOUGH_FRAMES = WARM_UP_SECONDS * 1.2, WARM_UP_FRAMES + 5
LONGEST_STEP = 1.0
"""Seconds between two pictures that count at most while the background is learnt."""


class Mover:
    """Give it each picture once, in order, after :meth:`learn`."""

    def __init__(self, masking: Masking) -> None:
        self._scale = min(1.0, SMALLEST_SIDE / (masking.smallest or SMALLEST))
        self._masking = masking.model_copy(update={"smallest": SMALLEST_SIDE})  # pictures come shrunk already
        self._motion = Motion()
        self._shift = 0.0

    def learn(self, beginning: Iterable[tuple[float, Planes]]) -> None:
        """Learn the background from the film's first pictures, with their times in seconds; takes those it needs."""
        taken: list[tuple[float, Image]] = []
        for time, picture in beginning:
            shrunk = self._shrunk(picture)
            if taken and shrunk.shape != taken[0][1].shape:
                break
            taken.append((time, shrunk))
            if time - taken[0][0] >= ENOUGH_SECONDS and len(taken) >= ENOUGH_FRAMES:
                break
        if len(taken) > 1:
            self._play(taken)

    def detect(self, picture: Planes, time: float) -> tuple[Detection, ...] | None:
        """What moves, in the picture's pixels; None while the background is learnt anew."""
        found = self._motion.detect(self._shrunk(picture), time + self._shift, self._masking)
        if found is None:
            return None
        return tuple(d.model_copy(update={"box": tuple(side / self._scale for side in d.box)}) for d in found)

    def _play(self, taken: list[tuple[float, Image]]) -> None:
        """Backwards, then to and fro until enough is seen; ends at the first picture. :attr:`_shift` brings the film's
        times behind those used here."""
        back, forth = taken[::-1], taken
        clock, seen = 0.0, 0
        for turn in cycle((back, forth)):
            for before, (at, image) in pairwise(chain([turn[0]], turn)):
                clock += min(LONGEST_STEP, abs(at - before[0]))
                self._motion.detect(image, clock, self._masking)
                seen += 1
            if turn is back and clock >= ENOUGH_SECONDS and seen >= ENOUGH_FRAMES:
                break
            if clock == 0.0:
                return
        self._shift = clock - taken[0][0]

    def _shrunk(self, picture: Planes) -> Image:
        width, height = picture.size
        return planes.to_bgr(picture, (max(1, round(width * self._scale)), max(1, round(height * self._scale))))
