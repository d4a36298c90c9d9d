"""Access units to pictures, camera by camera, each unit in step with its sequence number.

Damage spreads: a picture predicted from a missing or damaged one is wrong, and FFmpeg says so only of the first. So
from a gap in the sequence, a unit that the decoder refuses or a picture that it had to conceal, up to the next
keyframe, nothing is decoded and every frame is :attr:`Reason.DAMAGED`; a new decoder then begins at the keyframe.
What a decoder cannot know is written down in ``docs/decisions/0008-decoding.md``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from sfumato.models.detectors import Image
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Damaged
from sfumato.schemas.unit import CODECS, RawUnit

LONGEST_DELAY = 64
"""Units a picture may lag behind the newest; the standards' largest reorder buffer is 16 pictures."""
NOTICE = {
    "h264": "crccheck+bitstream+buffer+careful",
    "hevc": "crccheck+bitstream+buffer+careful+explode",
}
"""FFmpeg's ``err_detect`` by codec: what makes it tell of damage. Its H.264 decoder marks each picture that it had to
conceal, and with ``explode`` would refuse sound ones where it joins an open group of pictures; its H.265 decoder marks
none, and refuses with ``explode`` what it notices and what differs from the picture hashes that a camera may send."""


class Decoders:
    """The decoders of all cameras. At most ``limit`` are open: one camera more is refused until another falls silent,
    rather than that all of them lose their decoders in turn."""

    def __init__(self, limit: int, max_pixels: int) -> None:
        self._limit = limit
        self._max_pixels = max_pixels
        self._decoders: dict[str, Decoder] = {}
        self._lock = threading.Lock()

    def decode(self, tasks: list[Task]) -> list[Task]:
        """Feed one camera's units, in order; returns the tasks settled by that, in presentation order: each has a
        picture (``image``) or an outcome. Cameras may be decoded in parallel."""
        decoder = self._of(tasks[0].frame.id.camera)
        if decoder is None:
            for task in tasks:
                task.mask_fully(Reason.TOO_MANY_CAMERAS, f"more than {self._limit} in one worker")
            return tasks
        return [settled for task in tasks for settled in decoder.feed(task)]

    def close(self, camera: str) -> list[Task]:
        """Close the camera's decoder, if there is one; returns the tasks that it still held, settled."""
        with self._lock:
            decoder = self._decoders.pop(camera, None)
        return decoder.close() if decoder else []

    def idle(self, seconds: float) -> list[str]:
        """Cameras that have sent nothing for so long."""
        before = time.monotonic() - seconds
        with self._lock:
            return [camera for camera, decoder in self._decoders.items() if decoder.heard < before]

    def _of(self, camera: str) -> Decoder | None:
        with self._lock:
            if camera not in self._decoders and len(self._decoders) < self._limit:
                self._decoders[camera] = Decoder(self._max_pixels)
            return self._decoders.get(camera)


