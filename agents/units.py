"""From a camera's packets to access units that go to Kafka as they are: what is passed on, from where on, and when.

Nothing is decoded but the first keyframe of each opening and those with new parameter sets, for their size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from sfumato.agents.pictures import MAX_PIXELS, Loss, Picture
from sfumato.models import bitstream
from sfumato.models.bitstream import AccessUnit, BitstreamError, ParameterSets
from sfumato.schemas.frame import MAX_SIDE, TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import CODECS, RawUnit

CONTENT_TYPES = {name: content_type for content_type, name in CODECS.items()}
"""By FFmpeg's name of the codec."""
LONGEST_STEP = 3600.0
LONGEST_STEP_BACK = 1.0
"""Larger steps in a stream's time, in seconds, are faults of the stream and count as one frame."""
LONGEST_REORDERING = 10.0
"""Seconds between decoding and presentation; what a stream claims beyond that is not believed."""
USUAL_INTERVAL = 0.04


class Gate:
    """Lets a unit pass only where a decoder that has seen what passed before can decode it.

    Sequences are dense, so whoever decodes cannot see that a unit is missing: after a gap the next unit that passes
    is a keyframe. What follows that keyframe but is shown before it (the leading pictures of an open GOP) may need
    what is missing, and does not pass either.
    """

    def __init__(self) -> None:
        self._closed: Reason | None = Reason.NO_KEYFRAME
        self._leading: tuple[int, Reason] | None = None

    def join(self) -> None:
        """A stream begins, perhaps in its middle."""
        self._closed = Reason.NO_KEYFRAME

    def close(self, reason: Reason) -> None:
        """A unit that others need is lost."""
        self._closed = self._closed or reason

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def refuses(self, keyframe: bool, pts: int) -> Reason | None:
        """The reason for which a unit is dropped, if it is; ``pts`` in the stream's own time."""
        if keyframe:
            self._leading = (pts, self._closed) if self._closed else None
            self._closed = None
        elif self._closed is None and self._leading and pts < self._leading[0]:
            return self._leading[1]
        return self._closed


class Timeline:
    """The times of an epoch's units: they run on across reconnects and the rounds of a file, in one time base.

    No ``pts`` is given to two units near each other; ``dts`` rises.
    """

    def __init__(self) -> None:
        self._time_base: Fraction | None = None
        self._offset = 0
        self._interval = 0
        self._joining = True
        self._live = False
        self._stream_time = 0  # of the unit before, by its stream
        self._last_dts: int | None = None
        self._top: int | None = None
        self._placed_at = 0.0
        self._recent: deque[int] = deque(maxlen=32)

    def join(self, *, live: bool) -> None:
        """The next unit is a stream's first: one frame after the last, or, of a live camera, when it really comes."""
        self._joining, self._live = True, live

    def place(self, pts: int, dts: int | None, time_base: Fraction) -> RawUnit:
        """The times of a unit in its epoch, given those in its stream (``dts`` None: not known)."""
        if self._time_base is None:
            self._time_base, self._interval = time_base, max(1, round(USUAL_INTERVAL / time_base))
        pts, dts = self._scaled(pts, dts, time_base)
        self._choose_offset(pts, pts if dts is None else dts)
        placed = pts + self._offset
        while placed in self._recent:
            placed += 1
        self._recent.append(placed)
        self._top = placed if self._top is None else max(self._top, placed)
        self._placed_at = time.monotonic()
        if dts is not None:
            dts += self._offset
            self._last_dts = dts = dts if self._last_dts is None else max(self._last_dts + 1, dts)
        return RawUnit(placed, self._time_base, keyframe=False, dts=None if dts == placed else dts)

    def pass_over(self, pts: int, dts: int | None, time_base: Fraction) -> None:
        """A unit that is dropped: its time passes all the same."""
        if not self._joining:
            pts, dts = self._scaled(pts, dts, time_base)
            self._choose_offset(pts, pts if dts is None else dts)
            self._top = max(self._top or 0, pts + self._offset)
            self._placed_at = time.monotonic()

    def _scaled(self, pts: int, dts: int | None, time_base: Fraction) -> tuple[int, int | None]:
        assert self._time_base is not None
        if time_base == self._time_base:
            return pts, dts
        scale = time_base / self._time_base
        return round(pts * scale), None if dts is None else round(dts * scale)

    def _choose_offset(self, pts: int, decode: int) -> None:
        """Anew where a stream begins or its time jumps."""
        step = decode - self._stream_time
        self._stream_time = decode
        if self._top is None:
            self._offset = 0 if abs(pts) < 2**60 else -pts
        elif self._joining:
            passed = self._ticks(time.monotonic() - self._placed_at) if self._live else 0
            last = self._top if self._last_dts is None else self._last_dts
            self._offset = max(self._top - pts, last - decode) + max(self._interval, passed)
        elif not -self._ticks(LONGEST_STEP_BACK) <= step <= self._ticks(LONGEST_STEP):
            self._offset = self._top + self._interval - decode  # no pts is before its dts, so all are new
        elif 0 < step <= self._ticks(LONGEST_STEP_BACK):
            self._interval = step
        self._joining = False

    def _ticks(self, seconds: float) -> int:
        assert self._time_base is not None
        return round(seconds / self._time_base)


