"""How a film is laid out, and what its index claims: read before FFmpeg opens it.

FFmpeg keeps some 24 bytes for each picture that the index of an MP4 speaks of, whether or not the file could hold so
many: a file of 2 KB took 1.2 GB. It unpacks a compressed index to the size that this states, and keeps a structure for
each of Matroska's tags and attachments. So what is claimed is added up first. Sources: ISO/IEC 14496-12; QuickTime File
Format; RFC 8794 and RFC 9559.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sfumato.models.reading import FilmError, Seekable

MOST_PICTURES = 10_000_000
"""That an MP4 may speak of, in all its streams: 24 hours of 60 pictures a second with sound are 9.3 million."""
MOST_INDEX = {"mp4": 128 << 20, "matroska": 16 << 20}
"""Bytes of what is not pictures or sound."""
MOST_BOXES = 1_000_000
MOST_ELEMENTS = 10_000_000
UNKNOWN = -1
"""The size of an element that ends where the next one begins."""
DATA = frozenset({b"mdat", b"free", b"skip", b"wide"})
"""Boxes that FFmpeg does not look into."""
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
VOID, CRC = 0xEC, 0xBF
INDEX = frozenset({0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367})
"""SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags."""


def read_at(file: Seekable, start: int, count: int) -> bytes:
    """So many bytes from there. Raises :class:`~sfumato.models.reading.FilmError` where there are fewer."""
    file.seek(start)
    found = bytearray()
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    if len(found) < count:
        raise FilmError("ends before its end")
    return bytes(found)


def boxes(file: Seekable, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Each box of an MP4 at the top: its type, where its content begins, and that content's length. Raises
    :class:`~sfumato.models.reading.FilmError` where there is something between them."""
    place, count = 0, 0
    while place < length:
        header = read_at(file, place, min(16, length - place))
        size, kind, begin = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1 and len(header) == 16:
            size, begin = int.from_bytes(header[8:], "big"), 16
        elif size == 0:
            size = length - place
        count += 1
        if len(kind) < 4 or not re.fullmatch(rb"[ -~\xa9]{4}", kind) or not begin <= size <= length - place:
            raise FilmError("holds bytes that belong to no box of an MP4: it is damaged, or something else, too")
        if count > MOST_BOXES:
            raise FilmError("is an MP4 of too many boxes")
        yield kind, place + begin, size - begin
        place += size


def check_mp4(file: Seekable, length: int) -> None:
    """Raises :class:`~sfumato.models.reading.FilmError` where the index speaks of more than :data:`MOST_PICTURES`, is
    compressed, or is too large. Its tables are found wherever they lie, since FFmpeg reads them anywhere."""
    claimed, size = 0, 0
    for kind, start, count in boxes(file, length):
        if kind in DATA:
            continue
        size += count
        if size > MOST_INDEX["mp4"]:
            raise FilmError(f"has an index of more than {MOST_INDEX['mp4']} bytes")
        content = kind + read_at(file, start, count)
        for table in re.finditer(rb"stsz|stz2|trun|cmov", content):
            claimed += _claimed(content, table.start())
        if claimed > MOST_PICTURES:
            raise FilmError(f"has an index that speaks of more than {MOST_PICTURES} pictures")


def _claimed(content: bytes, at: int) -> int:
    """Of how many samples the table at this place speaks."""
    kind = content[at : at + 4]
    if kind == b"cmov":
        raise FilmError("has a compressed index; write it anew without")
    if kind == b"trun":
        return _number(content, at + 8)
    if kind == b"stsz" and _number(content, at + 8) and _is_plain_sound(content, at):
        return 0
    return _number(content, at + 12)


def _is_plain_sound(content: bytes, at: int) -> bool:
    """Whether the table belongs to uncompressed sound, of which FFmpeg keeps the chunks alone: a track of sound whose
    samples all last one tick."""
    begin = content.rfind(b"trak", 0, at)
    track = content[begin : begin - 4 + _number(content, begin - 4)] if begin >= 4 else b""
    kinds = [track[found.end() + 8 : found.end() + 12] for found in re.finditer(b"hdlr", track)]
    (times, *others) = [found.end() for found in re.finditer(b"stts", track)] or [0]
    lasting_one = _number(track, times + 4) == 1 and _number(track, times + 12) == 1
    return at < begin + len(track) and b"soun" in kinds and b"vide" not in kinds and not others and lasting_one


def _number(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "big")


def check_matroska(file: Seekable, length: int) -> None:
    """A header and a segment, then more of these or nothing, with an index that is not too large. Raises
    :class:`~sfumato.models.reading.FilmError`."""
    place, segments, size, count = 0, 0, 0, 0
    end = 0
    """Of the segment; what follows its beginning lies in it. A cluster without a size is gone into, too."""
    while place < length:
        id, stated, begin = _element(file, place, length)
        inside, count = place < end, count + 1
        if count > MOST_ELEMENTS or (not inside and id not in (EBML, SEGMENT, VOID, CRC)) or not id:
            raise FilmError("holds bytes that are no part of a Matroska file: it is damaged, or something else, too")
        if id == SEGMENT:
            segments += 1
            end = length if stated == UNKNOWN else begin + stated
            place = begin
        elif stated == UNKNOWN:
            place = begin
        else:
            size += stated if id in INDEX else 0
            place = begin + stated
        if size > MOST_INDEX["matroska"]:
            raise FilmError(f"has an index of more than {MOST_INDEX['matroska']} bytes")
    if (place > length and end != length) or end > length or not segments:
        raise FilmError("is a Matroska file that was cut short")


def _element(file: Seekable, place: int, length: int) -> tuple[int, int, int]:
    """An EBML element (RFC 8794): its ID, its content's length, and where that begins; ID 0: it is none."""
    header = read_at(file, place, min(12, length - place))
    id_length = 9 - header[0].bit_length() if header else 9
    if id_length > 4 or len(header) <= id_length:
        return 0, 0, place
    size_length = 9 - header[id_length].bit_length()
    if size_length > 8 or len(header) < id_length + size_length:
        return 0, 0, place
    id = int.from_bytes(header[:id_length], "big")
    stated = int.from_bytes(header[id_length : id_length + size_length], "big") & ((1 << 7 * size_length) - 1)
    size = UNKNOWN if stated == (1 << 7 * size_length) - 1 else stated
    return id, size, place + id_length + size_length