class Decoder:
    """One camera's decoder. ``heard``: when it was last fed (monotonic, seconds)."""

    def __init__(self, max_pixels: int) -> None:
        self.heard = time.monotonic()
        self._max_pixels = max_pixels
        self._context: Any = None
        self._run: tuple[int, str] | None = None
        """Epoch and content type of what is being decoded."""
        self._next = 0
        self._joined = False
        """Whether anything could be decoded since the run began. What came before is dropped: where a worker takes over
        from another, that one has brought it to its end."""
        self._leading: int | None = None
        """Units presented before this pts refer to what came before the keyframe at which decoding began."""
        self._gop = 0
        self._fed: dict[int, tuple[Task, int]] = {}
        """By sequence, units whose picture has not come out, with the number of their group of pictures."""
        self._waiting: deque[Task] = deque()
        """Pictures, in presentation order, that could still prove to rest on a damaged one."""
        self._spoilt = Spoilt()

    def feed(self, task: Task) -> list[Task]:
        """Take one unit; returns the tasks that are settled by it. Never raises for what a unit holds."""
        self.heard = time.monotonic()
        frame = task.frame
        unit = frame.unit
        if unit is None:
            raise ValueError("not an access unit")
        settled = self._follow(task)
        if unit.keyframe:
            self._reach_keyframe(unit, task)
        if self._context is None:
            return [*settled, self._without_reference(task)]
        if self._leading is not None and unit.pts < self._leading:
            self._waiting.append(self._without_reference(task))
            return [*settled, *self._release()]
        self._joined |= not unit.keyframe
        self._fed[frame.id.sequence] = (task, self._gop)
        started = time.perf_counter()
        try:
            pictures = self._context.decode(_packet(task))
        except FFmpegError as error:
            del self._fed[frame.id.sequence]
            return [*settled, *self._end(), _dropped(task, Reason.UNDECODABLE, type(error).__name__)]
        task.timings["decode"] = (time.perf_counter() - started) * 1000
        settled += self._take(pictures)
        return [*settled, *self._end()] if any(picture.is_corrupt for picture in pictures) else settled

    def close(self) -> list[Task]:
        """Get out what the decoder still holds."""
        return self._end()

    def _follow(self, task: Task) -> list[Task]:
        """Notice a new run, a gap or a restart after one: what was decoded before it is brought to its end."""
        frame = task.frame
        run = (frame.id.epoch, frame.content_type)
        settled: list[Task] = []
        if run != self._run or frame.id.sequence < self._next:  # a new run, or the same one read again
            settled = self._end()
            self._run, self._joined = run, False
        elif frame.id.sequence != self._next or (frame.unit is not None and frame.unit.restart):
            settled = self._end()
        self._next = frame.id.sequence + 1
        return settled

    def _reach_keyframe(self, unit: RawUnit, task: Task) -> None:
        doubtful = self._context is None or self._spoilt.open
        self._leading = unit.pts if doubtful else None
        if self._context is None:
            self._context = _open(CODECS[task.frame.content_type], self._max_pixels)
        self._spoilt.close(task.frame.id.sequence)
        self._gop += 1

    def _without_reference(self, task: Task) -> Task:
        return _damaged(task) if self._joined else _dropped(task, Reason.NO_KEYFRAME)

    def _take(self, pictures: Iterable[Any]) -> list[Task]:
        for picture in pictures:
            # Packets carry their sequence as pts, so this is the unit that the picture was made from. A second
            # picture of one unit has no identity and is not used.
            task, gop = self._fed.pop(picture.pts, (None, 0))
            if task is None:
                continue
            if picture.is_corrupt:
                self._spoilt.begin(task.frame.id.sequence)
            self._give_up(gop)
            _hand_over(task, picture)
            self._waiting.append(task)
        self._give_up(0)
        return self._release()

    def _give_up(self, gop: int) -> None:
        """Units whose picture can no longer come: of an earlier group than one that came out, or too long ago."""
        lost = [s for s, (_, other) in self._fed.items() if other < gop or s < self._next - LONGEST_DELAY]
        for sequence in lost:
            task, _ = self._fed.pop(sequence)
            self._waiting.append(_dropped(task, Reason.UNDECODABLE, "no picture came of it"))
            self._spoilt.begin(sequence)  # the decoder did not complain, but others may rest on it

    def _release(self) -> list[Task]:
        """The pictures that can no longer prove wrong: all units sent before them have their picture, too."""
        oldest = next(iter(self._fed), self._next)
        released = []
        while self._waiting and self._waiting[0].frame.id.sequence < oldest:
            task = self._waiting.popleft()
            spoilt = task.outcome is None and task.frame.id.sequence in self._spoilt
            released.append(_damaged(task) if spoilt else task)
        return released

    def _end(self) -> list[Task]:
        """Close the decoder: pictures that it holds come out, units without one are dropped."""
        if self._context is None:
            return []
        settled: list[Task] = []
        try:
            settled = self._take(self._context.decode(None))
        except FFmpegError:
            self._spoilt.begin(next(iter(self._fed), self._next))
        self._give_up(self._gop + 1)
        settled += self._release()
        self._context, self._leading, self._spoilt = None, None, Spoilt()
        return settled


class Spoilt:
    """Ranges of sequences whose pictures may rest on something missing or damaged; each ends at a keyframe."""

    def __init__(self) -> None:
        self._ranges: deque[range] = deque(maxlen=LONGEST_DELAY)  # older ones are of pictures long gone
        self._from: int | None = None

    @property
    def open(self) -> bool:
        """Whether what comes next is spoilt, too."""
        return self._from is not None

    def begin(self, sequence: int) -> None:
        self._from = sequence if self._from is None else min(sequence, self._from)

    def close(self, keyframe: int) -> None:
        if self._from is not None:
            self._ranges.append(range(self._from, keyframe))
            self._from = None

    def __contains__(self, sequence: int) -> bool:
        if self._from is not None and sequence >= self._from:
            return True
        return any(sequence in spoilt for spoilt in self._ranges)


def _open(codec: str, max_pixels: int) -> Any:
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1  # hundreds of cameras share the machine; more threads would also add latency
    context.options = {"err_detect": NOTICE[codec], "max_pixels": str(max_pixels)}
    return context


def _packet(task: Task) -> av.Packet[Any]:
    packet = av.Packet(task.frame.payload)
    packet.pts = packet.dts = task.frame.id.sequence
    return packet


def _hand_over(task: Task, picture: Any) -> None:
    """Give the task its picture as pixels, upright; one whose pixels nobody will look at stays without."""
    unit = task.frame.unit
    if isinstance(task.policy, NoPolicy) or unit is None or unit.discard or picture.is_corrupt:
        return
    started = time.perf_counter()
    try:
        image: Image = picture.to_ndarray(format="bgr24")
        if quarters := round((unit.rotation or picture.rotation) / 90) % 4:
            image = np.ascontiguousarray(np.rot90(image, quarters))
    except Exception as error:  # noqa: BLE001 - an unusual pixel format or size: fail closed
        return task.drop(Reason.UNDECODABLE, type(error).__name__)
    task.image = image
    task.timings["decode"] = task.timings.get("decode", 0.0) + (time.perf_counter() - started) * 1000


def _damaged(task: Task) -> Task:
    if not isinstance(task.policy, NoPolicy) and task.policy.damaged is Damaged.DROP:
        task.drop(Reason.DAMAGED)
    else:
        task.mask_fully(Reason.DAMAGED)
    return task


def _dropped(task: Task, reason: Reason, detail: str | None = None) -> Task:
    task.drop(reason, detail)
    return task
