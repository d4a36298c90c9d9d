"""The metadata of JPEG, PNG and WebP: read, removed, and what may stay written again.

Nothing here fails because of what a file holds: what cannot be read is malformed, and gone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

from PIL import Image as PillowImage
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from sfumato.models import containers, xmp
from sfumato.models.containers import EXIF_HEADER, XMP_HEADER, XMP_KEYWORD
from sfumato.models.metadata import Coordinates, Found, Values, place, text
from sfumato.schemas.metadata import Block, MetadataField

CAMERA_TEXTS = {
    Base.Make: MetadataField.MAKE,
    Base.Model: MetadataField.MODEL,
    Base.ImageDescription: MetadataField.DESCRIPTION,
    Base.Artist: MetadataField.CREATOR,
    Base.Copyright: MetadataField.COPYRIGHT,
}
BODY_SERIAL_NUMBER = 0xA431
IPTC_TEXTS = {
    5: MetadataField.TITLE,
    120: MetadataField.DESCRIPTION,
    80: MetadataField.CREATOR,
    116: MetadataField.COPYRIGHT,
}
"""Datasets of IPTC-IIM's record 2."""
IPTC_PLACES = (92, 90, 95, 101)
IPTC_RESOURCE = 0x0404
"""Of Photoshop's image resources."""
PNG_TEXTS = {
    b"Title": MetadataField.TITLE,
    b"Description": MetadataField.DESCRIPTION,
    b"Author": MetadataField.CREATOR,
    b"Copyright": MetadataField.COPYRIGHT,
}
CREATION_TIME = b"Creation Time"
PNG_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt"})
OTHER_BLOCKS = {b"iCCP": Block.COLOUR_PROFILE, b"ICCP": Block.COLOUR_PROFILE, b"caBX": Block.CREDENTIALS}
OTHER_BLOCKS |= {b"C2PA": Block.CREDENTIALS}
SECONDS = 10_000
"""Parts of a second of arc that are written: 3 mm."""


def read(payload: bytes, content_type: str) -> tuple[Found, bytes]:
    """What the file holds, and the file as a decoder should get it: pixels, colours and orientation, nothing else.
    EXIF comes before XMP, IPTC and texts where they differ. A file whose container is malformed is returned as it is:
    whether it can be shown is for its decoder to say."""
    found, blocks = Found(), _Blocks()
    try:
        blocks.fill(payload, content_type, found)
    except Exception:  # noqa: BLE001 - hostile input
        found.malformed.add(Block.OTHER)
    orientation = 1
    if blocks.exif is not None:
        found.blocks.add(Block.EXIF)
        orientation = _guarded(found, Block.EXIF, lambda: _read_exif(blocks.exif or b"", found)) or 1
    if blocks.xmp is not None:
        found.blocks.add(Block.XMP)
        _guarded(found, Block.XMP, lambda: xmp.read(blocks.xmp or b"", found))
    if blocks.iptc is not None:
        found.blocks.add(Block.IPTC)
        _guarded(found, Block.IPTC, lambda: _read_iptc(blocks.iptc or b"", found))
    for keyword, written in blocks.texts:
        if keyword in PNG_TEXTS:
            found.offer(PNG_TEXTS[keyword], text(written))
        elif keyword == CREATION_TIME:
            found.offer(MetadataField.CAPTURED_AT, xmp.moment(written))
    turned = None
    if 2 <= orientation <= 8:
        turned = _tiff({Base.Orientation: orientation}, {}, {})
    bare = _guarded(found, Block.OTHER, lambda: containers.bare(payload, content_type, turned))
    return found, payload if bare is None else bare


def write(payload: bytes, content_type: str, values: Values) -> bytes:
    """A picture without metadata, with these values: in EXIF what EXIF has a place for in any script, else in XMP."""
    return containers.embed(payload, content_type, _exif(values), xmp.packet(values))


