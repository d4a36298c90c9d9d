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

from sfumato.schemas.frame import AnonymizedFrame

if TYPE_CHECKING:
    from sfumato.agents.live import Group

PLAYLIST, SEGMENT = "application/vnd.apple.mpegurl", "video/mp4"
"""Content types."""
LISTED = 6
"""Segments in a playlist."""
LEAST = 3
"""Segments that players want to begin with."""
SPARE = 3
"""Segments that have left the playlist and may be fetched still."""
WANTED_FOR = 60.0
"""Seconds after a playlist was fetched during which the camera's segments are kept; otherwise only the last one is."""
WINDOW_BYTES = 64 * 1024 * 1024
"""Bytes of segments kept per camera."""
LONGEST = 120.0
"""Seconds of a segment at most: twice a policy's longest keyframe interval."""
LONGEST_PAUSE = 10.0
"""Seconds without a picture in front of a keyframe, beyond which the time between is left out."""
USUAL_INTERVAL = 0.04
"""Seconds a single picture is taken to last."""
CLOCK = 90_000
"""Ticks per second of the segments."""
FRAGMENT = {
    # One fragment, whose times are those of its packets rather than from 0; nothing behind it.
    "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",
    "use_editlist": "0",
}
"""Options of FFmpeg's MP4 muxer."""


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
        None where something is missing in between. A group without any new picture is left out, and one that is too
        long: its times are wrong, or the camera was silent."""
        first, last = (_time(group.arrivals[n].frame) for n in (0, -1))
        if not group.new or not 0 <= last - first <= LONGEST:
            return
        silent = until is not None and not 0 < until - last <= LONGEST_PAUSE
        if until is None or silent:
            interval = (last - first) / (len(group.arrivals) - 1) if len(group.arrivals) > 1 else 0
            until = last + (interval or Fraction(USUAL_INTERVAL))
        previous = self.segments[-1] if self.segments else None
        breaks, origin = (previous.breaks, previous.origin) if previous else (-1, first)
        if not (group.continues and self._group == group.number - 1):
            breaks, origin = breaks + 1, first
        duration = max(float(until - first), 0.001)
        self.segments.append(Segment(self._number, group, duration, breaks, origin))
        self._number += 1
        self._group = None if silent else group.number
        self._longest = max(self._longest, math.ceil(duration))
        self._trim()

    def find(self, number: int) -> Segment | None:
        return next((segment for segment in self.segments if segment.number == number), None)

    def find_break(self, breaks: int) -> Segment | None:
        """A segment after this discontinuity and before the next."""
        return next((segment for segment in self.segments if segment.breaks == breaks), None)

    def playlist(self) -> str:
        """RFC 8216, of at least one segment. The target duration only grows."""
        listed = list(self.segments)[-LISTED:]
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:6",
            f"#EXT-X-TARGETDURATION:{self._longest}",
            f"#EXT-X-MEDIA-SEQUENCE:{listed[0].number}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{listed[0].breaks}",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ]
        breaks = None
        for segment in listed:
            if segment.breaks != breaks:
                if breaks is not None:
                    lines.append("#EXT-X-DISCONTINUITY")
                lines.append(f'#EXT-X-MAP:URI="init-{segment.breaks}.mp4"')
                breaks = segment.breaks
            captured = segment.group.arrivals[0].frame.captured_at.astimezone(UTC).replace(tzinfo=None)
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{captured.isoformat(timespec='milliseconds')}Z")
            lines.append(f"#EXTINF:{segment.duration:.3f},")
            lines.append(f"{segment.number}.m4s")
        return "\n".join(lines) + "\n"

    def _trim(self) -> None:
        wanted = time.monotonic() - self._wanted < WANTED_FOR
        while len(self.segments) > (LISTED + SPARE if wanted else 1) or (
            len(self.segments) > 1 and sum(segment.group.size for segment in self.segments) > WINDOW_BYTES
        ):
            self.segments.popleft()


def mux(segment: Segment) -> tuple[bytes, bytes]:
    """The segment as fragmented MP4, the units as they are: its initialization, which all segments up to the next
    discontinuity share, and its media. :class:`FFmpegError` where the keyframe's parameter sets are not valid."""
    file = io.BytesIO()
    units = [arrival.frame for arrival in segment.group.arrivals]
    with (
        av.open(io.BytesIO(units[0].payload), format="h264") as keyframe,
        av.open(file, "w", format="mp4", options=FRAGMENT) as output,
    ):
        stream = output.add_stream_from_template(keyframe.streams.video[0])
        stream.time_base = Fraction(1, CLOCK)
        begin = round((_time(units[0]) - segment.origin) * CLOCK)
        starts = [begin]
        for frame in units[1:]:  # presentation times that go back would not be playable
            starts.append(max(starts[-1] + 1, round((_time(frame) - segment.origin) * CLOCK)))
        ends = [*starts[1:], max(starts[-1] + 1, begin + round(segment.duration * CLOCK))]
        for frame, start, end in zip(units, starts, ends, strict=True):
            packet = av.Packet(frame.payload)
            packet.pts = packet.dts = start
            packet.duration = end - start
            packet.time_base = Fraction(1, CLOCK)
            packet.is_keyframe = frame is units[0]
            packet.stream = stream
            output.mux(packet)
    muxed = file.getvalue()
    media = muxed.index(b"moof") - 4
    return muxed[:media], muxed[media:]


def _time(frame: AnonymizedFrame) -> Fraction:
    """Presentation time in seconds, exactly."""
    assert frame.unit is not None
    return frame.unit.pts * frame.unit.time_base
