"""Access units pass through ingest as they are: bit for bit, and decodable from the first on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from clips import clip

from sfumato.agents.pictures import Loss, Picture
from sfumato.agents.sources import SourceError
from sfumato.agents.units import Gate
from sfumato.models import bitstream
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import H264, H265, RawUnit
from tests.footage import (
    FPS,
    MOVING,
    STREAMS,
    Reader,
    decoded,
    film,
    kept,
    losses,
    numbers_in,
    packets,
    pictures_in,
    shown,
    units_of,
    write_video,
)

OPEN_GOPS = [name for name in STREAMS if "open" in name]


def read(path: Path, **keys: object) -> list[Picture | Loss]:
    return list(Reader(path.as_uri(), pace="fast", **keys))


def copy(packets: Iterable[av.Packet], template: Path, path: Path) -> Path:
    """A file of the same stream with other packets; None for ``content`` leaves one out."""
    with av.open(str(template)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    return path


def changed(packet: av.Packet, content: bytes | None = None, delay: int = 0) -> av.Packet:
    other = av.Packet(bytes(packet) if content is None else content)
    other.pts, other.dts, other.time_base = packet.pts + delay, packet.dts + delay, packet.time_base
    other.is_keyframe = packet.is_keyframe
    return other


# As they are


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("name", STREAMS)
def test_an_ordinary_decoder_shows_what_the_file_shows(tmp_path: Path, name: str, container: str) -> None:
    path = film(tmp_path / f"a.{container}", name)
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert {picture.content_type for picture in found} == {H264 if "264" in name else H265}
    assert {(picture.width, picture.height) for picture in found} == {(128, 96)}
    frames = decoded(found)
    assert all((a.to_ndarray() == b).all() for a, b in zip(frames, pictures_in(path), strict=True))
    keyframes = [number for number, unit in enumerate(units_of(found)) if unit.keyframe]
    assert keyframes[0] == 0
    assert len(keyframes) >= 5
    for start in keyframes[1:]:  # a consumer joins there, knowing nothing
        joined = [f for f in decoded(found[start:], strict=False) if f.pts >= found[start].unit.pts]
        whole = {frame.pts: frame.to_ndarray() for frame in frames}
        assert joined
        assert all((frame.to_ndarray() == whole[frame.pts]).all() for frame in joined)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_times_are_those_of_the_stream(tmp_path: Path, container: str) -> None:
    path = film(tmp_path / f"a.{container}", "h264 with B-frames")
    found = Reader(path.as_uri(), pace="fast").pictures()
    for unit, packet in zip(units_of(found), packets(path), strict=True):
        assert (unit.pts, unit.time_base) == (packet.pts, packet.time_base)
        assert unit.dts == (None if packet.dts == packet.pts else packet.dts)
    decode_times = [unit.pts if unit.dts is None else unit.dts for unit in units_of(found)[3:]]
    assert all(a < b for a, b in pairwise(decode_times))


def test_units_with_start_codes_pass_byte_for_byte(tmp_path: Path) -> None:
    path = film(tmp_path / "a.ts", "h264 with B-frames")
    assert [p.payload for p in Reader(path.as_uri(), pace="fast").pictures()] == [bytes(p) for p in packets(path)]


def test_a_file_without_times_gets_some(tmp_path: Path) -> None:
    path = film(tmp_path / "a.h264", "h264")
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert {packet.pts for packet in packets(path)} == {None}
    assert numbers_in(found) == MOVING
    assert len({b.pts - a.pts for a, b in pairwise(units_of(found))}) == 1


def test_the_real_clips_cost_what_the_camera_sent() -> None:
    for name in ("bikes", "carphone"):
        found = Reader(clip(name).as_uri(), pace="fast").pictures()
        sent, came = sum(len(p.payload) for p in found), sum(p.size for p in packets(clip(name)))
        assert sent <= 1.05 * came
        frames = decoded(found)
        assert all((a.to_ndarray() == b).all() for a, b in zip(frames, pictures_in(clip(name)), strict=True))


def test_sound_is_left_out(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        picture = container.add_stream("libx264", rate=FPS)
        picture.width, picture.height, picture.pix_fmt = 128, 96, "yuv420p"
        sound = container.add_stream("aac", rate=48_000)
        for _ in range(20):
            container.mux(picture.encode(av.VideoFrame(128, 96, "yuv420p")))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 48_000
            container.mux(sound.encode(samples))
        container.mux(picture.encode())
        container.mux(sound.encode())
    assert len(Reader((tmp_path / "a.mp4").as_uri(), pace="fast").pictures()) == 20


# Parameter sets


@pytest.mark.parametrize("container", ["h264", "ts"])
def test_parameter_sets_that_change_in_mid_stream(tmp_path: Path, container: str) -> None:
    """And the size with them."""
    one = write_video(tmp_path / "1.h264", 15, g="5", bf="0")
    two = write_video(tmp_path / "2.h264", 15, g="5", bf="0", size="64x48")
    (tmp_path / "both.h264").write_bytes(one.read_bytes() + two.read_bytes() + one.read_bytes())
    path = tmp_path / "both.h264"
    if container == "ts":
        path = timed(path, tmp_path / "both.ts")
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert [(p.width, p.height) for p in found] == [(128, 96)] * 15 + [(64, 48)] * 15 + [(128, 96)] * 15
    assert numbers_in(found) == list(range(15)) * 3
    assert [image.shape[:2] for image in shown(found)] == [(p.height, p.width) for p in found]


def timed(source: Path, path: Path) -> Path:
    """A raw stream in a container, ten pictures a second."""
    content = packets(source)
    for number, packet in enumerate(content):
        packet.pts = packet.dts = number * 9000
        packet.time_base = Fraction(1, 90_000)
    return copy(content, source, path)


def test_stale_parameter_sets_of_the_container_do_not_come_back(tmp_path: Path) -> None:
    """The second film's come in band, once; its later keyframes have none, and get those and not the container's."""
    options = {"g": "5", "bf": "0"}
    one = write_video(tmp_path / "1.mkv", 15, **options)
    two = write_video(tmp_path / "2.mkv", 15, size="64x48", **options)
    with av.open(str(two)) as container:
        own = bitstream.read_configuration(H264, container.streams.video[0].codec_context.extradata)
    in_band = b"".join(len(nal).to_bytes(4, "big") + nal for nal in own.nals)
    first, *rest = packets(two)
    second = [changed(first, in_band + bytes(first), 1500), *(changed(packet, delay=1500) for packet in rest)]
    path = copy([*packets(one), *second], one, tmp_path / "both.mkv")
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert numbers_in(found[:15]) == numbers_in(found[15:]) == list(range(15))
    for keyframe in (15, 20, 25):
        assert found[keyframe].unit.keyframe
        assert numbers_in(found[keyframe : keyframe + 5]) == list(range(keyframe - 15, keyframe - 10))
        assert (found[keyframe].width, found[keyframe].height) == (64, 48)


def test_a_parameter_set_may_come_between_keyframes(tmp_path: Path) -> None:
    """And is in front of the keyframes from then on."""
    whole = film(tmp_path / "a.mkv", "h264")
    with av.open(str(whole)) as container:
        own = bitstream.read_configuration(H264, container.streams.video[0].codec_context.extradata)
    # Another id: the bits of ue(0), which begin the payload, become those of ue(1) and a shift by two.
    [first] = [nal for nal in own.nals if nal[0] & 31 == 8]
    bits = "010" + f"{int.from_bytes(first[1:], 'big'):0{8 * len(first[1:])}b}"[1:].rstrip("0")
    other = first[:1] + int(bits.ljust(-len(bits) // 8 * -8, "0"), 2).to_bytes(-(len(bits) // -8), "big")
    content = [
        changed(p, len(other).to_bytes(4, "big") + other + bytes(p) if n == 13 else None)
        for n, p in enumerate(packets(whole))
    ]
    found = Reader(copy(content, whole, tmp_path / "b.mkv").as_uri(), pace="fast").pictures()
    assert numbers_in(found) == MOVING
    assert [n for n, p in enumerate(found) if other in bitstream.split(p.payload)] == [13, 20, 30, 40]


# The contract


@pytest.mark.parametrize("restart", [True, False])
def test_where_to_begin_anew_survives_the_round_trip(restart: bool) -> None:
    unit = RawUnit(5, Fraction(1, 1000), keyframe=True, restart=restart)
    event = CloudEvent("a", "b", "c", datetime.now(UTC), H264, unit.extensions())
    assert RawUnit.from_event(event) == unit
    with pytest.raises(EnvelopeError, match="ce_restart"):
        RawUnit.from_event(replace(event, extensions={**event.extensions, "restart": "1"}))


# Where one may join


def test_what_precedes_the_first_keyframe_is_dropped(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.ts", "h264")
    path = copy(packets(whole)[7:], whole, tmp_path / "b.ts")
    found = read(path)
    assert losses(found) == [Reason.NO_KEYFRAME] * 3
    assert numbers_in(kept(found)) == MOVING[10:]


def test_keyframes_without_their_parameter_sets_are_none(tmp_path: Path) -> None:
    """The second film's sequence parameter set makes the picture parameter set of the first one invalid."""
    one = write_video(tmp_path / "1.h264", 10, g="5", bf="0").read_bytes()
    two = bitstream.split(write_video(tmp_path / "2.h264", 10, g="5", bf="0", size="64x48").read_bytes())
    (tmp_path / "a.h264").write_bytes(one + bitstream.join(nal for nal in two if nal[0] & 31 != 8) + one)
    found = read(tmp_path / "a.h264")
    assert losses(found) == [Reason.NO_KEYFRAME] * 10
    assert numbers_in(kept(found)) == [*range(10)] * 2


