"""The pure pipeline: decode, detect, remember, mask, encode. The live agent and archive jobs use the same one.

It fails closed: whatever goes wrong with a frame ends as a full mask or a drop with a reason, never as
an exception and never as a picture whose masking did not run to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby
from typing import TypeVar

import numpy as np

from sfumato.models import boxes, images, masks
from sfumato.models.decoders import Decoders
from sfumato.models.detectors import Image
from sfumato.models.encoders import TICKS, Encoders
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import GREY, ImageError
from sfumato.models.memories import Memories
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.detection import DetectorName, Evidence
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Codec, Overload, OverloadRule, Policy
from sfumato.schemas.unit import CODECS, H264

SMALLEST_SIDE = 16
"""No detector can judge a picture with a shorter side, in pixels: it is fully masked."""
MOST_DETECTIONS = 500
"""More objects than this in one picture: fully masked, rather than trust a detector gone wild."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_pixels`` of a picture, ``quality`` of the JPEG put out (1 to 100), ``max_bytes`` of what is put out;
    ``decoders``, and encoders, kept open; ``h264_encoder`` for policies with H.264 output; ``held_bytes`` of pictures
    that wait for later ones."""

    max_pixels: int = 40_000_000
    quality: int = 85
    max_bytes: int = 8_000_000
    decoders: int = 256
    h264_encoder: str = "libx264"
    held_bytes: int = 1_000_000_000


class Engine:
    """Anonymizes batches of frames. Not thread-safe: one batch at a time."""

    def __init__(
        self,
        ensemble: Ensemble,
        limits: Limits,
        *,
        threads: int = 1,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._ensemble = ensemble
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine") if threads > 1 else None
        self._decoders = Decoders(limits.decoders, limits.max_pixels)
        self._encoders = Encoders(limits.h264_encoder, limits.decoders)
        self._memories = Memories(limits.held_bytes)

    def anonymize(self, tasks: Sequence[Task]) -> list[Task]:
        """Take frames in; returns those brought to their outcome, each camera's in presentation order.

        A frame may come back with a later call: decoders reorder and hold back, and a policy's lookahead lets a frame
        wait for later ones (``models/memories.py``). Never raises for what a frame holds.
        """
        return self._finish(self._look([*chain.from_iterable(self._each(self._decode, _by_camera(tasks)))]))

    def due(self) -> float | None:
        """When the next frame that waits is to come back though no other frame comes: monotonic, in seconds; None where
        none waits. Any call of :meth:`anonymize`, with nothing too, then returns it."""
        return self._memories.due()

    def broken(self) -> DetectorName | None:
        """As of :meth:`~sfumato.models.ensemble.Ensemble.broken`."""
        return self._ensemble.broken()

    def close_idle(self, seconds: float) -> list[Task]:
        """Bring to its outcome what is left of cameras that have been silent for so long, and forget them."""
        idle = dict.fromkeys([*self._decoders.idle(seconds), *self._memories.idle(seconds)])
        released = self._look([task for camera in idle for task in self._close(camera)])
        settled = self._finish([*released, *chain.from_iterable(self._memories.close(camera) for camera in idle)])
        for camera in idle:
            self._encoders.close(camera)
        return settled

    def refuse(self, task: Task, reason: Reason, detail: str | None = None) -> None:
        """Fully mask the task's frame as JPEG, or drop it where not even its size can be read, or where it is a unit
        to be discarded. Needs no codec."""
        if _discarded(task):
            return task.drop(Reason.DISCARDED)
        task.mask_fully(reason, detail)
        try:
            task.width, task.height = self._stated_size(task)
            task.output, task.content_type = images.grey(task.width, task.height), "image/jpeg"
        except ImageError as error:
            task.drop(error.reason, str(error))
        except Exception as error:  # noqa: BLE001 - fail closed
            task.drop(Reason.ENCODE_ERROR, type(error).__name__)

    def _look(self, tasks: list[Task]) -> list[Task]:
        """Detect in what was decoded; returns what need not wait any longer."""
        self._detect([task for task in tasks if task.outcome is None])
        return self._memories.take(tasks)

    def _finish(self, tasks: list[Task]) -> list[Task]:
        """Mask and encode what was looked at; make the grey rectangle of what is fully masked."""
        self._run(self._mask, [task for task in tasks if task.outcome is None])
        self._run(self._encode, _by_encoder(task for task in tasks if task.outcome is not Outcome.DROPPED))
        return tasks

    def _each(self, stage: Callable[[A], B], items: Iterable[A]) -> Iterable[B]:
        return (self._pool.map if self._pool else map)(stage, items)

    def _run(self, stage: Callable[[A], None], items: Iterable[A]) -> None:
        for _ in self._each(stage, items):
            pass

    def _decode(self, tasks: list[Task]) -> list[Task]:
        """One camera's frames to pictures; some of its units may stay in the decoder."""
        settled: list[Task] = []
        for is_units, run in groupby(tasks, lambda task: task.frame.content_type in CODECS):
            if is_units:
                units = self._decoders.decode(list(run))
                settled += [self._judge(task) for task in units]
            else:
                settled += self._close(tasks[0].frame.id.camera)
                settled += [self._decode_still(task) for task in run]
        return settled

    def _close(self, camera: str) -> list[Task]:
        return [self._judge(task) for task in self._decoders.close(camera)]

    def _decode_still(self, task: Task) -> Task:
        if self._excused(task):
            return task
        try:
            with _timed(task, "decode"):
                task.image = images.decode(
                    task.frame.payload, task.frame.content_type, max_pixels=self._limits.max_pixels
                )
        except ImageError as error:
            task.drop(error.reason, str(error))
        return self._judge(task)

    def _judge(self, task: Task) -> Task:
        """Whether what was decoded can be looked at by a detector."""
        if _discarded(task):  # whatever else became of it
            task.drop(Reason.DISCARDED)
        if task.outcome is not None or self._excused(task):
            return task
        if task.image is None:
            task.mask_fully(Reason.UNDECODABLE, "nothing decoded")
            return task
        task.height, task.width = task.image.shape[:2]
        if min(task.height, task.width) < SMALLEST_SIDE:
            task.mask_fully(Reason.TOO_SMALL, f"a side is shorter than {SMALLEST_SIDE} pixels")
        return task

    def _excused(self, task: Task) -> bool:
        """Whether the frame has its outcome without being looked at."""
        if isinstance(task.policy, NoPolicy):
            task.mask_fully(task.policy.reason, task.policy.detail)
        elif missing := self._ensemble.missing(task.policy):
            task.mask_fully(Reason.TARGET_UNAVAILABLE, missing)
        elif self._late(task, task.policy.overload):
            task.drop(Reason.LATE, f"older than {task.policy.overload.max_age:g} s")
        return task.outcome is not None

    def _late(self, task: Task, overload: Overload) -> bool:
        """Whether the frame is too old to be looked at; its unit has been decoded by then, since others need it."""
        age = (self._now() - task.frame.captured_at).total_seconds()
        return overload.rule is OverloadRule.SKIP and age > overload.max_age

    def _detect(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        started = time.perf_counter()
        try:
            found = self._ensemble.detect([_image(task) for task in tasks], [_policy(task) for task in tasks])
        except Exception as error:  # noqa: BLE001 - fail closed
            if len(tasks) > 1:  # one bad frame must not mask the others of its batch
                for task in tasks:
                    self._detect([task])
            else:
                tasks[0].mask_fully(Reason.DETECTOR_ERROR, type(error).__name__)
            return
        share = (time.perf_counter() - started) * 1000 / len(tasks)
        for task, detections in zip(tasks, found, strict=True):
            task.timings["detect"] = share
            task.detectors = self._ensemble.records(_policy(task))
            if sum(d.evidence is not Evidence.WEAK for d in detections) > MOST_DETECTIONS:
                task.mask_fully(Reason.TOO_MANY_DETECTIONS, f"more than {MOST_DETECTIONS}")
            elif any(boxes.beyond(d.box, (task.width or 0, task.height or 0)) for d in detections):
                # What it found is somewhere else, and would stay open.
                task.mask_fully(Reason.DETECTOR_ERROR, "a box outside the picture")
            else:
                task.detections = detections

    def _mask(self, task: Task) -> None:
        if len(task.detections) > MOST_DETECTIONS:
            return task.mask_fully(
                Reason.TOO_MANY_DETECTIONS, f"more than {MOST_DETECTIONS} with those of other frames"
            )
        try:
            with _timed(task, "mask"):
                task.spared = masks.apply(_image(task), task.detections, _policy(task))
        except Exception as error:  # noqa: BLE001 - fail closed
            task.mask_fully(Reason.MASK_ERROR, type(error).__name__)

    def _encode(self, tasks: Iterable[Task]) -> None:
        """Tasks that share an encoder, in order."""
        for task in tasks:
            image, task.image = task.image, None
            if task.outcome is None and image is not None:
                try:
                    with _timed(task, "encode"):
                        self._write(task, image)
                except Exception as error:  # noqa: BLE001 - fail closed
                    task.mask_fully(Reason.ENCODE_ERROR, type(error).__name__)
                else:
                    if len(task.output or b"") <= self._limits.max_bytes:
                        task.outcome = Outcome.MASKED
                        continue
                    self._encoders.close(task.frame.id.camera)  # its next unit must not refer to this one
                    task.mask_fully(Reason.TOO_LARGE, f"more than {self._limits.max_bytes} bytes after masking")
            self._write_grey(task)

    def _write_grey(self, task: Task) -> None:
        """The fully masked frame, in the codec that the camera's readers expect; made without looking at the input."""
        if _codec(task) is Codec.H264 and self._write_grey_unit(task):
            return
        self._encoders.close(task.frame.id.camera)
        self.refuse(task, task.reason or Reason.ENCODE_ERROR, task.detail)

    def _write_grey_unit(self, task: Task) -> bool:
        try:
            width, height = self._stated_size(task)
            self._write(task, np.full((height, width, 3), GREY, np.uint8))
        except Exception:  # noqa: BLE001 - the caller then makes a JPEG, or drops the frame with a reason
            return False
        return True

    def _write(self, task: Task, image: Image) -> None:
        """Encode what may be published. Raises what the encoders raise."""
        camera, raw = task.frame.id.camera, task.frame.unit
        task.height, task.width = image.shape[:2]
        if _codec(task) is Codec.JPEG:
            task.output, task.content_type, task.unit = images.encode(image, self._limits.quality), "image/jpeg", None
            self._encoders.close(camera)
            return
        pts = raw.pts if raw else round(task.frame.captured_at.timestamp() / TICKS)
        time_base, source = raw.time_base if raw else TICKS, (task.frame.id.epoch, raw is None)
        encoded = self._encoders.encode(camera, image, task.policy.output, pts, time_base, source)
        task.output, task.content_type, task.unit = encoded.payload, H264, encoded.unit
        task.width, task.height = encoded.width, encoded.height

    def _stated_size(self, task: Task) -> tuple[int, int]:
        """Width and height of a frame that is not decoded. Raises :class:`ImageError`."""
        frame = task.frame
        if frame.unit is None:
            return images.inspect(frame.payload, frame.content_type, max_pixels=self._limits.max_pixels)
        if not 0 < frame.width * frame.height <= self._limits.max_pixels:
            raise ImageError(Reason.TOO_LARGE, f"states {frame.width}x{frame.height}")
        return frame.width, frame.height


def _discarded(task: Task) -> bool:
    """Whether nothing of the frame is to be published: it was sent for the sake of units that need it."""
    return task.frame.unit is not None and task.frame.unit.discard


def _codec(task: Task) -> Codec:
    return task.policy.output.codec


def _by_camera(tasks: Iterable[Task]) -> list[list[Task]]:
    """The tasks of each camera, in order."""
    cameras: dict[str, list[Task]] = {}
    for task in tasks:
        cameras.setdefault(task.frame.id.camera, []).append(task)
    return list(cameras.values())


def _by_encoder(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks that must be encoded one after the other: those of a camera with H.264 output; others stand alone."""
    groups: dict[str | int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.frame.id.camera if _codec(task) is Codec.H264 else id(task), []).append(task)
    return list(groups.values())


def _image(task: Task) -> Image:
    if task.image is None:
        raise RuntimeError("nothing decoded")
    return task.image


def _policy(task: Task) -> Policy:
    if isinstance(task.policy, NoPolicy):
        raise RuntimeError("no policy")
    return task.policy


@contextmanager
def _timed(task: Task, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    task.timings[stage] = (time.perf_counter() - started) * 1000
