"""XMP packets (ISO 16684-1): the properties that have a name in :class:`MetadataField` are read, and few written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from xml.sax.saxutils import escape

from defusedxml import ElementTree

from sfumato.models.metadata import Coordinates, Found, Values, place, text
from sfumato.schemas.metadata import MetadataField

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "xmpDM": "http://ns.adobe.com/xmp/1.0/DynamicMedia/",
}
TEXTS = {
    "tiff:Make": MetadataField.MAKE,
    "tiff:Model": MetadataField.MODEL,
    "xmpDM:cameraLabel": MetadataField.CAMERA_NAME,
    "exifEX:BodySerialNumber": MetadataField.SERIAL,
    "aux:SerialNumber": MetadataField.SERIAL,
    "dc:title": MetadataField.TITLE,
    "dc:description": MetadataField.DESCRIPTION,
    "dc:creator": MetadataField.CREATOR,
    "dc:rights": MetadataField.COPYRIGHT,
}
"""Properties in the order in which they are preferred."""
TIMES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate")
PLACES = ("Iptc4xmpCore:Location", "photoshop:City", "photoshop:State", "photoshop:Country")
WRITTEN = {
    MetadataField.CAMERA_NAME: ("xmpDM:cameraLabel", None),
    MetadataField.PLACE: ("Iptc4xmpCore:Location", None),
    MetadataField.TITLE: ("dc:title", "Alt"),
    MetadataField.DESCRIPTION: ("dc:description", "Alt"),
    MetadataField.CREATOR: ("dc:creator", "Seq"),
    MetadataField.COPYRIGHT: ("dc:rights", "Alt"),
}
"""What has its place in XMP, and the kind of its list; EXIF's texts would be ASCII only."""
LARGEST = 1_000_000
"""Bytes of a packet that is read; a camera's has some thousand."""
ARC = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])")
"""Degrees, minutes and perhaps seconds, as XMP writes coordinates."""


def read(packet: bytes, found: Found) -> None:
    """Offer what the packet holds. Raises what the XML parser raises where it is malformed or not harmless."""
    if len(packet) > LARGEST:
        raise ValueError("a packet of too many bytes")
    properties: dict[str, str] = {}
    root = ElementTree.fromstring(packet.strip(b"\0 \t\r\n"))
    for description in root.iter(f"{{{RDF}}}Description"):
        for name, value in [*description.attrib.items(), *_children(description)]:
            properties.setdefault(_short(name), value)
    for name, field in TEXTS.items():
        found.offer(field, text(properties.get(name)))
    for name in TIMES:
        found.offer(MetadataField.CAPTURED_AT, moment(properties.get(name, "")))
    found.offer(MetadataField.PLACE, text(", ".join(filter(None, (text(properties.get(name)) for name in PLACES)))))
    found.offer(MetadataField.COORDINATES, _coordinates(properties))


def _children(description: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for child in description:
        # No deeper than a list's items: descriptions may lie in one another, and each would go through all others.
        items = [(item.text or "").strip() for item in child.iterfind(f"*/{{{RDF}}}li")]
        yield child.tag, ", ".join(items) if "creator" in child.tag else (items[0] if items else child.text or "")


def _short(name: str) -> str:
    space, _, local = name.removeprefix("{").partition("}")
    return next((f"{short}:{local}" for short, uri in SPACES.items() if uri == space), "")


def moment(written: str) -> datetime | None:
    """A date and time as ISO 8601 or EXIF write it; None where it is none. Without an offset it is naive."""
    match = re.match(
        r"\s*(\d{4})[:-](\d\d)[:-](\d\d)[T ](\d\d):(\d\d)(?::(\d\d))?(?:[.,]\d+)?\s*(Z|[+-]\d\d:?\d\d)?", written[:64]
    )
    if match is None:
        return None
    *numbers, offset = match.groups()
    try:
        found = datetime(*(int(number or 0) for number in numbers))  # type: ignore[arg-type]
        return found if offset is None else found.replace(tzinfo=zone(offset))
    except ValueError:
        return None


def zone(offset: str) -> timezone:
    """Of ``Z`` or ``+01:00``. Raises ValueError."""
    if offset == "Z":
        return timezone(timedelta(0))
    sign, hours, minutes = offset[0], int(offset[1:3]), int(offset[-2:])
    return timezone((1 if sign == "+" else -1) * timedelta(hours=hours, minutes=minutes))


def _coordinates(properties: dict[str, str]) -> Coordinates | None:
    degrees = []
    for name in ("exif:GPSLatitude", "exif:GPSLongitude"):
        match = ARC.fullmatch(properties.get(name, "")[:64].strip())
        if match is None:
            return None
        whole, minutes, seconds, side = match.groups()
        degrees.append((int(whole) + float(minutes) / 60 + float(seconds or 0) / 3600) * (-1 if side in "SW" else 1))
    return place(*degrees)


def packet(values: Values) -> bytes | None:
    """The smallest packet with these values; None where none of them has its place in XMP."""
    lines = []
    for field, (name, kind) in WRITTEN.items():
        value = values.get(field)
        if isinstance(value, str):
            lang = ' xml:lang="x-default"' if kind == "Alt" else ""
            inner = escape(value)
            listed = f"<rdf:{kind}><rdf:li{lang}>{inner}</rdf:li></rdf:{kind}>" if kind else inner
            lines.append(f"<{name}>{listed}</{name}>")
    if not lines:
        return None
    used = {short: uri for short, uri in SPACES.items() if any(line.startswith(f"<{short}:") for line in lines)}
    spaces = "".join(f' xmlns:{short}="{uri}"' for short, uri in used.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""{spaces}>{"".join(lines)}</rdf:Description></rdf:RDF>'
        '</x:xmpmeta><?xpacket end="r"?>'
    ).encode()
