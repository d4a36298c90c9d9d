"""NAL units: random bytes raise nothing but the module's own error, and real streams are read as they were encoded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfumato.models import bitstream
from sfumato.models.bitstream import AccessUnit, BitstreamError, ParameterSets
from sfumato.schemas.unit import H264, H265
from tests.footage import packets, write_video

codecs = st.sampled_from([H264, H265])
# Start codes, lengths and headers of every kind are likely in these.
piece = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"\0\0\1", b"\0\0\0\1", b"\0\0\3", b"\x67", b"\x42\x01", b"\x06"])
)
noise = st.one_of(st.binary(max_size=300), st.lists(piece, max_size=20).map(b"".join))
nal_unit = st.binary(min_size=1, max_size=60).filter(lambda nal: b"\0\0\1" not in nal and nal[-1] != 0)

MOVING = [number % 20 for number in range(40)]
KINDS = {
    "x264": ("libx264", {"bf": "0"}),
    "x264 with B-frames": ("libx264", {"bf": "3"}),
    "x264 with an open GOP": ("libx264", {"x264-params": "open-gop=1:bframes=3"}),
    "x264 with slices": ("libx264", {"x264-params": "slices=4:bframes=2:aud=1"}),
    "x265 plain": ("libx265", {"x265-params": "log-level=none:keyint=10:scenecut=0:bframes=0"}),
    "x265 with B-frames": ("libx265", {"x265-params": "log-level=none:keyint=10:scenecut=0:open-gop=0:bframes=3"}),
    "x265 with an open GOP": (
        "libx265",
        {"x265-params": "log-level=none:keyint=10:scenecut=0:open-gop=1:bframes=3:aud=1"},
    ),
    "x265 with temporal layers": (
        "libx265",
        {"x265-params": "log-level=none:keyint=10:scenecut=0:temporal-layers=3:bframes=3:b-adapt=0"},
    ),
}


def quietly(function: Callable[[], object]) -> None:
    with suppress(BitstreamError):
        function()


def units(path: Path, content_type: str) -> list[AccessUnit]:
    return [bitstream.read(content_type, bitstream.split(bytes(packet))) for packet in packets(path)]


def encode(folder: Path, name: str) -> tuple[Path, str]:
    codec, options = KINDS[name]
    path = write_video(folder / "a.ts", MOVING, codec, **{"g": "10", "sc_threshold": "0", **options})
    return path, H264 if codec == "libx264" else H265


@given(codecs, noise, st.integers(1, 4))
@example(H264, b"\0\0\1\x06\xff", 4)
@example(H265, b"\0\0\1\x42", 4)
def test_random_bytes_raise_nothing_but_the_named_error(content_type: str, data: bytes, length_size: int) -> None:
    for part in (lambda: bitstream.split(data), lambda: bitstream.unpack(data, length_size)):
        quietly(lambda part=part: bitstream.read(content_type, part()))
        quietly(lambda part=part: ParameterSets(content_type).learn(part()))
    quietly(lambda: bitstream.read_configuration(content_type, data))
    quietly(lambda: bitstream.read_configuration(content_type, b"\1" + data))
    quietly(lambda: bitstream.read(content_type, [data]))


@given(codecs, st.lists(st.tuples(st.sampled_from([b"\x67", b"\x68", b"\x40\x01", b"\x42\x01", b"\x44\x01"]), noise)))
def test_random_parameter_sets(content_type: str, sets: list[tuple[bytes, bytes]]) -> None:
    known = ParameterSets(content_type)
    for head, body in sets:
        quietly(lambda nal=head + body: known.learn([nal]))
    quietly(lambda: known.layers)
    assert known.missing_from(known.missing_from([])) == []


@given(st.lists(nal_unit, min_size=1, max_size=8), st.integers(1, 4))
def test_what_was_joined_is_split_again(nals: list[bytes], length_size: int) -> None:
    assert bitstream.split(bitstream.join(nals)) == nals
    sized = b"".join(len(nal).to_bytes(length_size, "big") + nal for nal in nals)
    assert bitstream.unpack(sized, length_size) == nals


@given(noise)
def test_a_stream_is_split_the_same_however_it_is_joined(data: bytes) -> None:
    try:
        nals = bitstream.split(data)
    except BitstreamError:
        return
    assert nals == ([] if not nals else bitstream.split(bitstream.join(nals)))


@pytest.mark.parametrize("name", KINDS)
def test_keyframes_are_where_a_fresh_decoder_can_begin(tmp_path: Path, name: str) -> None:
    path, content_type = encode(tmp_path, name)
    keyframes = [unit.keyframe for unit in units(path, content_type)]
    assert keyframes == [packet.is_keyframe for packet in packets(path)]
    assert 3 <= sum(keyframes) <= 8
    whole = {frame.pts: frame.to_ndarray() for frame in decode(path, content_type, packets(path))}
    for start in [number for number, keyframe in enumerate(keyframes) if keyframe]:
        part = packets(path)[start:]
        joined = [f for f in decode(path, content_type, part) if f.pts >= part[0].pts]
        assert joined
        assert all((frame.to_ndarray() == whole[frame.pts]).all() for frame in joined)


def decode(path: Path, content_type: str, part: list[av.Packet]) -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264" if content_type == H264 else "hevc", "r")
    return [frame for packet in [*part, None] for frame in decoder.decode(packet)]


@pytest.mark.parametrize("name", KINDS)
def test_what_no_picture_needs_can_be_left_out(tmp_path: Path, name: str) -> None:
    path, content_type = encode(tmp_path, name)
    found, sets = units(path, content_type), ParameterSets(content_type)
    sets.learn(found[0].nals)
    needed = [unit.reference or unit.temporal + 1 < sets.layers for unit in found]
    if "B-frames" not in name and "GOP" not in name and "layers" not in name and "slices" not in name:
        assert all(needed)
        return
    assert 5 < needed.count(False) < 35
    whole = {frame.pts: frame.to_ndarray() for frame in decode(path, content_type, packets(path))}
    part = decode(path, content_type, [p for p, need in zip(packets(path), needed, strict=True) if need])
    assert len(part) == sum(needed)
    assert all((frame.to_ndarray() == whole[frame.pts]).all() for frame in part)


def test_a_lower_temporal_layer_may_be_needed_by_a_higher_one() -> None:
    """H.265: a sub-layer non-reference picture is one for its own layer only."""
    unit = bitstream.read(H265, [b"\0\x01\x80"])
    assert (unit.reference, unit.temporal, unit.keyframe) == (False, 0, False)
    sets = ParameterSets(H265)
    assert sets.layers == 1
    sets.learn([b"\x42\x01\x04" + bytes(12) + bytes(2) + b"\x80"])
    assert sets.layers == 3


def test_intra_refresh_has_no_keyframe_but_its_first(tmp_path: Path) -> None:
    """Its recovery points say that the picture is whole only some pictures later."""
    path = write_video(tmp_path / "a.ts", MOVING, **{"x264-params": "intra-refresh=1:keyint=10:scenecut=0:bframes=0"})
    assert [unit.keyframe for unit in units(path, H264)] == [True] + [False] * 39
    assert [packet.is_keyframe for packet in packets(path)].count(True) > 1, "the container says otherwise"


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (H264, b""),
        (H264, b"\x65\x88"),
        (H264, b"x\0\0\1\x65\x88"),
        (H264, b"\0\0\1\xe5\x88"),
        (H264, b"\0\0\1\x67\x64\0\x0a\x80"),
        (H265, b"\0\0\1\x26"),
        (H265, b"\0\0\1\x26\0\x88"),
        (H265, b"\0\0\1\xa6\x01\x88"),
        (H265, b"\0\0\1\x40\x01\x88"),
    ],
)
def test_what_is_no_unit(content_type: str, data: bytes) -> None:
    with pytest.raises(BitstreamError):
        bitstream.read(content_type, bitstream.split(data))


def sps(id_: int, filling: bytes = b"\x55") -> bytes:
    return b"\x67\x64\0\x0a" + golomb(id_) + filling


def pps(id_: int, sps_id: int) -> bytes:
    return b"\x68" + golomb(id_, sps_id) + b"\x55"


def golomb(*numbers: int) -> bytes:
    bits = "".join("0" * (len(f"{n + 1:b}") - 1) + f"{n + 1:b}" for n in numbers) + "1"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_the_newest_parameter_sets_are_kept_and_what_refers_to_an_old_one_is_not() -> None:
    sets = ParameterSets(H264)
    assert sets.learn([sps(0), sps(1)])
    assert not sets.complete
    assert sets.learn([pps(0, 0), pps(1, 0), pps(2, 1)])
    assert sets.complete
    assert not sets.learn([sps(0), pps(1, 0)]), "nothing new"
    assert sets.learn([sps(0, b"\x77"), pps(0, 0)])
    assert len(sets.missing_from([pps(2, 1), b"\x65\x88"])) == 4, "some of them do not suffice"
    assert sets.missing_from([b"\x65\x88"]) == [sps(0, b"\x77"), sps(1), pps(0, 0), pps(2, 1)]
    assert sets.missing_from([sps(0, b"\x77"), sps(1), pps(0, 0), pps(2, 1), b"\x65\x88"]) == []


def test_sets_go_behind_the_delimiter() -> None:
    assert bitstream.with_sets([b"\x09\xf0", b"\x65\x88"], [sps(0)], H264) == [b"\x09\xf0", sps(0), b"\x65\x88"]
    assert bitstream.with_sets([b"\x65\x88"], [sps(0)], H264) == [sps(0), b"\x65\x88"]


def test_emulation_prevention_is_undone_in_recovery_points() -> None:
    """A message before it holds 00 00 03 00: its size counts without the 03."""
    slice_ = b"\x41\xb0\x80"  # first_mb 0, slice_type 5 would be 00110; here ue 0, ue 2: I
    user_data = b"\x05\x03\0\0\x03\x01"
    exact, inexact, later = b"\x06\x01\xc4", b"\x06\x01\x84", b"\x06\x01\x44"
    for message, keyframe in ((exact, True), (inexact, False), (later, False)):
        assert bitstream.read(H264, [b"\x06" + user_data + message + b"\x80", slice_]).keyframe is keyframe
    predicted = b"\x41\xe0\x80"  # ue 0, ue 0: P
    assert not bitstream.read(H264, [b"\x06" + exact + b"\x80", predicted]).keyframe
