"""The pure pipeline: decode, detect, mask, encode. The live agent and archive jobs use the same one.

It fails closed: whatever goes wrong with a frame ends as a full mask or a drop with a reason, never as
an exception and never as a picture whose masking did not run to its end.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from sfumato.models import images, masks
from sfumato.models.detectors import Detector, Image
from sfumato.models.images import ImageError
from sfumato.schemas.detection import Detection
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy

SMALLEST_SIDE = 16
"""No detector can judge a picture with a shorter side, in pixels: it is fully masked."""
MOST_DETECTIONS = 500
"""More objects than this in one picture: fully masked, rather than trust a detector gone wild."""


@dataclass(frozen=True, slots=True)
class NoPolicy:
    """Why a camera has no usable policy; ``detail`` names the field at fault."""

    reason: Reason
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_pixels`` of a picture, ``quality`` of the JPEG put out (1 to 100), its ``max_bytes``."""

    max_pixels: int = 40_000_000
    quality: int = 85
    max_bytes: int = 8_000_000


@dataclass(slots=True)
class Task:
    """One frame on its way through the engine, and what has become of it.

    ``output`` is the JPEG that may be published, None until the end or where the frame is dropped;
    ``timings`` in milliseconds by stage.
    """

    frame: RawFrame
    policy: Policy | NoPolicy
    outcome: Outcome | None = None
    reason: Reason | None = None
    detail: str | None = None
    width: int | None = None
    height: int | None = None
    detections: tuple[Detection, ...] = ()
    output: bytes | None = None
    timings: dict[str, float] = field(default_factory=dict)
    image: Image | None = None

    def input_sha256(self) -> str:
        return hashlib.sha256(self.frame.payload).hexdigest()

    def output_sha256(self) -> str | None:
        return None if self.output is None else hashlib.sha256(self.output).hexdigest()


class Engine:
    """Anonymizes batches of frames. Not thread-safe: one batch at a time."""

    def __init__(self, detector: Detector, limits: Limits, *, threads: int = 1) -> None:
        self.detector = detector
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine") if threads > 1 else None

    def anonymize(self, tasks: Sequence[Task]) -> None:
        """Bring every task to its outcome, in place. Never raises for what a frame holds."""
        self._each(self._decode, tasks)
        self._detect([task for task in tasks if task.outcome is None])
        self._each(self._finish, [task for task in tasks if task.outcome is None])

    def refuse(self, task: Task, reason: Reason, detail: str | None = None) -> None:
        """Fully mask the task's frame, or drop it where not even its size can be read."""
        task.image, task.output, task.detections = None, None, ()
        try:
            task.width, task.height = images.inspect(
                task.frame.payload, task.frame.content_type, max_pixels=self._limits.max_pixels
            )
            task.output = images.grey(task.width, task.height)
        except ImageError as error:
            task.outcome, task.reason, task.detail = Outcome.DROPPED, error.reason, str(error)
        except Exception as error:  # noqa: BLE001 - fail closed
            task.outcome, task.reason, task.detail = Outcome.DROPPED, Reason.ENCODE_ERROR, type(error).__name__
        else:
            task.outcome, task.reason, task.detail = Outcome.FULLY_MASKED, reason, detail

    def _each(self, stage: Callable[[Task], None], tasks: Sequence[Task]) -> None:
        for _ in (self._pool.map if self._pool else map)(stage, tasks):
            pass

    def _decode(self, task: Task) -> None:
        if isinstance(task.policy, NoPolicy):
            return self.refuse(task, task.policy.reason, task.policy.detail)
        unavailable = task.policy.targets.keys() - self.detector.targets
        if unavailable:
            missing = ", ".join(sorted(unavailable))
            return self.refuse(task, Reason.TARGET_UNAVAILABLE, f"{self.detector.name} does not detect {missing}")
        try:
            with _timed(task, "decode"):
                task.image = images.decode(
                    task.frame.payload, task.frame.content_type, max_pixels=self._limits.max_pixels
                )
        except ImageError as error:
            task.outcome, task.reason, task.detail = Outcome.DROPPED, error.reason, str(error)
            return None
        task.height, task.width = task.image.shape[:2]
        if min(task.height, task.width) < SMALLEST_SIDE:
            self.refuse(task, Reason.TOO_SMALL, f"a side is shorter than {SMALLEST_SIDE} pixels")
        return None

    def _detect(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        started = time.perf_counter()
        try:
            found = self.detector.detect([task.image for task in tasks if task.image is not None])
            if len(found) != len(tasks):
                raise RuntimeError("detector answered for a different number of images")
        except Exception as error:  # noqa: BLE001 - fail closed
            if len(tasks) > 1:  # one bad frame must not mask the others of its batch
                for task in tasks:
                    self._detect([task])
            else:
                self.refuse(tasks[0], Reason.DETECTOR_ERROR, type(error).__name__)
            return
        share = (time.perf_counter() - started) * 1000 / len(tasks)
        for task, detections in zip(tasks, found, strict=True):
            task.timings["detect"] = share
            task.detections = _wanted(detections, task.policy)

    def _finish(self, task: Task) -> None:
        if len(task.detections) > MOST_DETECTIONS:
            return self.refuse(task, Reason.TOO_MANY_DETECTIONS, f"more than {MOST_DETECTIONS}")
        image, policy = task.image, task.policy
        try:
            if image is None or isinstance(policy, NoPolicy):
                raise RuntimeError("nothing decoded")
            with _timed(task, "mask"):
                masks.apply(image, task.detections, policy)
        except Exception as error:  # noqa: BLE001 - fail closed
            return self.refuse(task, Reason.MASK_ERROR, type(error).__name__)
        try:
            with _timed(task, "encode"):
                output = images.encode(image, self._limits.quality)
        except Exception as error:  # noqa: BLE001 - fail closed
            return self.refuse(task, Reason.ENCODE_ERROR, type(error).__name__)
        if len(output) > self._limits.max_bytes:
            return self.refuse(task, Reason.TOO_LARGE, f"more than {self._limits.max_bytes} bytes after masking")
        task.output, task.outcome, task.image = output, Outcome.MASKED, None
        return None


def _wanted(detections: Sequence[Detection], policy: Policy | NoPolicy) -> tuple[Detection, ...]:
    if isinstance(policy, NoPolicy):
        return ()
    return tuple(d for d in detections if d.target in policy.targets and d.score >= policy.targets[d.target].threshold)


@contextmanager
def _timed(task: Task, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    task.timings[stage] = (time.perf_counter() - started) * 1000
