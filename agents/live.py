"""What the bridge holds of each camera, in memory: the newest anonymized picture, and for H.264 what it takes to
decode it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, cast
from weakref import WeakValueDictionary

from sfumato.agents import metrics
from sfumato.agents.hls import Window
from sfumato.agents.runs import Following, Seen
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.unit import AnonymizedUnit

STALE_AFTER = 2.0
LOST_AFTER = 10.0
"""Seconds without a new picture after which a camera counts as stale, and as lost."""
RATE_WINDOW = 5.0
"""Seconds over which the frame rate is counted."""
GROUP_BYTES = 32 * 1024 * 1024
"""Bytes of a group of pictures at most; what follows is left out until the next keyframe."""
GOODBYE_TIMEOUT = 2.0
"""Seconds given to viewers to be told that the bridge goes away."""


class State(StrEnum):
    LIVE = "live"
    STALE = "stale"
    LOST = "lost"


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A frame as it reached the bridge: ``arrived`` is monotonic, in seconds; ``new``: its picture had not come yet."""

    frame: AnonymizedFrame
    arrived: float
    latency_ms: int
    new: bool

    def age_ms(self, now: float) -> int:
        return round((now - self.arrived) * 1000)


@dataclass(slots=True, eq=False)
class Group:
    """A group of pictures: the units of one run from a keyframe on; or a single still.

    ``continues``: its keyframe is the unit after the last one of the group before.
    """

    number: int
    continues: bool
    arrivals: list[Arrival] = field(default_factory=list)
    size: int = 0

    @property
    def still(self) -> bool:
        return self.arrivals[0].frame.unit is None

    @property
    def new(self) -> bool:
        """Whether a picture in it had not come before."""
        return any(arrival.new for arrival in self.arrivals)

    def append(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        self.size += len(arrival.frame.payload)


class Place(NamedTuple):
    """How far a viewer has got: the next arrival of a group."""

    group: int
    unit: int


class Camera:
    """One camera, from its first frame on. ``groups``: the current group of pictures, and the one before."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.viewers = 0
        self.groups: deque[Group] = deque(maxlen=2)
        self.newest: Arrival
        self.hls = Window()
        self._following = Following()
        self._seen = Seen()
        self._arrivals: deque[float] = deque()

    def take(self, frame: AnonymizedFrame) -> bool:
        """Keep a frame; False where it is left out: a still seen before, or a unit that cannot be decoded."""
        unit = frame.unit
        if unit is None:
            new = self._seen.add(frame.id)
            if not new:
                return False
            self._end_run()
        else:
            if not self._admits(unit, len(frame.payload)):
                return False
            new = self._seen.add(frame.id)
        now = time.monotonic()
        latency = round((datetime.now(UTC) - frame.captured_at).total_seconds() * 1000)
        arrival = Arrival(frame, now, latency, new)
        self.groups[-1].append(arrival)
        if new:
            self.newest = arrival
            self._arrivals.append(now)
            while now - self._arrivals[0] > RATE_WINDOW:
                self._arrivals.popleft()
        return True

    def after(self, place: Place | None) -> tuple[Arrival, Place] | None:
        """The arrival that a viewer at ``place`` needs next, and its place then; None: it has everything.

        A new viewer, and one that has fallen behind by more than a group, begins with the current group.
        """
        current = self.groups[-1]
        group = next((group for group in self.groups if place and group.number == place.group), None)
        index = place.unit if group and place else 0
        if group is None or (group is not current and (index == len(group.arrivals) or current.still)):
            group, index = current, 0
        if index == len(group.arrivals):
            return None
        return group.arrivals[index], Place(group.number, index + 1)

    def state(self, now: float) -> State:
        age = now - self.newest.arrived
        return State.LIVE if age < STALE_AFTER else State.STALE if age < LOST_AFTER else State.LOST

    def fps(self, now: float) -> float:
        recent = sum(1 for arrival in self._arrivals if now - arrival <= RATE_WINDOW)
        return round(recent / RATE_WINDOW, 1)

    def _admits(self, unit: AnonymizedUnit, size: int) -> bool:
        """Whether the unit can be decoded; the current group is then the one it belongs to."""
        continues = self._following.expects(unit)
        if not self._following.admits(unit):
            return False
        if unit.keyframe:
            self._begin_group(unit if continues else None)
        elif self.groups[-1].size + size > GROUP_BYTES:
            self._following.lose()
            return False
        return True

    def _end_run(self) -> None:
        """A still stands alone: units wait for the next keyframe."""
        self._following.lose()
        self._begin_group(None)

    def _begin_group(self, keyframe: AnonymizedUnit | None) -> None:
        """``keyframe``: that of the new group, where it continues the one before."""
        before = self.groups[-1] if self.groups else None
        if before is not None and not before.still:
            self.hls.add(before, None if keyframe is None else keyframe.pts * keyframe.time_base)
        self.groups.append(Group(before.number + 1 if before else 0, keyframe is not None))


class Live:
    """Every camera; all methods belong to the event loop's thread.

    Viewers wait for what they have not got, so a slow one skips and holds up nobody.
    """

    def __init__(self) -> None:
        self.cameras: dict[str, Camera] = {}
        self.closing = asyncio.Event()
        self._watchers: set[asyncio.Task[None]] = set()
        # Weak: an event lives while somebody waits for it, so made-up camera ids leave nothing behind.
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def put(self, frame: AnonymizedFrame) -> None:
        """Take a frame; one that is older than, or the same as, what was shown already is left out."""
        id = frame.id.camera
        camera = self.cameras.get(id) or Camera(id)
        if not camera.take(frame):
            metrics.BRIDGE_LEFT_OUT.labels(id).inc()
            return
        self.cameras[id] = camera
        if camera.groups[-1].arrivals[-1].new:
            metrics.BRIDGE_FRAMES.labels(id).inc()
        if (changed := self._changed.pop(id, None)) is not None:
            changed.set()

    async def changed(self, id: str) -> None:
        """Until something else arrives of the camera."""
        await self._changed.setdefault(id, asyncio.Event()).wait()

    async def newer_than(self, id: str, seen: Arrival | None) -> Camera:
        """The camera, as soon as its newest picture is another one than ``seen``."""
        while (camera := self.cameras.get(id)) is None or camera.newest is seen:
            await self.changed(id)
        return camera

    async def after(self, id: str, place: Place | None) -> tuple[Arrival, Place]:
        """What a viewer at ``place`` needs next, as soon as there is something, and its place then."""
        while (camera := self.cameras.get(id)) is None or (found := camera.after(place)) is None:
            await self.changed(id)
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a viewer's task, so that :meth:`close` can wait for it."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._watchers.add(task)
        try:
            yield
        finally:
            self._watchers.discard(task)

    async def close(self) -> None:
        """Send every viewer away, waiting a moment for slow ones."""
        self.closing.set()
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=GOODBYE_TIMEOUT)
