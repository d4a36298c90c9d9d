"""Pictures of a film beside what masking made of them, at the same times: a sample, spread evenly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from sfumato.models import planes
from sfumato.models.detectors import Image
from sfumato.models.reading import Origin, Reader, Shot

MOST_PICTURES = 60
"""Of one film."""
LEAST_PAUSE = 1.0
"""Seconds between two of them, at least."""
NEAR = Fraction(1, 100)
"""Seconds by which the times of a pair may differ: containers round them to their own time bases."""


@dataclass(frozen=True, slots=True)
class Pair:
    """``at``: seconds from the first picture. Both pictures have the size of the masked one, which may have lost a last
    row or column."""

    at: float
    picture: Image
    masked: Image


class Pairs:
    """``every``: seconds between two pairs. ``unmatched``: pictures to which the masked film had none of their time."""

    def __init__(self, film: Origin, masked: Origin, max_pixels: int, tick: Callable[[], None] = lambda: None) -> None:
        """``tick``: called with each picture that is decoded. Raises :class:`~sfumato.models.reading.FilmError`."""
        self._film, self._masked = Reader(film, max_pixels), Reader(masked, max_pixels)
        self._tick = tick
        length = self._film.estimate / float(self._film.form.rate)
        self.every = max(LEAST_PAUSE, length / MOST_PICTURES)
        self.unmatched = 0

    def __iter__(self) -> Iterator[Pair]:
        """One pass over both films."""
        others = self._times(self._masked)
        other = next(others, None)
        due = first = None
        for at, shot in self._times(self._film):
            if shot.planes is None or shot.damaged or shot.after_loss or (due is not None and at < due):
                continue
            first = at if first is None else first
            due = at + Fraction(self.every)
            while other is not None and other[0] < at - NEAR:
                other = next(others, None)
            if other is None or other[0] > at + NEAR or other[1].planes is None:
                self.unmatched += 1
                continue
            picture, masked = planes.to_bgr(shot.planes), planes.to_bgr(other[1].planes)
            height, width = masked.shape[:2]
            if picture[:height, :width].shape != masked.shape:  # it changed its size, and the masked film did not
                self.unmatched += 1
                continue
            yield Pair(float(at - first), picture[:height, :width], masked)

    def _times(self, reader: Reader) -> Iterator[tuple[Fraction, Shot]]:
        """Each picture with its time in seconds."""
        for shot in reader.shots():
            self._tick()
            yield shot.pts * reader.form.time_base, shot
