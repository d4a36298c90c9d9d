"""What callers have used, as the API shows it."""

from __future__ import annotations

from datetime import date

from sfumato.schemas.part import Part


class DayOfUse(Part):
    """One caller on one day, in UTC. Bytes are those of bodies and WebSocket messages, of all calls."""

    caller: str
    day: date
    requests: int
    frames: int
    bytes_in: int
    bytes_out: int
