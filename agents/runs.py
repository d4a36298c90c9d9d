"""At least once in, every picture once out: which units a decoder may be given, and which pictures are new.

The anonymizer's encoder works in runs (``schemas/unit.py``). After a worker was killed its successor begins a new run
and sends pictures again that were sent before, as other bytes. So a consumer decodes every unit of the run that it
follows, and drops duplicates after decoding, by identity.
"""

from __future__ import annotations

from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.unit import AnonymizedUnit

WINDOW = 4096
"""Sequences per camera whose pictures are remembered; older ones count as seen."""


class Following:
    """Follows one run at a time, unit by unit; begins, and changes to another run, at a keyframe only."""

    def __init__(self) -> None:
        self._stream: str | None = None
        self._next = 0

    def expects(self, unit: AnonymizedUnit) -> bool:
        """Whether it is the next one of the run that is followed."""
        return unit.stream == self._stream and unit.number == self._next

    def admits(self, unit: AnonymizedUnit) -> bool:
        """Whether a decoder may be given it now. After a missing unit: none before the next keyframe."""
        if unit.stream == self._stream and unit.number < self._next:
            return False  # given already
        if unit.keyframe or self.expects(unit):
            self._stream, self._next = unit.stream, unit.number + 1
            return True
        if unit.stream == self._stream:
            self.lose()
        return False

    def lose(self) -> None:
        """What comes before the next keyframe cannot be decoded."""
        self._stream = None


class Seen:
    """The identities of one camera's pictures that were shown or stored: its newest epoch's last :data:`WINDOW`.

    Sequences may go back by a few, because a camera's decode order is not always its presentation order.
    """

    def __init__(self) -> None:
        self._epoch = self._newest = -1
        self._recent: set[int] = set()

    def add(self, id: FrameId) -> bool:
        """Whether it is new. Those of older epochs, and those too old to be remembered, are not."""
        if id.epoch > self._epoch:
            self._epoch, self._newest = id.epoch, -1
            self._recent.clear()
        oldest = self._newest - WINDOW
        if id.epoch < self._epoch or id.sequence <= oldest or id.sequence in self._recent:
            return False
        self._newest = max(self._newest, id.sequence)
        self._recent.add(id.sequence)
        if len(self._recent) > 2 * WINDOW:
            self._recent = {sequence for sequence in self._recent if sequence > self._newest - WINDOW}
        return True