@dataclass(frozen=True, slots=True)
class PendingUnit:
    """A unit that may be sent. ``seconds``: when it is decoded, in the stream's own time, None where that is unknown;
    ``shown``: likewise when it is shown. ``needed``: other units may need it."""

    payload: bytes
    content_type: str
    width: int
    height: int
    unit: RawUnit
    needed: bool
    seconds: float | None
    shown: float

    @property
    def delay(self) -> float:
        """Seconds from decoding to presentation."""
        return 0.0 if self.seconds is None else min(self.shown - self.seconds, LONGEST_REORDERING)

    def picture(self, captured_at: datetime, source: TimeSource, *, discard: bool) -> Picture:
        unit = replace(self.unit, discard=True) if discard else self.unit
        return Picture(
            self.payload, self.content_type, self.width, self.height, captured_at, source, unit, needed=self.needed
        )


class Remuxer:
    """The access units of one opened stream of H.264 or H.265, as Annex B.

    ``recorded``: it is a file, whose container may say that the picture lies on its side.
    """

    def __init__(self, stream: Any, gate: Gate, timeline: Timeline, *, recorded: bool) -> None:
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._codec = stream.codec_context.codec.canonical_name
        self._content_type = CONTENT_TYPES[self._codec]
        self._gate = gate
        self._timeline = timeline
        self._recorded = recorded
        self._sets = ParameterSets(self._content_type)
        self._length_size = 0
        self._size: tuple[int, int] | None = None
        self._stale = True  # the size is to be learnt from the next keyframe
        self._configure(stream.codec_context.extradata)
        self._times = _Times(stream, recorded)
        self._rotation: int | None = None
        self._doubtful = False
        gate.join()
        timeline.join(live=not recorded)

    def read(self, packet: Any) -> Iterator[PendingUnit | Loss]:
        """The unit of a packet, or its loss; nothing of the demuxer's last, empty one."""
        if not packet.size and packet.pts is None and packet.dts is None:
            return
        pts, dts, time_base = self._times.of(packet)
        seconds = None if dts is None else float(dts * time_base)
        restart = self._gate.closed
        try:
            unit, reason = self._judge(packet, pts)
        except BitstreamError:
            self._gate.close(Reason.UNDECODABLE)
            reason = Reason.UNDECODABLE
        if reason is not None:
            self._timeline.pass_over(pts, dts, time_base)
            yield Loss(reason, seconds)
            return
        assert self._size is not None
        placed = replace(
            self._timeline.place(pts, dts, time_base),
            keyframe=unit.keyframe,
            discard=packet.is_discard,
            rotation=self._rotation or 0,
            restart=restart,
        )
        needed = unit.keyframe or unit.reference or unit.temporal + 1 < self._sets.layers
        shown = float(pts * time_base)
        yield PendingUnit(self._payload(packet, unit), self._content_type, *self._size, placed, needed, seconds, shown)

    def _judge(self, packet: Any, pts: int) -> tuple[AccessUnit, Reason | None]:
        """What a packet holds, and why it must not be passed on; :class:`BitstreamError` where it is broken."""
        if packet.has_sidedata("new_extradata"):
            self._configure(bytes(packet.get_sidedata("new_extradata")))
        # FFmpeg flags the unit that was being put together when the damage arrived: it may be in the next one.
        doubtful, self._doubtful = packet.is_corrupt or self._doubtful, packet.is_corrupt
        if doubtful:
            raise BitstreamError("damaged on its way")
        content = bytes(packet)
        nals = bitstream.unpack(content, self._length_size) if self._length_size else bitstream.split(content)
        self._stale |= self._sets.learn(nals)
        unit = bitstream.read(self._content_type, nals)
        if unit.keyframe and not self._sets.complete:
            unit = replace(unit, keyframe=False)
            self._gate.close(Reason.NO_KEYFRAME)
        reason = self._gate.refuses(unit.keyframe, pts)
        if reason is None and unit.keyframe and self._stale:
            self._look(packet, unit)
        return unit, reason

    def _payload(self, packet: Any, unit: AccessUnit) -> bytes:
        missing = self._sets.missing_from(unit.nals) if unit.keyframe else []
        if not missing and not self._length_size:
            return bytes(packet)
        return bitstream.join(bitstream.with_sets(unit.nals, missing, self._content_type))

    def _configure(self, extradata: bytes | None) -> None:
        configuration = bitstream.read_configuration(self._content_type, extradata or b"")
        self._length_size = configuration.length_size
        self._stale |= self._sets.learn(configuration.nals)

    def _look(self, packet: Any, keyframe: AccessUnit) -> None:
        """Decode a keyframe for its size; :class:`BitstreamError` where that fails."""
        decoder = av.CodecContext.create(self._codec, "r")
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        try:
            frame = _first_frame(decoder, av.Packet(self._payload(packet, keyframe)))
            if self._rotation is None:  # as the stream itself says, or else its container
                turned = frame.rotation
                if not turned and self._recorded:
                    turned = _first_frame(self._stream.codec_context, packet).rotation
                self._rotation = round(turned / 90) % 4 * 90
        except FFmpegError:
            raise BitstreamError("cannot be decoded") from None
        if max(frame.width, frame.height) > MAX_SIDE:
            raise BitstreamError("is too large")
        lying = self._rotation in (90, 270)
        self._size = (frame.height, frame.width) if lying else (frame.width, frame.height)
        self._stale = False


