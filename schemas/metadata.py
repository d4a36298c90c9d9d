"""What of a file's metadata may stay, and how: a part of the policy. Nothing, unless it is named here.

What each treatment does: ``docs/metadata.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from sfumato.schemas.part import Part, Text


class MetadataField(StrEnum):
    """What is read from any format, under one name. Whatever else a file holds is removed, always."""

    MAKE = "make"
    MODEL = "model"
    CAMERA_NAME = "camera_name"
    SERIAL = "serial"
    CAPTURED_AT = "captured_at"
    COORDINATES = "coordinates"
    PLACE = "place"
    TITLE = "title"
    DESCRIPTION = "description"
    CREATOR = "creator"
    COPYRIGHT = "copyright"


class Treatment(StrEnum):
    """``exact``: as it is. ``pseudonym``: replaced by a keyed one. ``coarsen``: to a cell or grain."""

    EXACT = "exact"
    PSEUDONYM = "pseudonym"
    COARSEN = "coarsen"


class Block(StrEnum):
    """Parts of files that hold metadata; never copied."""

    EXIF = "exif"
    XMP = "xmp"
    IPTC = "iptc"
    TEXT = "text"
    MAKER_NOTE = "maker_note"
    THUMBNAIL = "thumbnail"
    FURTHER_PICTURES = "further_pictures"
    COLOUR_PROFILE = "colour_profile"
    CREDENTIALS = "credentials"
    TAGS = "tags"
    CHAPTERS = "chapters"
    ATTACHMENTS = "attachments"
    DATA_STREAMS = "data_streams"
    OTHER = "other"


class Grain(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    YEAR = "year"


class Period(StrEnum):
    """How long a pseudonym stays the same."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


NAMES = frozenset({MetadataField.CAMERA_NAME, MetadataField.SERIAL, MetadataField.PLACE})
"""What may have a pseudonym."""
MEASURES = frozenset({MetadataField.CAPTURED_AT, MetadataField.COORDINATES})
"""What may be coarsened."""
REVEALING: dict[MetadataField, str] = {
    MetadataField.SERIAL: "the camera's owner can be found by it; pseudonym",
    MetadataField.CAMERA_NAME: "often a person's or a street's name; pseudonym",
    MetadataField.PLACE: "says where people were; pseudonym",
    MetadataField.COORDINATES: "say where people were; coarsen",
    MetadataField.CAPTURED_AT: "says when people were there; coarsen",
    MetadataField.TITLE: "free text, which may name people",
    MetadataField.DESCRIPTION: "free text, which may name people",
    MetadataField.CREATOR: "names a person",
}


class Grid(Part):
    """Either ``degrees`` or ``metres``: the least side of a cell, of latitude and of longitude. Cells are the same
    for every file: whole numbers of them fill the globe, counted from the south pole and the 180th meridian."""

    degrees: Annotated[float, Field(ge=0.001, le=90)] | None = None
    metres: Annotated[float, Field(ge=100, le=5_000_000)] | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.degrees is None) == (self.metres is None):
            raise ValueError("give either degrees or metres")
        return self


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError("no such time zone; give an IANA name, as Europe/Amsterdam") from None
    return name


class Metadata(Part):
    """``keep``: the fields that stay, with the treatment of each; empty: none. ``grid``: of coordinates, which are
    moved to the centre of their cell. ``grain``: times are moved to its beginning in ``time_zone`` (IANA).
    ``recipient``: whom the file is for, and ``period``: pseudonyms differ between recipients and periods (UTC)."""

    keep: dict[MetadataField, Treatment] = Field(default_factory=dict)
    grid: Grid = Grid(degrees=0.01)
    grain: Grain = Grain.HOUR
    time_zone: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_known_zone)] = "UTC"
    recipient: Text | None = None
    period: Period = Period.MONTH

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, treatment in self.keep.items():
            if treatment is Treatment.PSEUDONYM and field not in NAMES:
                raise ValueError(f"keep.{field}: has no pseudonym; only {', '.join(sorted(NAMES))} have one")
            if treatment is Treatment.COARSEN and field not in MEASURES:
                raise ValueError(f"keep.{field}: cannot be coarsened; only {', '.join(sorted(MEASURES))} can")
        if self.recipient is None and Treatment.PSEUDONYM in self.keep.values():
            raise ValueError("recipient: missing; say whom the pseudonyms are for, each gets others")
        return self

    def warnings(self) -> Iterator[str]:
        """What is allowed and yet unwise, in words that name the field."""
        for field, treatment in self.keep.items():
            if treatment is Treatment.EXACT and field in REVEALING:
                yield f"keep.{field}: {REVEALING[field]}"


class MetadataRecord(Part):
    """What became of one file's metadata, by name; never a value. ``removed``: fields that were there, and blocks
    of which nothing else stayed. ``malformed``: blocks that could not be read; they are removed."""

    exact: tuple[MetadataField, ...] = ()
    pseudonymized: tuple[MetadataField, ...] = ()
    coarsened: tuple[MetadataField, ...] = ()
    removed: tuple[MetadataField | Block, ...] = ()
    malformed: tuple[Block, ...] = ()
