"""Look for the marker in what was published: stills, and H.264 decoded run by run.

A reader that keeps to ``docs/contracts.md`` follows one run. Here every unit of every run is decoded, in the order of
the topic, so that a leak in what such a reader leaves out is found, too. A unit that has no picture of its own, or one
that cannot be trusted, is counted as ``unsearchable`` and never as searched. Each unit is decoded once; of each camera
at most :data:`RUNS` decoders are open.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Any

import av
from av.codec.context import Flags
from av.error import FFmpegError

from drills import marker
from sfumato.models import images
from sfumato.models.detectors import Image
from sfumato.models.images import ImageError
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.unit import AnonymizedUnit

RUNS = 4
"""The newest of a camera; a worker that goes on after 30 s may send units of an older one."""


class Run:
    """The decoder of one run of H.264; from a gap or damage to the next keyframe it gives nothing."""

    def __init__(self) -> None:
        self._context: Any = None
        self._next = 0

    def decode(self, payload: bytes, unit: AnonymizedUnit) -> tuple[list[Image], bool]:
        """The pictures of a unit, and whether it is exactly one, of this unit, that rests on nothing missing."""
        if unit.keyframe:
            self._context = _decoder()
        elif self._context is None or unit.number != self._next:
            self._context = None
            return [], False
        self._next = unit.number + 1
        packet: Any = av.Packet(payload)
        packet.pts = packet.dts = unit.number
        try:
            pictures = self._context.decode(packet)
        except FFmpegError:
            self._context = None
            return [], False
        sound = [picture.pts for picture in pictures] == [unit.number] and not pictures[0].is_corrupt
        if not sound:
            self._context = None
        return [picture.to_ndarray(format="bgr24") for picture in pictures], sound


@dataclass
class Search:
    """``searched``: messages whose picture was looked at. ``leaked``: of those and of damaged ones, how many show the
    marker. ``unsearchable``: messages without a picture that can be trusted; ``units``: those of H.264 searched."""

    searched: int = 0
    leaked: int = 0
    unsearchable: int = 0
    units: int = 0
    _runs: defaultdict[str, OrderedDict[str, Run]] = field(default_factory=lambda: defaultdict(OrderedDict))

    def look(self, frame: AnonymizedFrame) -> None:
        pictures, sound = self._decode(frame)
        if sound:
            self.searched += 1
            self.units += frame.unit is not None
        else:
            self.unsearchable += 1
        self.leaked += any(marker.shows(picture) for picture in pictures)

    def _decode(self, frame: AnonymizedFrame) -> tuple[list[Image], bool]:
        if frame.unit is not None:
            return self._run(frame.id.camera, frame.unit.stream).decode(frame.payload, frame.unit)
        try:
            return [images.decode(frame.payload, frame.content_type, max_pixels=10**7)], True
        except ImageError:
            return [], False

    def _run(self, camera: str, stream: str) -> Run:
        runs = self._runs[camera]
        run = runs.pop(stream, None) or Run()
        runs[stream] = run
        if len(runs) > RUNS:
            runs.popitem(last=False)
        return run


def _decoder() -> Any:
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1  # frame threads would hold pictures back
    context.flags |= Flags.low_delay
    return context