class _Times:
    """The times of a stream's packets; invented where the stream has none."""

    def __init__(self, stream: Any, recorded: bool) -> None:
        self._time_base: Fraction = stream.time_base or Fraction(1, 90_000)
        rate = float(stream.average_rate or 0)
        self._interval = 1 / rate if 1 <= rate <= 240 else USUAL_INTERVAL
        self._started = None if recorded else time.monotonic()
        self._next = 0

    def of(self, packet: Any) -> tuple[int, int | None, Fraction]:
        """Presentation and decode time of a packet (no pts is before its dts), and their time base."""
        time_base = packet.time_base or self._time_base
        pts, dts = packet.pts, packet.dts
        if pts is None and dts is None:
            passed = None if self._started is None else round((time.monotonic() - self._started) / time_base)
            dts = self._next if passed is None else max(self._next, passed)
        pts = dts if pts is None else pts
        if dts is not None:
            pts = max(pts, dts)
            self._next = dts + (1 if self._started else max(1, round(self._interval / time_base)))
        return pts, dts, time_base


def _first_frame(decoder: Any, packet: Any) -> av.VideoFrame:
    frames: list[av.VideoFrame] = [*decoder.decode(packet), *decoder.decode(None)]
    if not frames:
        raise BitstreamError("holds no picture")
    return frames[0]
