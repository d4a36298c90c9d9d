"""Films masked in two passes: what is covered, what stays as it was, what goes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from sfumato.models.film import Film, Options
from sfumato.models.images import GREY
from sfumato.models.reading import FilmError
from sfumato.schemas.detection import Target
from sfumato.schemas.masking import Masking, MaskName
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Damaged, Policy
from sfumato.schemas.report import Account
from sfumato.schemas.zone import Rule, Zone
from tests import films
from tests.films import PLANTED, Squares, red, scene, write

ENDINGS = [".mp4", ".mov", ".mkv", ".webm"]


def mask(
    source: Path, *, policy: Policy | None = None, options: Options | None = None, **detector: object
) -> tuple[Path, Account]:
    target = source.with_name(f"masked{source.suffix}")
    film = Film(source, films.ensemble(**detector), policy or films.policy(), options or Options())
    account = film.mask(target, lambda: None)
    return target, account


def uniform(image: np.ndarray) -> bool:
    return bool(np.ptp(image) <= 4 and abs(float(image.mean()) - GREY) < 20)


def scenes(count: int, **keys: object) -> list[np.ndarray]:
    return [scene(number, **keys) for number in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_picture_is_masked_and_keeps_its_time(tmp_path: Path, ending: str) -> None:
    source = write(tmp_path / f"a{ending}", scenes(30))
    target, account = mask(source)
    assert (account.frames, account.masked, account.reasons) == (30, 30, {})
    assert films.times(target) == films.times(source)
    assert all(red(image).any() for image in films.read(source))
    assert not any(red(image).any() for image in films.read(target))
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert after.format.name == before.format.name
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate


@pytest.mark.parametrize("ending", ENDINGS)
def test_uneven_times_are_kept(tmp_path: Path, ending: str) -> None:
    """Variable frame rate, and a film that does not begin at zero."""
    pts = [80, 120, 130, 400, 401, 999, 1000, 1500, 3000, 3033]
    source = write(tmp_path / f"a{ending}", scenes(10), pts=pts, time_base=Fraction(1, 1000))
    target, _ = mask(source)
    assert films.times(source) == [Fraction(p, 1000) for p in pts]
    assert films.times(target) == films.times(source)


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_a_late_beginning_is_kept_to_the_tick(tmp_path: Path, ending: str) -> None:
    base = Fraction(1, 15_000)
    source = write(tmp_path / f"a{ending}", scenes(6), pts=range(1001, 1001 + 6 * 500, 500), time_base=base)
    assert films.times(mask(source)[0]) == films.times(source)


def test_the_last_picture_is_shown_as_long(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", scenes(10))
    target, _ = mask(source)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        first, second = before.streams.video[0], after.streams.video[0]
        assert second.duration * second.time_base == first.duration * first.time_base


def test_what_is_not_masked_stays_as_it_was(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", scenes(20))
    target, _ = mask(source, options=Options(crf=8))
    for before, after in zip(films.read(source), films.read(target), strict=True):
        error = np.abs(before[:40].astype(int) - after[:40])
        assert error.mean() < 2
        assert error.max() < 24


def test_a_face_missed_in_single_frames_is_masked_there(tmp_path: Path) -> None:
    """The second pass knows both sides of the gap, and what came after the first frames."""
    source = write(tmp_path / "a.mp4", scenes(30))
    target, account = mask(source, options=Options(every_frame=True), blind={0, 1, 10, 17, 18, 29})
    assert account.looked_at == 30
    assert account.evidence["tracked"] >= 4
    assert account.evidence["lookahead"] >= 2
    assert not any(red(image).any() for image in films.read(target))


def test_what_was_missed_shows_without_the_boxes_of_other_frames(tmp_path: Path) -> None:
    """That the test above can fail: without hold nothing is carried over."""
    source = write(tmp_path / "a.mp4", scenes(30))
    target, _ = mask(source, policy=films.policy(hold=0, lookahead=0), options=Options(every_frame=True), blind={10})
    assert [n for n, image in enumerate(films.read(target)) if red(image).any()] == [10]


def test_pictures_between_two_alike_are_not_looked_at(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", scenes(40, speed=1.0), time_base=Fraction(1, 50), rate=50)
    target, account = mask(source)
    assert account.looked_at < 20
    assert account.frames == 40
    assert not any(red(image).any() for image in films.read(target))


def test_a_face_that_comes_and_jumps_is_looked_at_in_every_picture(tmp_path: Path) -> None:
    pictures = [scene(n * 20 % 100, square=n > 13) for n in range(30)]
    target, account = mask(write(tmp_path / "a.mp4", pictures))
    assert account.looked_at > 20
    assert not any(red(image).any() for image in films.read(target))


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_film_comes_out_upright(tmp_path: Path, rotation: int) -> None:
    source = write(tmp_path / "a.mp4", scenes(6), rotation=rotation, aspect=Fraction(4, 3))
    target, _ = mask(source)
    upright = [np.rot90(image, rotation // 90) for image in films.read(source)]
    with av.open(str(target)) as container:
        frames = list(container.decode(video=0))
        assert {frame.rotation for frame in frames} == {0}
        across = Fraction(4, 3) if rotation == 180 else Fraction(3, 4)
        assert container.streams.video[0].sample_aspect_ratio == across
    for before, frame in zip(upright, frames, strict=True):
        after = frame.to_ndarray(format="bgr24")
        assert after.shape == before.shape
        corner = before.mean(axis=2) > 220
        assert (after.mean(axis=2)[corner] > 200).mean() > 0.95
        assert not red(after).any()


@pytest.mark.parametrize(
    ("pix_fmt", "colours", "kept"),
    [
        ("yuv420p", (1, 1, 1, 1), (1, 1, 1, 1)),  # BT.709
        ("yuv420p", (6, 1, 6, 6), (6, 1, 6, 6)),  # BT.601
        ("yuv420p", (5, 2, 5, 6), (5, 2, 5, 6)),  # full range
        ("yuv420p10le", (9, 1, 9, 16), (9, 1, 9, 16)),  # ten bits, BT.2020, PQ
        ("yuv444p", (1, 1, 1, 1), (1, 1, 1, 1)),
    ],
)
def test_colours_are_kept(tmp_path: Path, pix_fmt: str, colours: tuple[int, ...], kept: tuple[int, ...]) -> None:
    source = write(tmp_path / "a.mp4", scenes(6), pix_fmt=pix_fmt, colours=colours)  # type: ignore[arg-type]
    target, _ = mask(source, options=Options(crf=8))
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name in ("yuv420p", "yuvj420p")
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == kept
    levels = {"src_color_range": ColorRange(colours[1])}
    with av.open(str(source)) as before, av.open(str(target)) as after:
        pairs = zip(before.decode(video=0), after.decode(video=0), strict=True)
        for one, other in pairs:
            first, second = (f.reformat(format="bgr24", **levels).to_ndarray() for f in (one, other))
            assert np.abs(first[:40].astype(int) - second[:40]).mean() < 3


def test_an_odd_side_loses_its_last_row(tmp_path: Path) -> None:
    source = write(tmp_path / "a.webm", scenes(5, size=(193, 129)))
    target, account = mask(source)
    assert account.masked == 5
    assert {image.shape for image in films.read(target)} == {(128, 192, 3)}


def test_sound_is_dropped_unless_it_is_asked_for(tmp_path: Path) -> None:
    def sound(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return []
            return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size]

    for ending in ENDINGS:
        source = write(tmp_path / f"a{ending}", scenes(25), adorn=films.tone)
        assert sound(source)
        target, _ = mask(source)
        assert sound(target) == []
        target, _ = mask(source, options=Options(sound=True))
        assert sound(target) == sound(source)
        assert not any(red(image).any() for image in films.read(target))
        target, _ = mask(source, policy=films.policy(audio="keep"))
        assert sound(target) == sound(source)


def test_nothing_but_pictures_goes_over(tmp_path: Path) -> None:
    """Titles, stream names, chapters, subtitles, a cover and captions inside the video stream."""

    def adorn(container: av.container.OutputContainer) -> object:
        container.metadata.update(title=PLANTED, comment=PLANTED, location=PLANTED, artist=PLANTED)
        container.streams.video[0].metadata.update(title=PLANTED, language="deu", handler_name=PLANTED)
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 10, "time_base": Fraction(1, 25), "metadata": {"title": PLANTED}}]
        )
        container.add_attachment("face.jpg", "image/jpeg", PLANTED.encode() * 9)
        sound = films.tone(container)
        container.streams.audio[0].metadata["title"] = PLANTED
        return sound

    source = write(tmp_path / "a.mkv", scenes(10), adorn=adorn)  # type: ignore[arg-type]
    assert source.read_bytes().count(PLANTED.encode()) > 12
    for sound in (False, True):
        target, _ = mask(source, options=Options(sound=sound))
        assert PLANTED.encode() not in target.read_bytes()
        with av.open(str(target)) as container:
            assert [stream.type for stream in container.streams] == ["video", "audio"][: 1 + sound]
            assert container.chapters() == []
            assert "deu" not in str([stream.metadata for stream in container.streams])


def test_closed_captions_do_not_go_over(tmp_path: Path) -> None:
    """They lie inside the video stream, as SEI messages, and a decoder hangs them on its pictures."""
    plain = write(tmp_path / "plain.mp4", scenes(10), options={"bf": "0"})
    caption = b"\xb5\x00\x31GA94\x03\x41\xff" + b"\xfc" + b"\x43\x41" + b"\xff"
    sei = b"\x06\x04" + bytes([len(caption)]) + caption + b"\x80"
    source = tmp_path / "a.mp4"
    with av.open(str(plain)) as before, av.open(str(source), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.size:
                moved = av.Packet(len(sei).to_bytes(4, "big") + sei + bytes(packet))
                moved.pts, moved.dts, moved.time_base = packet.pts, packet.dts, packet.time_base
                moved.is_keyframe, moved.stream = packet.is_keyframe, stream
                after.mux(moved)

    def captions(path: Path) -> int:
        with av.open(str(path)) as container:
            return sum("A53_CC" in str([d.type for d in f.side_data]) for f in container.decode(video=0))

    assert captions(source) == 10
    target, _ = mask(source, blind=range(100))  # pictures that are passed on unmasked, too
    assert captions(target) == 0


def test_what_may_rest_on_damage_is_fully_masked(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", scenes(60))
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][30]
        place, size = packet.pos, packet.size
    content = bytearray(source.read_bytes())
    content[place + size // 4 : place + size] = bytes(255 - b for b in content[place + size // 4 : place + size])
    source.write_bytes(content)
    target, account = mask(source)
    assert account.frames == 60
    assert account.reasons[Reason.DAMAGED] >= 6
    assert account.masked >= 20
    images = films.read(target)
    assert len(images) == account.masked + account.fully_masked
    assert sum(uniform(image) for image in images) == account.fully_masked
    assert not any(red(image).any() for image in images)
    assert not uniform(images[-1])  # what follows the next keyframe is sound again
    target, dropped = mask(source, policy=films.policy(damaged=Damaged.DROP))
    assert dropped.dropped >= account.reasons[Reason.DAMAGED]
    assert len(films.read(target)) == dropped.masked + dropped.fully_masked


def test_of_a_truncated_film_the_readable_part_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", scenes(60))
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 6 // 10])
    film = Film(source, films.ensemble(), films.policy(), Options())
    account = film.mask(tmp_path / "masked.mkv", lambda: None)
    assert film.cut_short
    assert 20 <= account.frames < 60
    assert not any(red(image).any() for image in films.read(tmp_path / "masked.mkv"))


def test_a_picture_whose_detection_fails_is_fully_masked(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", scenes(12))
    target, account = mask(source, options=Options(every_frame=True), broken={4})
    assert (account.masked, account.fully_masked, account.reasons) == (11, 1, {Reason.DETECTOR_ERROR: 1})
    assert [n for n, image in enumerate(films.read(target)) if uniform(image)] == [4]


def test_a_resolution_that_changes_is_scaled_to_the_first(tmp_path: Path) -> None:
    """As in a recording whose camera was changed: two streams' packets in one file."""
    first = write(tmp_path / "1.mkv", scenes(6), codec="libvpx")
    second = write(tmp_path / "2.mkv", scenes(6, size=(96, 64)), codec="libvpx")
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as joined:
        stream = None
        for shift, path in ((0, first), (240, second)):
            with av.open(str(path)) as part:
                stream = stream or joined.add_stream_from_template(part.streams.video[0])
                for packet in part.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        joined.mux(packet)
    target, account = mask(source)
    assert account.masked == 12
    images = films.read(target)
    assert {image.shape for image in images} == {(128, 192, 3)}
    assert not any(red(image).any() for image in images)