@pytest.mark.parametrize("name", OPEN_GOPS)
def test_leading_pictures_of_the_first_keyframe_are_dropped(tmp_path: Path, name: str) -> None:
    whole = film(tmp_path / "a.ts", name)
    all_ = packets(whole)
    start = next(n for n, p in enumerate(all_) if n and p.is_keyframe)
    leading = sum(packet.pts < all_[start].pts for packet in all_[start:])
    assert leading
    found = read(copy(all_[start - 2 :], whole, tmp_path / "b.ts"))
    assert losses(found) == [Reason.NO_KEYFRAME] * (2 + leading)
    frames = decoded(kept(found))
    expected = pictures_in(whole)[-len(frames) :]
    assert all((a.to_ndarray() == b).all() for a, b in zip(frames, expected, strict=True))


def test_intra_refresh_is_no_keyframe(tmp_path: Path) -> None:
    params = "intra-refresh=1:keyint=10:scenecut=0:bframes=0"
    whole = write_video(tmp_path / "a.ts", MOVING, **{"x264-params": params})
    assert [unit.keyframe for unit in units_of(read(whole))] == [True] + [False] * 49
    reader = Reader(copy(packets(whole)[1:], whole, tmp_path / "b.ts").as_uri(), pace="fast")
    assert losses(islice(reader, 49)) == [Reason.NO_KEYFRAME] * 49
    with pytest.raises(SourceError, match="no picture that can be used"):
        list(reader)


