"""The NAL units of H.264 and H.265 access units: what a unit is and needs, read from its bits alone.

A *NAL unit* here is its bytes without start code or length. Nothing is decoded. Whatever breaks the syntax is
:class:`BitstreamError`, never an exception of another kind. Sources: ITU-T H.264 and H.265, annex B and clauses 7.3
and 7.4; ISO/IEC 14496-15 for the configuration records of MP4 and Matroska.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sfumato.schemas.unit import H264, H265

LARGEST_PARAMETER_SET = 64 * 1024
"""In bytes; what is larger is no parameter set."""

_START = b"\x00\x00\x01"
_HEAD = 256
"""Bytes of a NAL unit that are enough for the fields read here."""
_RECOVERY_POINT = 6


class BitstreamError(ValueError):
    """Bytes that are no access unit of their codec; the text quotes none of them."""


class Kind(IntEnum):
    """Parameter sets, each kind referring to one of the kind before it."""

    VPS = 0
    SPS = 1
    PPS = 2


class _Header(NamedTuple):
    type: int
    reference: bool
    """H.264: whether nal_ref_idc says that other pictures may need it."""
    layer: int
    """H.265: nuh_layer_id; all but 0 are additional views or sizes."""
    temporal: int
    """H.265: TemporalId."""


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """What the NAL units of one access unit say.

    ``keyframe``: a decoder may begin here, and each picture that is shown later comes out right.
    ``reference``: other pictures of the same or a higher temporal layer (``temporal``) may need it.
    """

    nals: tuple[bytes, ...]
    keyframe: bool
    reference: bool
    temporal: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """A container's own record of a stream. ``length_size``: bytes of the length in front of each NAL unit; 0: the
    stream has start codes. ``nals``: parameter sets."""

    length_size: int
    nals: tuple[bytes, ...]


def split(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte stream, which begins with a start code."""
    end = data.find(_START)
    if end < 0 or data[:end].strip(b"\0"):
        raise BitstreamError("does not begin with a start code")
    nals = []
    while end >= 0:
        begin = end + len(_START)
        end = data.find(_START, begin)
        nals.append(data[begin : end if end >= 0 else len(data)].rstrip(b"\0"))  # zeros belong to the next start code
    return [nal for nal in nals if nal]


def join(nals: Iterable[bytes]) -> bytes:
    """NAL units as an Annex B byte stream."""
    return b"".join(b"\0" + _START + nal for nal in nals)


def unpack(data: bytes, length_size: int) -> list[bytes]:
    """The NAL units of a container's sample, each behind its length of ``length_size`` bytes."""
    nals, position = [], 0
    while position < len(data):
        begin = position + length_size
        position = begin + int.from_bytes(data[position:begin], "big")
        if begin > len(data) or position > len(data):
            raise BitstreamError("a NAL unit is longer than its sample")
        if nal := data[begin:position].rstrip(b"\0"):
            nals.append(nal)
    return nals


def read_configuration(content_type: str, extradata: bytes) -> Configuration:
    """The parameter sets beside the stream, and how its NAL units are parted: FFmpeg's ``extradata``."""
    if not extradata or extradata.startswith((_START, b"\0" + _START)):
        return Configuration(0, tuple(split(extradata)) if extradata else ())
    if content_type == H264:
        return Configuration((_at(extradata, 4) & 3) + 1, tuple(_avcc_nals(extradata)))
    return Configuration((_at(extradata, 21) & 3) + 1, tuple(_hvcc_nals(extradata)))


def read(content_type: str, nals: Sequence[bytes]) -> AccessUnit:
    """What an access unit is; :class:`BitstreamError` where it is not well-formed or holds no picture."""
    headers = [_header(content_type, nal) for nal in nals]
    if content_type == H264:
        slices = [(header, nal) for header, nal in zip(headers, nals, strict=True) if header.type in (1, 2, 5)]
    else:
        slices = [(h, nal) for h, nal in zip(headers, nals, strict=True) if h.type < 32 and h.layer == 0]
    if not slices:
        raise BitstreamError("holds no slice")
    first, first_nal = slices[0]
    if content_type == H264:
        keyframe = first.type == 5 or (_recovers(headers, nals) and _is_intra(first_nal))
        return AccessUnit(tuple(nals), keyframe, any(header.reference for header, _ in slices), 0)
    keyframe = all(16 <= header.type <= 23 for header, _ in slices)
    reference = any(header.type > 14 or header.type % 2 for header, _ in slices)
    return AccessUnit(tuple(nals), keyframe, reference, first.temporal)


