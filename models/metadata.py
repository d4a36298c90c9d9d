"""Metadata between reading and writing: what may stay, and as what. The formats: ``*_metadata.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sfumato.schemas.metadata import Block, Grain, Grid, Metadata, MetadataField, MetadataRecord, Treatment

LONGEST = 500
"""Characters of a text; longer ones are cut."""
METRES_PER_DEGREE = 110_574.0
"""Of latitude, at the equator, where a degree is shortest (WGS 84)."""
METRES_PER_DEGREE_EAST = 111_319.0
"""Of longitude, at the equator; elsewhere at least this times the cosine of the latitude (WGS 84)."""

Coordinates = tuple[float, float]
"""Latitude and longitude in degrees, WGS 84."""
Values = dict[MetadataField, str | datetime | Coordinates]
"""Times are naive where the file names no zone."""
Pseudonymize = Callable[[MetadataField, str, Metadata], str | None]
"""The pseudonym of a value under the rules, None where it cannot have one: the value is then removed."""


@dataclass(slots=True)
class Found:
    """What a file holds: the fields that have a name, and the blocks."""

    values: Values = field(default_factory=dict)
    blocks: set[Block] = field(default_factory=set)
    malformed: set[Block] = field(default_factory=set)

    def offer(self, name: MetadataField, value: str | datetime | Coordinates | None) -> None:
        """Take a value unless there is one already: who reads offers the best sources first."""
        if value is not None and value != "":
            self.values.setdefault(name, value)


def treat(found: Found, rules: Metadata, pseudonymize: Pseudonymize | None) -> tuple[Values, MetadataRecord]:
    """What may be written, and the record of it. Without ``pseudonymize`` what should have a pseudonym is removed."""
    written: Values = {}
    done: dict[Treatment, list[MetadataField]] = {treatment: [] for treatment in Treatment}
    for name in sorted(found.values):
        treatment = rules.keep.get(name)
        value = None if treatment is None else _treated(name, found.values[name], treatment, rules, pseudonymize)
        if treatment is not None and value is not None:
            written[name] = value
            done[treatment].append(name)
    return written, MetadataRecord(
        exact=tuple(done[Treatment.EXACT]),
        pseudonymized=tuple(done[Treatment.PSEUDONYM]),
        coarsened=tuple(done[Treatment.COARSEN]),
        removed=(*sorted(found.values.keys() - written.keys()), *sorted(found.blocks)),
        malformed=tuple(sorted(found.malformed)),
    )


def _treated(
    name: MetadataField,
    value: str | datetime | Coordinates,
    treatment: Treatment,
    rules: Metadata,
    pseudonymize: Pseudonymize | None,
) -> str | datetime | Coordinates | None:
    if treatment is Treatment.EXACT:
        return value
    if treatment is Treatment.PSEUDONYM:
        return pseudonymize(name, value, rules) if pseudonymize is not None and isinstance(value, str) else None
    if isinstance(value, datetime):
        return truncated(value, rules.grain, rules.time_zone)
    return snapped(value, rules.grid) if isinstance(value, tuple) else None


def snapped(coordinates: Coordinates, grid: Grid) -> Coordinates:
    """The centre of the cell that the coordinates lie in, to six decimals. A cell is nowhere smaller than the grid
    says, so rows and columns are a little larger where they would not fill the globe in whole numbers; near the poles
    a row may be one cell."""
    latitude, longitude = coordinates
    rows = _whole(180.0, grid.degrees if grid.metres is None else grid.metres / METRES_PER_DEGREE)
    height = 180.0 / rows
    row = min(int((latitude + 90.0) / height), rows - 1)
    columns = _columns(row, height, grid)
    width = 360.0 / columns
    column = int((longitude + 180.0) / width) % columns
    return round(-90.0 + (row + 0.5) * height, 6), round(-180.0 + (column + 0.5) * width, 6)


def _columns(row: int, height: float, grid: Grid) -> int:
    if grid.metres is None:
        return _whole(360.0, grid.degrees)
    furthest = max(abs(-90.0 + row * height), abs(-90.0 + (row + 1) * height))
    return _whole(360.0, grid.metres / max(METRES_PER_DEGREE_EAST * math.cos(math.radians(furthest)), 1e-9))


def _whole(span: float, least: float | None) -> int:
    """How many cells of at least ``least`` fill the span."""
    return max(1, math.floor(span / (least or span) + 1e-9))


def truncated(moment: datetime, grain: Grain, time_zone: str) -> datetime:
    """The beginning of the minute, hour, … in that zone; of a time without a zone: as its own clock showed it."""
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(ZoneInfo(time_zone))
        except OverflowError:  # within a day of the year 1 or 9999
            moment = moment.astimezone(UTC) if 1 < moment.year < 9999 else moment.replace(tzinfo=UTC)
    kept = {"second": 0, "microsecond": 0}
    for finer, lowest in ((Grain.HOUR, "minute"), (Grain.DAY, "hour"), (Grain.MONTH, "day"), (Grain.YEAR, "month")):
        if list(Grain).index(grain) >= list(Grain).index(finer):
            kept[lowest] = 1 if lowest in ("day", "month") else 0
    return moment.replace(**kept)  # type: ignore[arg-type]  # fold stays: an hour that comes twice is two hours


def text(value: object) -> str | None:
    """A text as it may be written: one line, no control characters, at most :data:`LONGEST`; None: nothing left."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "ignore")
    if not isinstance(value, str):
        return None
    clean = value.encode("utf-8", "ignore").decode("utf-8", "ignore")
    clean = "".join(character if character.isprintable() else " " for character in clean)
    return " ".join(clean.split())[:LONGEST] or None


def place(latitude: float, longitude: float) -> Coordinates | None:
    """Coordinates that are on the globe; None: not."""
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None
