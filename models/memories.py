"""What a worker remembers of each camera: its scene, what moves, its tracks, and the frames that wait for later ones.

A frame that was looked at waits until one taken ``lookahead`` seconds later was, too, or until so much time has passed
(plus what the camera's frames lately varied in their delay); then what is known by then is masked in it. Frames leave
in the order they came. They leave early where the camera's run or policy changes or the camera falls silent; and
where all that wait hold more than ``held_bytes``, the oldest leave fully masked.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sfumato.models.motion import Motion
from sfumato.models.scene import Change, Scene
from sfumato.models.task import NoPolicy, Task
from sfumato.models.tracks import Timeline
from sfumato.schemas.detection import Target
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy

MOST_PATIENCE = 1.0
"""Longest wait beyond the lookahead for a camera whose delay varies, in seconds."""
DELAYS = 16
"""Frames of a camera from which the variation of its delay is taken."""
SLACK = 0.001
"""Times of capture that differ by less are the same, in seconds."""


@dataclass(slots=True)
class Held:
    """A frame that waits. ``time``: of capture, ``since``: of its detection (monotonic), ``wait``: for how
    long after that; all in seconds. ``tracked``: whether the timeline has it."""

    task: Task
    time: float
    since: float
    wait: float
    tracked: bool

    @property
    def bytes(self) -> int:
        return self.task.image.nbytes + len(self.task.frame.payload) if self.task.image is not None else 0


class Memory:
    """One camera's. ``heard``: when a frame came last (monotonic, seconds)."""

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.held: deque[Held] = deque()
        self._scene = Scene()
        self._motion = Motion()
        self._timeline = Timeline(hold=0.0, reach=0.0)
        self._policy: Policy | NoPolicy | None = None
        self._newest = -math.inf
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self._blind_until = -math.inf
        """Until then (monotonic, seconds) masks may be missing that ought to be held."""

    def take(self, task: Task) -> None:
        """The camera's next frame, either with its outcome or with what was found in it, weak boxes included."""
        self.heard = now = time.monotonic()
        if task.policy is not self._policy and task.policy != self._policy:
            self.let_all_go()
            self._policy = task.policy
        if task.outcome is not None or task.image is None or isinstance(task.policy, NoPolicy):
            self.held.append(Held(task, self._newest, now, 0.0, tracked=False))
            return
        started, at = time.perf_counter(), _time(task)
        try:
            self._remember(task, task.policy, at)
        except Exception as error:  # noqa: BLE001 - fail closed
            self._forget(type(error).__name__)
            self._blind_until = now + task.policy.hold
            task.mask_fully(Reason.TRACKING_ERROR, type(error).__name__)
            self.held.append(Held(task, at, now, 0.0, tracked=False))
            return
        if now < self._blind_until and task.outcome is None:
            task.mask_fully(Reason.TRACKING_ERROR, "a moment ago")
        self._newest = at
        self._delays.append(now - at)
        self.held.append(Held(task, at, now, task.policy.lookahead, tracked=True))
        task.timings["track"] = (time.perf_counter() - started) * 1000

    def release(self, now: float) -> Iterator[Task]:
        """Those that have waited long enough, with their final boxes."""
        while self.held and self._may_go(self.held[0], now):
            yield self.let_go(now)

    def let_go(self, now: float) -> Task:
        """The oldest that waits, with the boxes known now."""
        held = self.held.popleft()
        found = self._timeline.pop() if held.tracked else ()
        task = held.task
        if task.outcome is None and isinstance(task.policy, Policy):
            wanted = task.policy.targets
            task.detections = tuple(detection for detection in found if detection.target in wanted)
        if held.tracked:
            task.timings["wait"] = max(0.0, now - held.since) * 1000
        return task

    def let_all_go(self) -> None:
        """Whatever waits may leave now."""
        for held in self.held:
            held.wait = -math.inf

    def due(self) -> float | None:
        """When the oldest that waits must leave (monotonic, seconds)."""
        return self.held[0].since + self.held[0].wait + self._patience() if self.held else None

    def _remember(self, task: Task, policy: Policy, at: float) -> None:
        image = task.image
        if image is None:
            raise ValueError("no picture")
        change = self._scene.follow(task.frame, image, at, policy.hold)
        if change in (Change.RUN, Change.CLOCK, Change.CUT):
            self._timeline.cut(clock=change is not Change.CUT)
        if change is Change.RUN:
            self.let_all_go()
        if change in (Change.RUN, Change.CLOCK):
            self._delays.clear()
        if change not in (None, Change.CLOCK):
            self._motion.reset()
        self._timeline.hold, self._timeline.reach = policy.hold, policy.lookahead + SLACK
        found = list(task.detections)
        if (masking := policy.targets.get(Target.MOTION)) is not None:
            moving = self._motion.detect(image, at, masking)
            if moving is None:
                task.mask_fully(Reason.LEARNING_BACKGROUND)
            found += moving or ()
        self._timeline.append(at, (image.shape[1], image.shape[0]), found)

    def _forget(self, detail: str) -> None:
        """Tracking failed: the frames that wait are fully masked, and it begins anew."""
        for held in self.held:
            if held.tracked and held.task.outcome is None:
                held.task.mask_fully(Reason.TRACKING_ERROR, detail)
            held.tracked = False
        self._timeline, self._motion, self._scene = Timeline(hold=0.0, reach=0.0), Motion(), Scene()

    def _may_go(self, held: Held, now: float) -> bool:
        if held.task.outcome is not None or self._newest - held.time >= held.wait - SLACK:
            return True
        return now >= held.since + held.wait + self._patience()

    def _patience(self) -> float:
        """How much longer than usual the camera's next frame may take, going by its last ones."""
        return min(MOST_PATIENCE, max(self._delays) - min(self._delays)) if self._delays else 0.0


