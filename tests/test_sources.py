"""Files and stills: pace, loops, caps, sizes, and what of them is damaged. Access units: ``test_units.py``."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from clips import clip
from PIL import Image

from sfumato.agents import sources
from sfumato.agents.pictures import Loss
from sfumato.agents.sources import Context, SourceError
from sfumato.models import images
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.unit import H264
from tests.footage import Reader, jpeg, kept, losses, numbered, numbers_in, shown, write_video

# Files


def test_a_file_once_and_fast(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a film with #1.mp4", 20)
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert numbers_in(found) == list(range(20))
    assert {(p.content_type, p.width, p.height, p.time_source) for p in found} == {(H264, 128, 96, TimeSource.ARRIVAL)}
    assert all(abs(picture.captured_at - datetime.now(UTC)) < timedelta(seconds=60) for picture in found)


def test_a_real_clip_as_jpeg() -> None:
    found = Reader(clip("bikes").as_uri(), pace="fast", remux=False).pictures()
    with av.open(str(clip("bikes"))) as container:
        expected = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(found) == len(expected)
    shown = images.decode(found[100].payload, "image/jpeg", max_pixels=10**6)
    assert np.abs(shown.astype(int) - expected[100]).mean() < 4


def test_real_time_keeps_the_files_speed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    started = time.monotonic()
    arrivals = sorted(picture.captured_at for picture in Reader(path.as_uri()).pictures())
    assert 1.1 <= time.monotonic() - started < 3
    gaps = [(b - a).total_seconds() for a, b in pairwise(arrivals)]
    assert min(gaps) > 0.02, "a burst"


@pytest.mark.parametrize("remux", [True, False])
def test_loop_goes_on_in_time_and_stops_when_told(tmp_path: Path, remux: bool) -> None:
    reader = Reader(write_video(tmp_path / "a.mp4", 5).as_uri(), loop=True, pace="fast", remux=remux)
    found = []
    for picture in reader:
        found.append(picture)
        if len(found) == 13:
            reader.stopping.set()
    if remux:
        assert numbers_in(found[:10]) == [0, 1, 2, 3, 4] * 2
    else:
        assert numbers_in(found) == [0, 1, 2, 3, 4] * 2 + [0, 1, 2]


def test_a_loop_of_one_picture_keeps_its_speed(tmp_path: Path) -> None:
    """And the cap counts on across rounds."""
    reader = Reader(write_video(tmp_path / "a.mp4", 1).as_uri(), loop=True, fps=12.5, remux=False)
    started = time.monotonic()
    assert len(list(islice(reader, 4))) == 4
    assert time.monotonic() - started >= 3 * 0.08 - 0.01
    assert reader.skipped == 3


def test_cap_of_stills(tmp_path: Path) -> None:
    reader = Reader(write_video(tmp_path / "a.mp4", 20).as_uri(), pace="fast", fps=5, remux=False)
    assert numbers_in(reader.pictures()) == list(range(0, 20, 2))
    assert reader.skipped == 10


def test_scaling_keeps_proportions_and_never_enlarges(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=64).pictures()} == {(64, 48)}
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=640).pictures()} == {(128, 96)}


def test_quality_is_asked_of_the_encoder() -> None:
    sizes = [
        sum(
            len(p.payload) for p in islice(Reader(clip("bikes").as_uri(), pace="fast", remux=False, quality=quality), 5)
        )
        for quality in (40, 90)
    ]
    assert sizes[0] * 1.5 < sizes[1]


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
@pytest.mark.parametrize("remux", [True, False])
def test_a_film_on_its_side_is_turned_upright(
    tmp_path: Path, remux: bool, rotation: int, corner: tuple[int, int]
) -> None:
    """A detector finds no face that lies on its side. The rotation is anticlockwise, in degrees."""
    path = write_video(tmp_path / "a.mp4", 5, rotation=rotation)
    found = Reader(path.as_uri(), pace="fast", remux=remux).pictures()
    image = shown(found)[4]
    if remux:  # said, not done
        assert {picture.unit.rotation for picture in found if picture.unit} == {rotation % 360}
        image = np.rot90(image, rotation // 90)
    assert {(p.height, p.width) for p in found} == {image.shape[:2]} == {(96, 128) if rotation == 180 else (128, 96)}
    dark = {place: image[place[0] * 4, place[1] * 4].mean() < 20 for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert [place for place, is_dark in dark.items() if is_dark] == [corner]


def test_mjpeg_files_pass_byte_for_byte(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 8, "mjpeg")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    found = Reader(path.as_uri(), pace="fast").pictures()
    assert [picture.payload for picture in found] == packets
    assert {(p.content_type, p.width, p.height) for p in found} == {("image/jpeg", 128, 96)}
    assert [p.payload for p in Reader(path.as_uri(), pace="fast", long_side=128).pictures()] == packets
    assert {(p.width, p.height) for p in Reader(path.as_uri(), pace="fast", long_side=64).pictures()} == {(64, 48)}


def test_mjpeg_without_huffman_tables_can_be_decoded_downstream(tmp_path: Path) -> None:
    """Webcams and AVI files leave the tables out; passed on as they are, they must still decode."""
    whole = jpeg(7)
    bare, position = whole[:2], 2
    while whole[position + 1] != 0xDA:
        length = 2 + int.from_bytes(whole[position + 2 : position + 4], "big")
        if whole[position + 1] != 0xC4:
            bare += whole[position : position + length]
        position += length
    bare += whole[position:]
    assert len(bare) < len(whole)
    (tmp_path / "a.jpg").write_bytes(bare)
    [picture] = Reader(f"stills://{tmp_path}", pace="fast").pictures()
    assert picture.payload == bare
    assert numbers_in([picture]) == [7]


def test_a_damaged_unit_costs_what_depends_on_it(tmp_path: Path) -> None:
    """Nothing concealed becomes a JPEG: from the damage to the next keyframe all is counted as lost."""
    path = write_video(tmp_path / "a.ts", 30, g="10", bf="0", sc_threshold="0", preset="ultrafast")
    with av.open(str(path)) as container, av.open(str(tmp_path / "b.mkv"), "w") as damaged:
        stream = damaged.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            content = bytes(packet)
            if number == 13:
                content = content[:40] + bytes(len(content) - 40)
            copy = av.Packet(content)
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            damaged.mux(copy)
    found = list(Reader((tmp_path / "b.mkv").as_uri(), pace="fast", remux=False))
    assert numbers_in(kept(found)) == [*range(13), *range(20, 30)]
    assert losses(found) == [Reason.UNDECODABLE] * 7


def test_a_file_cut_short_ends(tmp_path: Path) -> None:
    """It is not read again and again."""
    path = write_video(tmp_path / "a.mkv", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 1 <= len(list(islice(Reader(path.as_uri(), pace="fast"), 100))) < 30


def test_a_file_whose_demuxer_gives_up_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = sources._read

    def giving_up(container: Any, context: Context) -> Iterator[Any]:
        yield from islice(read(container, context), 5)
        raise av.error.InvalidDataError(1, "Invalid data", "/s3cret.mp4")

    path = write_video(tmp_path / "a.mp4", 30, bf="0", tune="zerolatency")
    monkeypatch.setattr(sources, "_read", giving_up)
    assert 1 <= len(list(islice(Reader(path.as_uri(), pace="fast"), 100))) <= 5
    assert "the file is damaged and ends early: Invalid data" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("content", [None, b"", b"no film" * 100])
def test_a_file_that_is_none_is_an_error(tmp_path: Path, content: bytes | None, loop: bool) -> None:
    path = tmp_path / "s3cret.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError) as error:
        next(iter(Reader(path.as_uri(), loop=loop)))
    assert "s3cret" not in str(error.value)


# Stills


def test_stills_pass_byte_for_byte_in_order_of_name(tmp_path: Path) -> None:
    formats = {"1.jpg": "JPEG", "2.JPEG": "JPEG", "3.png": "PNG", "4.webp": "WEBP"}
    contents = []
    for name, kind in formats.items():
        buffer = io.BytesIO()
        Image.fromarray(numbered(3)).save(buffer, kind)
        (tmp_path / name).write_bytes(buffer.getvalue())
        contents.append(buffer.getvalue())
    (tmp_path / "5.txt").write_text("no picture")
    found = Reader(f"stills://{tmp_path}", pace="fast").pictures()
    assert [picture.payload for picture in found] == contents
    assert [p.content_type for p in found] == ["image/jpeg", "image/jpeg", "image/png", "image/webp"]
    shrunk = Reader(f"stills://{tmp_path}", pace="fast", long_side=64).pictures()
    assert [(p.content_type, p.width, p.height) for p in shrunk] == [("image/jpeg", 64, 48)] * 4


def test_stills_come_at_the_rate_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    started = time.monotonic()
    assert numbers_in(list(islice(Reader(f"stills://{tmp_path}", fps=20, loop=True), 7))) == [0, 1, 2, 0, 1, 2, 0]
    assert 0.3 <= time.monotonic() - started < 3


def test_broken_stills_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST_STILL", 10_000)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    (tmp_path / "3.jpg").write_bytes(jpeg(3))
    (tmp_path / "4.png").write_bytes(jpeg(4))
    (tmp_path / "5.jpg").symlink_to(tmp_path / "none")
    (tmp_path / "6.jpg").write_bytes(bytes(10_001))
    found = list(Reader(f"stills://{tmp_path}", pace="fast"))
    reasons = [item.reason if isinstance(item, Loss) else None for item in found]
    undecodable = Reason.UNDECODABLE
    assert reasons == [Reason.EMPTY, undecodable, None, undecodable, undecodable, Reason.TOO_LARGE]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError, match="no folder with pictures"):
            next(iter(Reader(f"stills://{folder}")))


def test_an_unchanged_jpeg_is_what_the_anonymizer_decodes() -> None:
    """The encoder of the ingestor and the decoder of the anonymizer agree on blue, green and red."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 2] = 255
    assert simplejpeg.decode_jpeg(images.encode(image, 95), "RGB")[0, 0].tolist()[0] > 250