# What is broken


def test_a_decoder_is_told_where_to_begin_anew(tmp_path: Path) -> None:
    """At the beginning and after what is missing; not at other keyframes, which may belong to open GOPs."""
    whole = film(tmp_path / "a.mkv", "h264")
    damaged = [changed(p, b"broken" if n == 23 else None) for n, p in enumerate(packets(whole))]
    reader = Reader(copy(damaged, whole, tmp_path / "b.mkv").as_uri(), pace="fast", loop=True)
    found = list(islice(reader, 100))
    assert [n for n, item in enumerate(found) if isinstance(item, Picture) and item.unit.restart] == [0, 30, 50, 80]
    units = units_of(found)
    assert all(round(float((b.pts - a.pts) * a.time_base), 3) in (0.1, 0.8) for a, b in pairwise(units))


@pytest.mark.parametrize("content", [b"\0\0\0\x99broken", b"\0\0\0\1\xe1", b"\0\0\0\2\x09\xf0"])
def test_a_broken_unit_costs_what_depends_on_it(tmp_path: Path, content: bytes) -> None:
    whole = film(tmp_path / "a.mkv", "h264")
    damaged = [changed(p, content if n == 23 else None) for n, p in enumerate(packets(whole))]
    found = read(copy(damaged, whole, tmp_path / "b.mkv"))
    assert losses(found) == [Reason.UNDECODABLE] * 7
    assert numbers_in(kept(found)) == MOVING[:23] + MOVING[30:]


@pytest.mark.parametrize("keyframe", [False, True])
def test_a_damaged_transport_stream_is_noticed(tmp_path: Path, keyframe: bool) -> None:
    """188 bytes of a picture are missing: what is passed on is as it was, and nothing that refers to it is."""
    path = copy(packets(clip("bikes")), clip("bikes"), tmp_path / "a.ts")
    with av.open(str(path)) as container:
        whole = {frame.pts: frame.to_ndarray() for frame in container.decode(video=0)}
    starts = [number for number, packet in enumerate(packets(path)) if packet.is_keyframe]
    content = path.read_bytes()
    parts = [content[at : at + 188] for at in range(0, len(content), 188)]
    pictures = [n for n, part in enumerate(parts) if part[1] & 0x5F == 0x41 and part[2] == 0]  # PID 256, a unit begins
    del parts[pictures[starts[2] if keyframe else starts[2] - 12] + 1]
    path.write_bytes(b"".join(parts))
    found = read(path)
    assert set(losses(found)) == {Reason.UNDECODABLE}
    assert 13 <= len(losses(found)) <= starts[3] - starts[1]
    frames = decoded(kept(found))
    assert len(frames) >= 150
    assert all((frame.to_ndarray() == whole[frame.pts]).all() for frame in frames)