class _Blocks:
    """The raw blocks of a file."""

    def __init__(self) -> None:
        self.exif: bytes | None = None
        self.xmp: bytes | None = None
        self.iptc: bytes | None = None
        self.texts: list[tuple[bytes, str]] = []
        self._unpacked: set[bytes] = set()

    def fill(self, payload: bytes, content_type: str, found: Found) -> None:
        if content_type == "image/jpeg":
            for piece in containers.segments(payload):
                self._enter_segment(piece, found)
        else:
            for piece in containers.chunks(payload, content_type):
                self._enter_chunk(piece, found)

    def _enter_segment(self, piece: containers.Piece, found: Found) -> None:
        marker, body = piece.name, piece.body
        if marker == b"\xe1" and body.startswith(EXIF_HEADER):
            self.exif = self.exif or body[len(EXIF_HEADER) :]
        elif marker == b"\xe1" and body.startswith(XMP_HEADER):
            self.xmp = self.xmp or body[len(XMP_HEADER) :]
        elif marker == b"\xed" and body.startswith(b"Photoshop 3.0\0"):
            self.iptc = self.iptc or body[14:]
        elif marker == b"\xe2" and body.startswith(b"ICC_PROFILE\0"):
            found.blocks.add(Block.COLOUR_PROFILE)
        elif marker == b"\xe2" and body.startswith(b"MPF\0"):
            found.blocks.add(Block.FURTHER_PICTURES)
        elif marker == b"\xeb":
            found.blocks.add(Block.CREDENTIALS)
        elif marker == b"\xfe":
            found.blocks.add(Block.TEXT)
        elif not containers.is_pixels(piece):
            found.blocks.add(Block.OTHER)

    def _enter_chunk(self, piece: containers.Piece, found: Found) -> None:
        if piece.name in (b"eXIf", b"EXIF"):
            self.exif = self.exif or piece.body.removeprefix(EXIF_HEADER)
        elif piece.name == b"XMP ":
            self.xmp = self.xmp or piece.body
        elif piece.name in PNG_TEXT:
            self._enter_text(piece, found)
        elif piece.name in OTHER_BLOCKS:
            found.blocks.add(OTHER_BLOCKS[piece.name])
        elif piece.name not in containers.PNG_PIXELS | containers.WEBP_PIXELS:
            found.blocks.add(Block.OTHER)

    def _enter_text(self, piece: containers.Piece, found: Found) -> None:
        """Of each keyword that means something the first alone is unpacked: a picture has room for thousands."""
        keyword = piece.body.partition(b"\0")[0]
        if keyword == XMP_KEYWORD:
            if self.xmp is None:
                self.xmp = _guarded(found, Block.XMP, lambda: containers.png_text(piece)[1].encode()) or b""
            return
        found.blocks.add(Block.TEXT)
        if keyword in (*PNG_TEXTS, CREATION_TIME) and keyword not in self._unpacked:
            self._unpacked.add(keyword)
            if (told := _guarded(found, Block.TEXT, lambda: containers.png_text(piece))) is not None:
                self.texts.append(told)


def _guarded(found: Found, block: Block, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # noqa: BLE001 - hostile input; its text may hold values, so it goes nowhere
        found.malformed.add(block)
        return None


def _read_exif(tiff: bytes, found: Found) -> int:
    """Offer what EXIF holds; the orientation, 1 to 8."""
    exif = PillowImage.Exif()
    exif.load(EXIF_HEADER + tiff)
    orientation = exif.get(Base.Orientation, 1)
    camera = _ifd(exif, IFD.Exif, found)
    if Base.MakerNote in camera or 0xC634 in exif:  # DNGPrivateData
        found.blocks.add(Block.MAKER_NOTE)
    for tag, field in CAMERA_TEXTS.items():
        found.offer(field, text(exif.get(tag)))
    found.offer(MetadataField.SERIAL, text(camera.get(BODY_SERIAL_NUMBER)))
    written, offset = text(camera.get(Base.DateTimeOriginal)), text(camera.get(Base.OffsetTimeOriginal))
    found.offer(MetadataField.CAPTURED_AT, xmp.moment(f"{written or text(exif.get(Base.DateTime))}{offset or ''}"))
    found.offer(MetadataField.COORDINATES, _coordinates(_ifd(exif, IFD.GPSInfo, found)))
    if _ifd(exif, IFD.IFD1, found):
        found.blocks.add(Block.THUMBNAIL)
    return orientation if isinstance(orientation, int) else 1


def _ifd(exif: PillowImage.Exif, ifd: IFD, found: Found) -> Mapping[int, Any]:
    read: Mapping[int, Any] | None = _guarded(found, Block.EXIF, lambda: dict(exif.get_ifd(ifd)))
    return read or {}


def _coordinates(gps: Mapping[int, Any]) -> Coordinates | None:
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "NS")
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "EW")
    return None if latitude is None or longitude is None else place(latitude, longitude)