class Memories:
    """Those of all cameras. Not thread-safe."""

    def __init__(self, held_bytes: int) -> None:
        self._held_bytes = held_bytes
        self._memories: dict[str, Memory] = {}

    def take(self, tasks: Sequence[Task]) -> list[Task]:
        """Frames that were decoded and detected, each camera's in order; returns those that leave."""
        for task in tasks:
            self._memories.setdefault(task.frame.id.camera, Memory()).take(task)
        now = time.monotonic()
        released = [task for memory in self._memories.values() for task in memory.release(now)]
        return released + self._shed(now)

    def due(self) -> float | None:
        """When the next frame must leave though nothing more comes (monotonic, seconds); None where none waits."""
        return min((due for memory in self._memories.values() if (due := memory.due()) is not None), default=None)

    def idle(self, seconds: float) -> list[str]:
        """Cameras that have been silent for so long."""
        before = time.monotonic() - seconds
        return [camera for camera, memory in self._memories.items() if memory.heard < before]

    def close(self, camera: str) -> list[Task]:
        """Forget a camera; returns the frames of it that still waited."""
        memory = self._memories.pop(camera, None)
        if memory is None:
            return []
        memory.let_all_go()
        return list(memory.release(time.monotonic()))

    def _shed(self, now: float) -> list[Task]:
        """Fully mask the oldest that wait, as long as all together hold too much."""
        shed: list[Task] = []
        while sum(held.bytes for memory in self._memories.values() for held in memory.held) > self._held_bytes:
            memory = min((m for m in self._memories.values() if m.held), key=lambda memory: memory.held[0].since)
            memory.held[0].task.mask_fully(Reason.TOO_MUCH_HELD, f"more than {self._held_bytes} bytes wait")
            shed += [memory.let_go(now), *memory.release(now)]
        return shed


def _time(task: Task) -> float:
    """When the frame was taken, in seconds: of access units by their presentation time, which has no jitter."""
    unit = task.frame.unit
    return unit.seconds if unit is not None else task.frame.captured_at.timestamp()