def test_a_keyframe_that_no_decoder_takes_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose picture is larger than allowed."""
    monkeypatch.setattr("sfumato.agents.units.MAX_PIXELS", 5000)
    one = write_video(tmp_path / "1.h264", 10, g="5", bf="0", size="64x48")
    two = write_video(tmp_path / "2.h264", 10, g="5", bf="0")
    (tmp_path / "a.h264").write_bytes(one.read_bytes() + two.read_bytes())
    found = read(tmp_path / "a.h264")
    assert losses(found) == [Reason.UNDECODABLE] * 10
    assert numbers_in(kept(found)) == list(range(10))


# The gate


def test_the_gate_stays_closed_until_a_keyframe_and_for_its_leading_pictures() -> None:
    gate = Gate()
    assert gate.refuses(False, 0) is Reason.NO_KEYFRAME
    assert [gate.refuses(*unit) for unit in ((True, 10), (False, 8), (False, 12), (True, 20), (False, 18))] == [
        None,
        Reason.NO_KEYFRAME,
        None,
        None,
        None,
    ]
    gate.close(Reason.QUEUE_FULL)
    gate.close(Reason.TOO_LARGE)
    assert gate.refuses(False, 30) is Reason.QUEUE_FULL, "the first reason counts"
    assert [gate.refuses(*unit) for unit in ((True, 40), (False, 38), (False, 41))] == [None, Reason.QUEUE_FULL, None]
    gate.close(Reason.QUEUE_FULL)
    gate.join()
    assert gate.refuses(False, 50) is Reason.NO_KEYFRAME


# What is not passed on


@pytest.mark.parametrize(("codec", "name", "suffix"), [("libvpx-vp9", "vp9", "webm"), ("mpeg4", "mpeg4", "mp4")])
def test_other_codecs_become_stills_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, name: str, suffix: str
) -> None:
    caplog.set_level(logging.INFO)
    path = write_video(tmp_path / f"s3cret.{suffix}", 20, codec)
    reader = Reader(path.as_uri(), pace="fast", loop=True)
    found = list(islice(reader, 40))
    assert numbers_in(found) == list(range(20)) * 2
    assert {(p.content_type, p.transcoded, p.unit) for p in found} == {("image/jpeg", True, None)}
    assert caplog.messages == [f"camera a: {name} is decoded here and sent as JPEG"], "once, not in each round"


def test_h264_is_decoded_where_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = film(tmp_path / "a.mp4", "h264")
    for keys, size in (({"remux": False}, (128, 96)), ({"long_side": 64}, (64, 48))):
        found = Reader(path.as_uri(), pace="fast", **keys).pictures()
        assert {(p.content_type, p.transcoded, p.width, p.height) for p in found} == {("image/jpeg", True, *size)}
    assert caplog.messages == ["camera a: h264 is decoded here and sent as JPEG"] * 2
    found = Reader(path.as_uri(), pace="fast", long_side=128).pictures()
    assert {p.content_type for p in found} == {H264}
    assert not any(p.transcoded for p in found)


def test_motion_jpeg_is_not_transcoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = Reader(write_video(tmp_path / "a.avi", 5, "mjpeg").as_uri(), pace="fast").pictures()
    assert not any(p.transcoded for p in found)
    assert caplog.messages == []


# Hours


def test_hours_of_video_in_constant_memory(tmp_path: Path) -> None:
    """Two hours at ten pictures a second."""
    path = film(tmp_path / "a.mp4", "h264 with B-frames", [number % 20 for number in range(2000)])
    process, sizes = psutil.Process(), []
    reader = iter(Reader(path.as_uri(), pace="fast", loop=True))
    for _ in range(9):
        assert sum(isinstance(item, Picture) for item in islice(reader, 8_000)) == 8_000
        sizes.append(process.memory_info().rss)
    assert max(sizes[1:]) - sizes[1] < 4_000_000
