"""What may be acknowledged: per partition, events strictly in offset order, and never beyond the low-water mark.

The mark is the lowest first offset of any camera's current group of pictures, or of one with a frame that has not
ended. So every committed offset lies at or before a keyframe of each camera in the partition, and the worker that
goes on from there can decode all it must. (Faust commits over a single unacknowledged event among acknowledged ones:
``docs/decisions/0004-offsets.md``.) Whatever else has to hold back events uses this mechanism, too.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sfumato.models.task import Task
from sfumato.schemas.audit import Origin


@dataclass(slots=True)
class Held:
    """One event that is not acknowledged yet. ``floor``: the first offset that a worker has to read again to bring
    it to its end. ``task`` is None for a message that is no frame."""

    event: Any
    offset: int
    floor: int
    task: Task | None
    ended: bool = False


@dataclass(slots=True)
class Gop:
    """A camera's current group of pictures; times are monotonic, in seconds. ``before``: the first offset of the group
    before it, as long as pictures may follow that are shown before the keyframe and predicted from that group."""

    first: int
    pts: int
    since: float
    heard: float
    before: int | None

    @property
    def floor(self) -> int:
        return self.first if self.before is None else self.before


@dataclass(slots=True)
class Partition:
    """Events in offset order from the first one that is not acknowledged."""

    held: deque[Held] = field(default_factory=deque)
    open: dict[int, Held] = field(default_factory=dict)
    """By offset, those whose frame has not ended."""
    gops: dict[str, Gop] = field(default_factory=dict)

    def low_water(self) -> float:
        floors = [held.floor for held in self.open.values()] + [gop.floor for gop in self.gops.values()]
        return min(floors, default=math.inf)


class Acknowledger:
    """All partitions of a worker. ``idle``: a camera silent for so long, in seconds, holds nothing back; ``longest``:
    nor does a group of pictures that goes on for so long. Neither counts from before ``since``: when the broker came
    into reach (monotonic, seconds)."""

    def __init__(self, idle: float, longest: float, since: Callable[[], float] = lambda: 0.0) -> None:
        self._idle = idle
        self._longest = longest
        self._since = since
        self._partitions: dict[tuple[str, int], Partition] = {}

    def take(self, event: Any, origin: Origin, task: Task | None) -> None:
        """An event was read, in offset order. One that is read again begins its partition anew."""
        place = (origin.topic, origin.partition)
        partition = self._partitions.get(place)
        if partition is None or (partition.held and origin.offset <= partition.held[-1].offset):
            partition = self._partitions[place] = Partition()
        floor = origin.offset if task is None else _floor(partition, origin.offset, task)
        held = Held(event, origin.offset, floor, task)
        partition.held.append(held)
        partition.open[origin.offset] = held

    def end(self, origin: Origin) -> None:
        """The event's frame has its outcome, and the broker has acknowledged that."""
        partition = self._partitions.get((origin.topic, origin.partition))
        held = partition.open.pop(origin.offset, None) if partition else None
        if held is not None:
            held.ended, held.task = True, None  # its bytes are not needed any more

    def releasable(self) -> Iterator[Any]:
        """Events to be acknowledged now, in offset order per partition; each is given once."""
        for partition in self._partitions.values():
            self._let_go(partition)
            low_water = partition.low_water()
            while partition.held and partition.held[0].ended and partition.held[0].offset < low_water:
                yield partition.held.popleft().event

    @property
    def held(self) -> int:
        """How many events are not acknowledged."""
        return sum(len(partition.held) for partition in self._partitions.values())

    def clear(self) -> None:
        """The partitions were revoked: whoever gets them reads again what was not acknowledged."""
        self._partitions.clear()

    def abandon_gops(self) -> None:
        """Hold back nothing for the sake of decoding: the process ends and must not meet the same frames again."""
        for partition in self._partitions.values():
            for camera in list(partition.gops):
                _release(partition, camera)

    def _let_go(self, partition: Partition) -> None:
        now, since = time.monotonic(), self._since()
        for camera, gop in list(partition.gops.items()):
            if now - max(gop.heard, since) > self._idle or now - max(gop.since, since) > self._longest:
                _release(partition, camera)


def _floor(partition: Partition, offset: int, task: Task) -> int:
    camera, unit, now = task.frame.id.camera, task.frame.unit, time.monotonic()
    if unit is None:
        partition.gops.pop(camera, None)
        return offset
    gop = partition.gops.get(camera)
    if unit.keyframe:
        partition.gops[camera] = Gop(offset, unit.pts, now, now, gop.first if gop else None)
        return offset
    if gop is None:  # joined in its middle, or it has gone on for too long
        return offset
    gop.heard = now
    if unit.pts > gop.pts:
        gop.before = None
    return gop.floor


def _release(partition: Partition, camera: str) -> None:
    """Frames of the camera that have not ended still hold back themselves, no longer what they are decoded from."""
    del partition.gops[camera]
    for held in partition.open.values():
        if held.task is not None and held.task.frame.id.camera == camera:
            held.floor = held.offset
