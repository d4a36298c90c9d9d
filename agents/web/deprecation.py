"""What will go says so: the headers ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and ``Link``.

    @router.get("/old")
    @deprecated(since=date(2027, 1, 1), sunset=date(2028, 1, 1), successor="/v1/new")
    def old() -> Thing: ...

on a router whose ``route_class`` is :class:`sfumato.agents.web.formats.Negotiated`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from typing import TypeVar

E = TypeVar("E", bound=Callable[..., object])
ATTRIBUTE = "__deprecation__"


@dataclass(frozen=True, slots=True)
class Deprecation:
    """``since``: when it was deprecated; ``sunset``: when it may be gone; ``successor``: what to use, with the path's
    parameters in braces."""

    since: datetime
    sunset: datetime
    successor: str

    def headers(self, parameters: Mapping[str, object]) -> dict[str, str]:
        return {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Sunset": format_datetime(self.sunset, usegmt=True),
            "Link": f'<{self.successor.format_map(parameters)}>; rel="successor-version"',
        }


def deprecated(*, since: date, sunset: date, successor: str) -> Callable[[E], E]:
    def mark(endpoint: E) -> E:
        begin, end = (datetime.combine(day, time(), UTC) for day in (since, sunset))
        setattr(endpoint, ATTRIBUTE, Deprecation(begin, end, successor))
        return endpoint

    return mark


def find(endpoint: object) -> Deprecation | None:
    found: Deprecation | None = getattr(endpoint, ATTRIBUTE, None)
    return found