class ParameterSets:
    """The newest parameter sets of a stream, each by its kind and id. Bounded: there are few ids."""

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type
        self._sets: dict[tuple[Kind, int], tuple[bytes, int | None]] = {}
        self._needed = {Kind.SPS, Kind.PPS} if content_type == H264 else set(Kind)

    def learn(self, nals: Iterable[bytes]) -> bool:
        """Take the parameter sets among ``nals``, in their order; whether one of them is new."""
        changed = False
        for kind, id_, refers_to, nal in self._among(nals):
            if self._sets.get((kind, id_), (b"",))[0] != nal:
                self._forget_referring(kind, id_)
                self._sets[kind, id_] = (nal, refers_to)
                changed = True
        return changed

    @property
    def complete(self) -> bool:
        """Whether a decoder could begin with what is known."""
        return self._needed <= {kind for kind, _ in self._sets}

    @property
    def layers(self) -> int:
        """How many temporal layers the stream may have."""
        if self._content_type == H264:
            return 1
        sequences = [nal for (kind, _), (nal, _) in self._sets.items() if kind is Kind.SPS]
        return max((((_at(nal, 2) >> 1) & 7) + 1 for nal in sequences), default=1)

    def missing_from(self, nals: Iterable[bytes]) -> list[bytes]:
        """All sets in order of reference, if one of them is not among ``nals``; otherwise none."""
        there = {(kind, id_) for kind, id_, _, _ in self._among(nals)}
        if self._sets.keys() <= there:
            return []
        return [self._sets[key][0] for key in sorted(self._sets)]

    def _among(self, nals: Iterable[bytes]) -> Iterator[tuple[Kind, int, int | None, bytes]]:
        for nal in nals:
            header = _header(self._content_type, nal)
            kind = _kind(self._content_type, header)
            if kind is not None:
                if len(nal) > LARGEST_PARAMETER_SET:
                    raise BitstreamError("a parameter set is too large")
                yield kind, *_ids(self._content_type, kind, nal), nal

    def _forget_referring(self, kind: Kind, id_: int) -> None:
        """As decoders do: what refers to a set that has changed is no longer valid."""
        for key, (_, refers_to) in list(self._sets.items()):
            if key[0] == kind + 1 and refers_to == id_ and key in self._sets:
                del self._sets[key]
                self._forget_referring(*key)


def with_sets(nals: Sequence[bytes], sets: Sequence[bytes], content_type: str) -> list[bytes]:
    """An access unit with parameter sets in front of it, behind its delimiter, which has to come first."""
    delimiter = 9 if content_type == H264 else 35
    begin = 1 if nals and _header(content_type, nals[0]).type == delimiter else 0
    return [*nals[:begin], *sets, *nals[begin:]]


