"""HLS of one camera: a live window of segments, one per group of pictures, muxed when asked for. No encoding."""

from __future__ import annotations

import io
import math
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from sfumato.schemas.unit import AnonymizedUnit

if TYPE_CHECKING:
    from sfumato.agents.live import Group

PLAYLIST, SEGMENT = "application/vnd.apple.mpegurl", "video/mp2t"
"""Content types."""
LISTED = 6
"""Segments in a playlist."""
SPARE = 3
"""Segments that have left the playlist and may be fetched still."""
WANTED_FOR = 60.0
"""Seconds after a playlist was fetched during which the camera's segments are kept; otherwise only the last one is."""
WINDOW_BYTES = 64 * 1024 * 1024
"""Bytes of segments kept per camera."""
USUAL_INTERVAL = 0.04
"""Seconds a single picture is taken to last."""
CLOCK = 90_000
"""Ticks per second in MPEG-TS."""
START = 10 * CLOCK
"""The first timestamp after a discontinuity: players dislike what lies before 0."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One group of pictures. ``number`` is its media sequence number, ``duration`` in seconds; ``breaks`` counts the
    discontinuities up to its beginning, ``origin`` is the presentation time, in seconds, of the first unit since."""

    number: int
    group: Group
    duration: float
    breaks: int
    origin: Fraction


class Window:
    """The newest segments of one camera. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.segments: deque[Segment] = deque()
        # From the clock, so that the numbers go on after a restart of the bridge.
        self._number = int(time.time() * 10)
        self._longest = 1
        self._wanted = -math.inf
        self._group: int | None = None

    def want(self) -> None:
        """Somebody asked for the playlist."""
        self._wanted = time.monotonic()

    def add(self, group: Group, until: Fraction | None) -> None:
        """Take a group that is complete. ``until``: when the group that continues it begins, in seconds of its run;
        None where something is missing in between. A group without any new picture is left out."""
        if not group.new:
            return
        first, last = group.arrivals[0].frame.unit, group.arrivals[-1].frame.unit
        assert first is not None
        assert last is not None
        if until is None:
            interval = (_time(last) - _time(first)) / (len(group.arrivals) - 1) if len(group.arrivals) > 1 else 0
            until = _time(last) + (interval or Fraction(USUAL_INTERVAL))
        previous = self.segments[-1] if self.segments else None
        breaks, origin = (previous.breaks, previous.origin) if previous else (-1, _time(first))
        if not (group.continues and self._group == group.number - 1):
            breaks, origin = breaks + 1, _time(first)
        duration = max(float(until - _time(first)), 0.001)
        self.segments.append(Segment(self._number, group, duration, breaks, origin))
        self._number += 1
        self._group = group.number
        self._longest = max(self._longest, math.ceil(duration))
        self._trim()

    def find(self, number: int) -> Segment | None:
        return next((segment for segment in self.segments if segment.number == number), None)

    def playlist(self) -> str:
        """RFC 8216. The target duration only grows."""
        listed = list(self.segments)[-LISTED:]
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:3",
            f"#EXT-X-TARGETDURATION:{self._longest}",
            f"#EXT-X-MEDIA-SEQUENCE:{listed[0].number if listed else self._number}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{listed[0].breaks if listed else 0}",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ]
        breaks = listed[0].breaks if listed else 0
        for segment in listed:
            if segment.breaks != breaks:
                lines.append("#EXT-X-DISCONTINUITY")
                breaks = segment.breaks
            captured = segment.group.arrivals[0].frame.captured_at.astimezone(UTC).replace(tzinfo=None)
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{captured.isoformat(timespec='milliseconds')}Z")
            lines.append(f"#EXTINF:{segment.duration:.3f},")
            lines.append(f"{segment.number}.ts")
        return "\n".join(lines) + "\n"

    def _trim(self) -> None:
        wanted = time.monotonic() - self._wanted < WANTED_FOR
        while len(self.segments) > (LISTED + SPARE if wanted else 1) or (
            len(self.segments) > 1 and sum(segment.group.size for segment in self.segments) > WINDOW_BYTES
        ):
            self.segments.popleft()


def mux(segment: Segment) -> bytes:
    """The segment as MPEG-TS; the units stay as they are."""
    file = io.BytesIO()
    frame = segment.group.arrivals[0].frame
    with av.open(file, "w", format="mpegts", options={"mpegts_copyts": "1"}) as output:
        stream = output.add_mux_stream("h264", width=frame.width, height=frame.height)
        stream.time_base = Fraction(1, CLOCK)
        last = -1
        for arrival in segment.group.arrivals:
            unit = arrival.frame.unit
            assert unit is not None
            packet = av.Packet(arrival.frame.payload)
            last = max(last + 1, START + round((_time(unit) - segment.origin) * CLOCK))  # MPEG-TS has no way back
            packet.pts = packet.dts = last
            packet.time_base = Fraction(1, CLOCK)
            packet.is_keyframe = unit.keyframe
            packet.stream = stream
            output.mux(packet)
    return file.getvalue()


def _time(unit: AnonymizedUnit) -> Fraction:
    """Presentation time in seconds, exactly."""
    return unit.pts * unit.time_base