def test_files_that_are_no_films_are_refused(tmp_path: Path) -> None:
    playlist = tmp_path / "a.mp4"
    write(tmp_path / "b.ts", scenes(5))
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "c.mkv").write_bytes(b"no film")
    for path in (playlist, tmp_path / "c.mkv"):
        with pytest.raises(FilmError):
            mask(path)
    with pytest.raises(FilmError, match="more than 1000 pixels"):
        mask(write(tmp_path / "d.mp4", scenes(2)), options=Options(max_pixels=1000))


def test_what_a_never_mask_zone_spares_is_told(tmp_path: Path) -> None:
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    zone = Zone(name="stage", polygon=corners, rule=Rule.NEVER_MASK, spares=frozenset({Target.FACE}))
    target, account = mask(write(tmp_path / "a.mp4", scenes(10)), policy=films.policy(zones=(zone,)))
    assert account.spared == {"stage": 10}
    assert all(red(image).any() for image in films.read(target))


@pytest.mark.parametrize("count", [20, 200])
def test_what_moves_is_masked_from_the_first_picture_on(tmp_path: Path, count: int) -> None:
    """The beginning teaches the background, also of a film shorter than that takes."""
    source = write(tmp_path / "a.mp4", scenes(count))
    moving = films.policy(targets={Target.MOTION: Masking(mask=MaskName.SOLID)})
    target, account = mask(source, policy=moving)
    assert account.masked == count
    assert account.boxes[Target.MOTION] >= count
    images = films.read(target)
    assert not any(red(image).any() for image in images)
    assert not any(uniform(image) for image in images)


def test_the_detector_of_these_tests_sees() -> None:
    ((found,), nothing) = Squares().detect([scene(0), scene(0, square=False)])
    assert found.box == (30, 52, 54, 76)
    assert nothing == ()