class _Bits:
    """Reads the beginning of a NAL unit bit by bit, without its emulation prevention bytes."""

    def __init__(self, data: bytes) -> None:
        payload = data[:_HEAD].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def take(self, bits: int) -> int:
        if bits > self._left:
            raise BitstreamError("ends too early")
        self._left -= bits
        return (self._value >> self._left) & ((1 << bits) - 1)

    def golomb(self) -> int:
        """An unsigned number in Exp-Golomb code: ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise BitstreamError("holds a number out of range")
        return (1 << zeros) - 1 + self.take(zeros)


def _at(data: bytes, position: int) -> int:
    if position >= len(data):
        raise BitstreamError("ends too early")
    return data[position]


def _header(content_type: str, nal: bytes) -> _Header:
    first = _at(nal, 0)
    if first & 0x80:
        raise BitstreamError("forbidden_zero_bit is set")
    if content_type == H264:
        return _Header(first & 31, bool(first & 0x60), 0, 0)
    if content_type != H265:
        raise BitstreamError("unknown codec")
    second = _at(nal, 1)
    if not second & 7:
        raise BitstreamError("nuh_temporal_id_plus1 is 0")
    return _Header(first >> 1, True, (first & 1) << 5 | second >> 3, (second & 7) - 1)


def _kind(content_type: str, header: _Header) -> Kind | None:
    if header.layer:
        return None  # of another layer, which no decoder here reads
    types = {7: Kind.SPS, 8: Kind.PPS} if content_type == H264 else {32: Kind.VPS, 33: Kind.SPS, 34: Kind.PPS}
    return types.get(header.type)


def _ids(content_type: str, kind: Kind, nal: bytes) -> tuple[int, int | None]:
    """A parameter set's id and that of the set it refers to."""
    if content_type == H264:
        bits = _Bits(nal[1:])
        if kind is Kind.SPS:
            bits.take(24)  # profile, constraints, level
            return _bounded(bits.golomb(), 31), None
        return _bounded(bits.golomb(), 255), _bounded(bits.golomb(), 31)
    bits = _Bits(nal[2:])
    if kind is Kind.VPS:
        return bits.take(4), None
    if kind is Kind.PPS:
        return _bounded(bits.golomb(), 63), _bounded(bits.golomb(), 15)
    vps, layers = bits.take(4), bits.take(3)
    bits.take(1)
    _skip_profile_tier_level(bits, layers)
    return _bounded(bits.golomb(), 15), vps


def _bounded(id_: int, largest: int) -> int:
    if id_ > largest:
        raise BitstreamError("a parameter set's id is out of range")
    return id_


def _skip_profile_tier_level(bits: _Bits, layers: int) -> None:
    bits.take(96)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)


def _recovers(headers: Sequence[_Header], nals: Sequence[bytes]) -> bool:
    """Whether an SEI says: exact from this very picture on. That makes an H.264 picture a keyframe of an open GOP."""
    for header, nal in zip(headers, nals, strict=True):
        try:
            messages = _sei(nal[1:].replace(b"\0\0\3", b"\0\0")) if header.type == 6 else ()
            for type_, payload in messages:
                if type_ == _RECOVERY_POINT:
                    bits = _Bits(payload)
                    return bits.golomb() == 0 and bits.take(1) == 1
        except BitstreamError:  # the pictures do not depend on it
            continue
    return False


def _sei(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data) - 1:  # the last byte holds the stop bit
        numbers = []
        for _ in range(2):
            number = 0
            while _at(data, position) == 0xFF:
                number, position = number + 255, position + 1
            numbers.append(number + data[position])
            position += 1
        type_, size = numbers
        if position + size > len(data):
            raise BitstreamError("an SEI message is longer than its NAL unit")
        yield type_, data[position : position + size]
        position += size


def _is_intra(nal: bytes) -> bool:
    """Whether an H.264 slice needs no other picture: slice_type I or SI."""
    bits = _Bits(nal[1:])
    bits.golomb()  # first_mb_in_slice
    return bits.golomb() in (2, 4, 7, 9)


def _avcc_nals(record: bytes) -> Iterator[bytes]:
    """Of an AVCDecoderConfigurationRecord."""
    position = 5
    for mask in (0x1F, 0xFF):
        count = _at(record, position) & mask
        position += 1
        for _ in range(count):
            nal, position = _sized(record, position)
            yield nal


def _hvcc_nals(record: bytes) -> Iterator[bytes]:
    """Of an HEVCDecoderConfigurationRecord."""
    arrays, position = _at(record, 22), 23
    for _ in range(arrays):
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            nal, position = _sized(record, position)
            yield nal


def _sized(record: bytes, position: int) -> tuple[bytes, int]:
    begin = position + 2
    end = begin + int.from_bytes(record[position:begin], "big")
    if end > len(record):
        raise BitstreamError("a parameter set is longer than its record")
    return record[begin:end].rstrip(b"\0"), end
