"""When another form of a policy holds: at certain hours, or during one event; a part of the policy."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from sfumato.schemas.masking import Targets
from sfumato.schemas.part import Moment, Part, Text, TimeOfDay
from sfumato.schemas.zone import Zone


class Day(StrEnum):
    """Days of the week, in the order of ``datetime.weekday``."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


DAYS = tuple(Day)


class Daily(Part):
    """From ``begins`` to ``ends`` by the clock of ``time_zone`` (an IANA name), on the next day where ``ends`` is not
    later. ``days``: on which it begins. Where the clock is changed and a time comes twice or not at all, the schedule
    is in force for the longer of the two spans that this could mean."""

    begins: TimeOfDay
    ends: TimeOfDay
    time_zone: str
    days: Annotated[frozenset[Day], Field(min_length=1)] = frozenset(Day)

    @field_validator("begins", "ends")
    @classmethod
    def _local(cls, value: time) -> time:
        if value.tzinfo is not None:
            raise ValueError("has an offset; give the local time alone, as 22:00: time_zone says where")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            raise ValueError("no such time zone; give an IANA name, as Europe/Amsterdam") from None
        return name

    def covers(self, moment: datetime) -> bool:
        """Raises OverflowError for a moment at either end of the calendar."""
        zone, moment = ZoneInfo(self.time_zone), moment.astimezone(UTC)
        today = moment.astimezone(zone).date()
        near = (today + timedelta(days=shift) for shift in (-1, 0, 1))  # 1: a changed clock may begin it early
        spans = (_span(day, self.begins, self.ends, zone) for day in near if DAYS[day.weekday()] in self.days)
        return any(begin <= moment < end for begin, end in spans)


class Event(Part):
    """From one moment to another, each with its offset from UTC."""

    begins: Moment
    ends: Moment

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ends <= self.begins:
            raise ValueError("ends: not later than begins")
        return self

    def covers(self, moment: datetime) -> bool:
        return self.begins <= moment < self.ends


class Schedule(Part):
    """While ``daily`` or ``event`` covers a frame's capture time, ``targets`` and ``zones`` stand in place of the
    policy's own; what is not given stays. ``full_mask``: the whole picture is masked."""

    name: Text
    daily: Daily | None = None
    event: Event | None = None
    targets: Targets | None = None
    zones: Annotated[tuple[Zone, ...], Field(max_length=100)] | None = None
    full_mask: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.daily is None) == (self.event is None):
            raise ValueError("give either daily or event: when it is in force")
        overriding = self.targets is not None or self.zones is not None
        if overriding == self.full_mask:
            raise ValueError("give targets, zones or both, or full_mask = true alone: what changes")
        return self

    def covers(self, moment: datetime) -> bool:
        """Whether the schedule is in force. Raises OverflowError for a moment at either end of the calendar."""
        if self.daily is not None:
            return self.daily.covers(moment)
        return self.event is not None and self.event.covers(moment)


@lru_cache(1024)
def _span(day: date, begins: time, ends: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From when to when, in UTC, a schedule that begins on the day is in force."""
    last = day if ends > begins else day + timedelta(days=1)
    return min(_instants(day, begins, zone)), max(_instants(last, ends, zone))


def _instants(day: date, at: time, zone: ZoneInfo) -> list[datetime]:
    """The moments, in UTC, that a local time can mean: two where the clock is changed, else the same twice."""
    return [datetime.combine(day, at, zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
