"""The metadata of films: what FFmpeg reads of ``udta``, QuickTime's keys and Matroska's tags; and tags to write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from av.error import FFmpegError
from av.stream import Disposition

from sfumato.models import xmp
from sfumato.models.metadata import Coordinates, Found, Values, place, text
from sfumato.models.reading import FilmError, Origin, open_film
from sfumato.schemas.metadata import Block, MetadataField

APPLE = "com.apple.quicktime."
KEYS: dict[MetadataField, tuple[str, ...]] = {
    MetadataField.MAKE: (f"{APPLE}make", "make", "com.android.manufacturer"),
    MetadataField.MODEL: (f"{APPLE}model", "model", "com.android.model"),
    MetadataField.CAMERA_NAME: (f"{APPLE}camera.identifier", "camera_name", "camera"),
    MetadataField.SERIAL: ("com.sfumato.serial", "serial_number", "serial"),
    MetadataField.PLACE: (f"{APPLE}location.name", "recording_location"),
    MetadataField.TITLE: (f"{APPLE}title", "title"),
    MetadataField.DESCRIPTION: (f"{APPLE}description", "description", "synopsis", "comment"),
    MetadataField.CREATOR: (f"{APPLE}artist", f"{APPLE}author", "artist", "author", "director"),
    MetadataField.COPYRIGHT: (f"{APPLE}copyright", "copyright"),
    MetadataField.CAPTURED_AT: (f"{APPLE}creationdate", "date_recorded", "com.apple.photos.originating.signature-date"),
    MetadataField.COORDINATES: (f"{APPLE}location.iso6709", "location", "location-eng"),
}
"""By field the names of tags in small letters, those preferred first; the first is written in MP4 and MOV."""
MATROSKA: dict[MetadataField, str] = {
    MetadataField.MAKE: "MAKE",
    MetadataField.MODEL: "MODEL",
    MetadataField.CAMERA_NAME: "CAMERA_NAME",
    MetadataField.SERIAL: "SERIAL_NUMBER",
    MetadataField.PLACE: "RECORDING_LOCATION",
    MetadataField.TITLE: "title",
    MetadataField.DESCRIPTION: "DESCRIPTION",
    MetadataField.CREATOR: "ARTIST",
    MetadataField.COPYRIGHT: "COPYRIGHT",
    MetadataField.CAPTURED_AT: "DATE_RECORDED",
    MetadataField.COORDINATES: "LOCATION",
}
STRUCTURAL = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration", "language"}
    | {"handler_name", "vendor_id", "bps", "number_of_frames", "number_of_bytes"}
)
"""Tags that muxers make; not named as removed."""
ISO6709 = re.compile(r"([+-]\d{2}(?:\.\d+)?)([+-]\d{3}(?:\.\d+)?)(?:[+-]\d+(?:\.\d+)?)?(?:CRS\w+)?/?")


def read(path: Origin) -> Found:
    """What the film says of itself. What cannot be read is malformed; nothing raises."""
    found = Found()
    try:
        with open_film(path) as container:
            _read(container, found)
    except (FFmpegError, FilmError, OSError, ValueError, OverflowError, UnicodeError):
        found.malformed.add(Block.TAGS)
    return found


def _read(container: Any, found: Found) -> None:
    tags = _lower(container.metadata)
    for stream in container.streams:
        for name, value in _lower(stream.metadata).items():
            tags.setdefault(name, value)
        if stream.type == "attachment" or stream.disposition & Disposition.attached_pic:
            found.blocks.add(Block.ATTACHMENTS)
        elif stream.type not in ("video", "audio"):
            found.blocks.add(Block.DATA_STREAMS)
    if container.chapters():
        found.blocks.add(Block.CHAPTERS)
    for field, names in KEYS.items():
        for name in names:
            told = text(tags.get(name))
            if told and field is MetadataField.CAPTURED_AT:
                found.offer(field, xmp.moment(told))
            elif told and field is MetadataField.COORDINATES:
                found.offer(field, _coordinates(told))
            else:
                found.offer(field, told)
    found.offer(MetadataField.CAPTURED_AT, _made(tags.get("creation_time", "")))
    known = {name for names in KEYS.values() for name in names}
    if tags.keys() - known - STRUCTURAL:
        found.blocks.add(Block.TAGS)


def _lower(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in tags.items()}


def _made(written: str) -> datetime | None:
    """MP4 counts seconds from 1904, and many writers leave 0."""
    moment = xmp.moment(written)
    return moment if moment is not None and moment.year > 1970 else None


def _coordinates(written: str) -> Coordinates | None:
    match = ISO6709.fullmatch(written)
    return None if match is None else place(float(match[1]), float(match[2]))


def tags(values: Values, container: str) -> dict[str, str]:
    """What to hand FFmpeg as metadata of the file. MP4 and MOV want the option ``movflags=use_metadata_tags``."""
    written: dict[str, str] = {}
    for field, value in values.items():
        if field is MetadataField.COORDINATES and container in ("mp4", "mov"):
            name = f"{APPLE}location.ISO6709"
        else:
            name = KEYS[field][0] if container in ("mp4", "mov") else MATROSKA[field]
        if isinstance(value, datetime):
            written[name] = value.isoformat(timespec="seconds")
            if value.tzinfo is not None:
                written["creation_time"] = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        elif isinstance(value, tuple):
            written[name] = f"{value[0]:+010.6f}{value[1]:+011.6f}/"
        else:
            written[name] = value
    return written
