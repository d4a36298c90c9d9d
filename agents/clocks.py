"""Time in the ingestor: when a picture was taken, when a file's next one is due, and the cap on frames per second."""

from __future__ import annotations

import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sfumato.schemas.frame import TimeSource

TRUSTED_CLOCK = timedelta(seconds=10)
"""A camera's clock is believed while it differs from ours by no more than this."""
LONGEST_GAP = 10.0
"""A larger jump in a file's time, in seconds, is a fault of the file and counts as one frame."""
USUAL_INTERVAL = 0.04


class CameraClock:
    """Capture times by the camera's clock, as its RTCP sender reports tell it, or else by arrival.

    FFmpeg attaches the sender's wall clock to a packet as "producer reference time" (AVProducerReferenceTime:
    int64 microseconds since 1970, int flags). The first report comes some seconds after the first picture.
    """

    def __init__(self) -> None:
        self._offset: float | None = None

    def learn(self, packet: Any) -> None:
        """Take the sender's clock from a packet that tells it."""
        if packet.pts is None or packet.time_base is None or not packet.has_sidedata("prft"):
            return
        (microseconds,) = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))
        self._offset = microseconds / 1e6 - float(packet.pts * packet.time_base)

    def capture_time(self, seconds: float | None, delay: float = 0.0) -> tuple[datetime, TimeSource]:
        """When the picture with this presentation time was taken, and whose clock says so. ``delay``: how long after
        its arrival it is shown, in seconds, so that times by arrival follow the order of presentation too."""
        arrival = arrives(delay)
        if self._offset is not None and seconds is not None:
            try:
                captured = datetime.fromtimestamp(self._offset + seconds, UTC)
            except (ValueError, OverflowError, OSError):  # the camera tells nonsense
                return arrival, TimeSource.ARRIVAL
            if abs(captured - arrival) <= TRUSTED_CLOCK:
                return captured, TimeSource.CAMERA
        return arrival, TimeSource.ARRIVAL


def arrives(delay: float) -> datetime:
    """Now, plus what a picture sent ahead of others waits for them, in seconds."""
    return datetime.now(UTC) + timedelta(seconds=delay)


class Cap:
    """Lets at most ``fps`` frames per second of the stream's own time pass; None: all."""

    def __init__(self, fps: float | None) -> None:
        self._interval = 1 / fps if fps else 0.0
        self._due: float | None = None

    def admits(self, at: float) -> bool:
        """Whether the frame at this time, in seconds, is taken. A jump back in time starts anew."""
        if not self._interval:
            return True
        if self._due is None or at < self._due - self._interval - 1e-6:
            self._due = at
        if at < self._due - 1e-6:
            return False
        # Half an interval of credit keeps the rate although frames do not come exactly when due.
        self._due = max(self._due, at - self._interval / 2) + self._interval
        return True


class FileClock:
    """A file's own time, running on from round to round, and the wait until a picture is due."""

    def __init__(self, real_time: bool, stopping: threading.Event) -> None:
        self._real_time = real_time
        self._stopping = stopping
        self._started: float | None = None
        self._previous: float | None = None
        self._interval = USUAL_INTERVAL
        self._now = -USUAL_INTERVAL

    def begin_round(self) -> None:
        self._previous = None

    def advance(self, seconds: float | None) -> float:
        """The time of a picture since the start of the first round; ``seconds`` is the file's own."""
        if seconds is not None and self._previous is not None and 0 < seconds - self._previous <= LONGEST_GAP:
            self._interval = seconds - self._previous
        self._previous = seconds
        self._now += self._interval
        return self._now

    def wait_until(self, seconds: float) -> bool:
        """Wait until so long after the first call, if the file is to keep its own speed; False where told to stop."""
        if self._started is None:
            self._started = time.monotonic() - seconds
        if self._real_time:
            self._stopping.wait(max(0.0, self._started + seconds - time.monotonic()))
        return not self._stopping.is_set()
