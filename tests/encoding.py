"""Real video as access units, as an ingestor would send them, and the pictures that a decoder must make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import islice

import av
import numpy as np
from clips import clip
from numpy.typing import NDArray

from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.policy import Policy
from sfumato.schemas.unit import H264, H265, RawUnit

RATE = Fraction(1, 25)
STREAMS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": (H264, {"preset": "ultrafast", "g": "10", "bf": "0"}),
    "h264-b-frames": (H264, {"preset": "veryfast", "g": "10", "bf": "3", "sc_threshold": "0"}),
    "h264-open-gop": (H264, {"preset": "veryfast", "x264-params": "keyint=10:bframes=3:open-gop=1:scenecut=0"}),
    "h265": (H265, {"preset": "ultrafast", "x265-params": "keyint=10:bframes=0:log-level=0:scenecut=0"}),
    "h265-b-frames": (H265, {"preset": "ultrafast", "x265-params": "keyint=10:bframes=3:log-level=0:scenecut=0"}),
    "h265-hashed": (H265, {"preset": "ultrafast", "x265-params": "keyint=10:bframes=3:log-level=0:scenecut=0:hash=1"}),
}
ENCODERS = {H264: "libx264", H265: "libx265"}
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def clip_pictures(count: int, width: int = 176, height: int = 144) -> list[NDArray[np.uint8]]:
    """The first pictures of a clip of a man's face."""
    with av.open(str(clip("carphone"))) as container:
        return [
            frame.reformat(width, height, "bgr24").to_ndarray() for frame in islice(container.decode(video=0), count)
        ]


def encode(
    pictures: Iterable[NDArray[np.uint8]], content_type: str, options: dict[str, str]
) -> list[tuple[bytes, RawUnit]]:
    """Access units in decode order, with parameter sets in front of each keyframe."""
    context = av.CodecContext.create(ENCODERS[content_type], "w")
    units: list[tuple[bytes, RawUnit]] = []

    def take(packets: list[av.Packet]) -> None:
        for p in packets:
            dts = p.dts if p.dts != p.pts else None
            units.append((bytes(p), RawUnit(p.pts, RATE, p.is_keyframe, dts)))

    for number, picture in enumerate(pictures):
        if number == 0:
            context.height, context.width = picture.shape[:2]
            context.pix_fmt, context.time_base, context.framerate = "yuv420p", RATE, 1 / RATE
            context.options = options
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, RATE
        take(context.encode(frame))
    take(context.encode(None))
    return units


@lru_cache
def stream(name: str, count: int = 40) -> tuple[tuple[bytes, RawUnit], ...]:
    """One of :data:`STREAMS`: pictures of the clip, encoded."""
    content_type, options = STREAMS[name]
    return tuple(encode(clip_pictures(count), content_type, options))


@lru_cache
def reference(name: str, count: int = 40) -> dict[int, NDArray[np.uint8]]:
    """By sequence, what a decoder makes of the whole stream."""
    content_type, _ = STREAMS[name]
    return decode(content_type, stream(name, count))


def decode(content_type: str, units: Sequence[tuple[bytes, RawUnit]]) -> dict[int, NDArray[np.uint8]]:
    context = av.CodecContext.create("h264" if content_type == H264 else "hevc", "r")
    found = {}
    for sequence, (payload, _) in enumerate(units):
        packet = av.Packet(payload)
        packet.pts = sequence
        found.update({frame.pts: frame.to_ndarray(format="bgr24") for frame in context.decode(packet)})
    found.update({frame.pts: frame.to_ndarray(format="bgr24") for frame in context.decode(None)})
    return found


def raw_frame(
    sequence: int, payload: bytes, unit: RawUnit, content_type: str, camera: str = "north", epoch: int = 1
) -> RawFrame:
    captured_at = STARTED + timedelta(seconds=unit.seconds)
    identity = FrameId(camera, epoch, sequence)
    return RawFrame(identity, captured_at, TimeSource.CAMERA, 176, 144, content_type, payload, unit)


def tasks_of(name: str, policy: Policy | NoPolicy, count: int = 40, camera: str = "north") -> list[Task]:
    content_type, _ = STREAMS[name]
    return [
        Task(
            raw_frame(sequence, payload, unit, content_type, camera),
            policy,
            Origin(topic="frames.raw", partition=0, offset=sequence),
        )
        for sequence, (payload, unit) in enumerate(stream(name, count))
    ]


def with_payload(task: Task, payload: bytes) -> Task:
    return Task(replace(task.frame, payload=payload), task.policy, task.origin)


def keyframes(name: str, count: int = 40) -> list[int]:
    return [sequence for sequence, (_, unit) in enumerate(stream(name, count)) if unit.keyframe]


def presented(tasks: Iterable[Task]) -> Iterator[int]:
    """The presentation times of tasks of access units."""
    for task in tasks:
        assert task.frame.unit is not None
        yield task.frame.unit.pts