def _degrees(parts: Any, side: Any, sides: str) -> float | None:
    side = text(side)
    if not isinstance(parts, tuple) or len(parts) != 3 or side is None or side.upper() not in tuple(sides):
        return None
    try:
        degrees = sum(float(part) / unit for part, unit in zip(parts, (1, 60, 3600), strict=True))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if not math.isfinite(degrees) or degrees < 0:
        return None
    return degrees if side.upper() == sides[0] else -degrees


def _read_iptc(resources: bytes, found: Found) -> None:
    told: dict[int, str] = {}
    for number, value in _datasets(resources):
        told.setdefault(number, text(value) or "")
    for number, field in IPTC_TEXTS.items():
        found.offer(field, told.get(number))
    found.offer(MetadataField.PLACE, text(", ".join(filter(None, (told.get(number) for number in IPTC_PLACES)))))
    date, clock = told.get(55, ""), told.get(60, "000000")
    if len(date) == 8 and len(clock) >= 6:
        day, hour = f"{date[:4]}-{date[4:6]}-{date[6:]}", f"{clock[:2]}:{clock[2:4]}:{clock[4:6]}{clock[6:11]}"
        found.offer(MetadataField.CAPTURED_AT, xmp.moment(f"{day} {hour}"))


def _datasets(resources: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and values of IPTC-IIM's record 2 in Photoshop's image resources."""
    at = 0
    while at + 12 <= len(resources):
        if resources[at : at + 4] != b"8BIM":
            raise ValueError("no resource")
        (number,) = struct.unpack_from(">H", resources, at + 4)
        at += 6 + (1 + resources[at + 6] + 1) // 2 * 2  # its name, padded
        (length,) = struct.unpack_from(">I", resources, at)
        if number == IPTC_RESOURCE:
            yield from _records(resources[at + 4 : at + 4 + length])
        at += 4 + length + length % 2


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 5 <= len(data) and data[at] == 0x1C:
        record, number, length = struct.unpack_from(">BBH", data, at + 1)
        if length >= 0x8000:
            raise ValueError("an extended dataset")
        if record == 2:
            yield number, data[at + 5 : at + 5 + length]
        at += 5 + length


def _exif(values: Values) -> bytes | None:
    main: dict[int, Any] = {}
    camera: dict[int, Any] = {}
    gps: dict[int, Any] = {}
    for tag, field in ((Base.Make, MetadataField.MAKE), (Base.Model, MetadataField.MODEL)):
        if isinstance(value := values.get(field), str):
            main[tag] = value
    if isinstance(serial := values.get(MetadataField.SERIAL), str):
        camera[BODY_SERIAL_NUMBER] = serial
    if isinstance(moment := values.get(MetadataField.CAPTURED_AT), datetime):
        camera[Base.DateTimeOriginal] = moment.strftime("%Y:%m:%d %H:%M:%S").rjust(19, "0")
        if moment.tzinfo is not None:
            camera[Base.OffsetTimeOriginal] = moment.isoformat()[-6:]
    if isinstance(coordinates := values.get(MetadataField.COORDINATES), tuple):
        (latitude, longitude) = coordinates
        gps = {
            GPS.GPSVersionID: b"\x02\x03\x00\x00",
            GPS.GPSLatitudeRef: "S" if latitude < 0 else "N",
            GPS.GPSLatitude: _arc(latitude),
            GPS.GPSLongitudeRef: "W" if longitude < 0 else "E",
            GPS.GPSLongitude: _arc(longitude),
        }
    if camera or gps:
        camera[Base.ExifVersion] = b"0232"
    return _tiff(main, camera, gps) if main or camera or gps else None


def _arc(degrees: float) -> tuple[IFDRational, ...]:
    """Degrees, minutes and seconds."""
    parts = round(Fraction(abs(degrees)) * 3600 * SECONDS)
    minutes, seconds = divmod(parts, 60 * SECONDS)
    return IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(seconds, SECONDS)


def _tiff(main: Mapping[int, Any], camera: Mapping[int, Any], gps: Mapping[int, Any]) -> bytes:
    exif = PillowImage.Exif()
    exif.update(main)
    for ifd, tags in ((IFD.Exif, camera), (IFD.GPSInfo, gps)):
        if tags:
            exif.get_ifd(ifd).update(tags)
    return exif.tobytes().removeprefix(EXIF_HEADER)
