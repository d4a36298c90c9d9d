"""Films masked in parts and joined: as if they had been masked whole."""

from __future__ import annotations

import io
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sfumato.models import joining, splitting
from sfumato.models.ensemble import Ensemble
from sfumato.models.film import Film, Options
from sfumato.models.reading import Source, ending
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import Masking
from sfumato.schemas.report import Account
from tests import films
from tests.films import Squares, red, scene, write

RATE = 25


def pictures(count: int) -> list[np.ndarray]:
    """The square comes and goes, so that masks begin and end."""
    return [scene(n, square=n % 70 < 45) for n in range(count)]


def masked(source: Path, *, seconds: float = 2.0, options: Options | None = None, **keys: object) -> tuple[Path, int]:
    """Masked in parts and joined; how many parts there were."""
    policy, options = films.policy(**keys), options or Options(every_frame=True)
    plan = splitting.plan(source, policy, options, seconds)
    parts, accounts = [], []
    for number, span in enumerate(plan.spans):
        part = source.with_name(f"part{number}.mp4")
        accounts.append(Film(source, films.ensemble(), policy, options, span).mask(part, lambda: None))
        parts.append(part)
    target = source.with_name(f"joined{source.suffix}")
    joining.join(parts, target, ending(source), plan.form, source if options.sound else None)
    assert sum(account.frames for account in accounts) == plan.packets
    return target, len(parts)


def whole(source: Path, options: Options | None = None, **keys: object) -> tuple[Path, Account]:
    target = source.with_name(f"whole{source.suffix}")
    film = Film(source, films.ensemble(), films.policy(**keys), options or Options(every_frame=True))
    return target, film.mask(target, lambda: None)


def packets(path: Path) -> list[tuple[Fraction, Fraction]]:
    with av.open(str(path)) as container:
        found = [(p.pts * p.time_base, p.duration * p.time_base) for p in container.demux(video=0) if p.size]
    return sorted(found)


def long(path: Path, **keys: object) -> Path:
    return write(path, pictures(21 * RATE), **keys)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_parts_are_joined_without_a_seam(tmp_path: Path, ending: str) -> None:
    options = {"g": "20"} if ending == ".webm" else {"g": "20", "bf": "3", "b_strategy": "0"}
    source = long(tmp_path / f"a{ending}", options=options)
    joined, count = masked(source)
    assert count > 5
    unsplit, account = whole(source)
    assert films.times(joined) == films.times(unsplit) == films.times(source)
    assert account.frames == len(films.times(joined))
    assert packets(joined) == packets(unsplit)
    for film in (source, unsplit):
        with av.open(str(joined)) as one, av.open(str(film)) as other:
            assert abs(one.duration - other.duration) <= av.time_base / RATE
    for before, after, plain in zip(films.read(unsplit), films.read(joined), films.read(source), strict=True):
        assert red(after).sum() == 0
        covered = np.abs(before.astype(int) - plain).max(axis=2) > 60
        missed = covered & (np.abs(after.astype(int) - plain).max(axis=2) <= 30)
        assert missed.sum() == 0


def test_sound_stays_where_it_was(tmp_path: Path) -> None:
    source = long(tmp_path / "a.mp4", options={"g": "20"}, adorn=films.tone)
    options = Options(every_frame=True, sound=True)
    joined, count = masked(source, options=options)
    unsplit, _ = whole(source, options)
    assert count > 5

    def heard(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size]

    assert len(heard(source)) > 40
    assert heard(joined) == heard(unsplit) == heard(source)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_uneven_times_are_kept(tmp_path: Path, ending: str) -> None:
    """Variable frame rate, a film that does not begin at zero, and B-frames."""
    pts, at = [], 80
    for n in range(120):
        pts.append(at)
        at += [7, 40, 41, 300, 12][n % 5]
    options = {"g": "12", "bf": "3", "b_strategy": "0"}
    source = write(tmp_path / f"a{ending}", pictures(120), pts=pts, time_base=Fraction(1, 1000), options=options)
    joined, count = masked(source, seconds=1.0)
    assert count > 3
    assert films.times(joined) == films.times(source)


def test_a_film_without_keyframes_or_with_motion_is_not_cut(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", pictures(200), options={"g": "9999", "sc_threshold": "0"})
    assert splitting.plan(source, films.policy(), Options(), 1.0).spans == ()
    source = write(tmp_path / "b.mp4", pictures(200))
    assert len(splitting.plan(source, films.policy(), Options(), 1.0).spans) > 3
    moving = films.policy(targets={Target.MOTION: Masking()})
    assert splitting.plan(source, moving, Options(), 1.0).spans == ()
    assert splitting.plan(source, films.policy(), Options(), 60.0).spans == ()


def test_of_a_film_that_is_not_cut_all_pictures_are_counted(tmp_path: Path) -> None:
    """Its edit list hides the first ones."""
    source = write(tmp_path / "a.mp4", pictures(100), options={"g": "20", "bf": "2"})
    hidden = tmp_path / "b.mp4"
    cut = ["-ss", "1.1", "-i", str(source), "-c", "copy", str(hidden)]
    subprocess.run(["ffmpeg", "-loglevel", "error", *cut], check=True)
    plan = splitting.plan(hidden, films.policy(), Options(), 1.0)
    account = Film(hidden, films.ensemble(), films.policy(), Options()).mask(tmp_path / "c.mp4", lambda: None)
    assert plan.spans == ()
    assert plan.packets == account.frames > account.masked > 0


def test_a_film_read_from_memory_is_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", pictures(60))
    source = Source(lambda: io.BytesIO(path.read_bytes()), "video/x-matroska")
    film = Film(source, films.ensemble(), films.policy(), Options())
    account = film.mask(tmp_path / "b.mkv", lambda: None)
    assert (account.frames, account.masked) == (60, 60)
    assert not any(red(image).any() for image in films.read(tmp_path / "b.mkv"))


class Blinkered(Squares):
    """Finds nothing in pictures with a black lower right corner."""

    def _detect(self, picture: np.ndarray) -> tuple[Detection, ...]:
        return () if picture[-6:, -6:].mean() < 30 else super()._detect(picture)


@pytest.mark.parametrize("hold", [1.0, 0.0])
def test_what_is_missed_at_a_seam_stays_masked(tmp_path: Path, hold: float) -> None:
    """A part knows what was found before it; without hold the pictures show, so the test can fail."""
    film = [scene(n, speed=1.0) for n in range(300)]
    missed = [n for n in range(300) if n % 60 < 8 and n > 50]  # parts begin at every 60th
    for n in missed:
        film[n][-8:, -8:] = 0
    source = write(tmp_path / "a.mp4", film, options={"g": "20", "sc_threshold": "0"})
    policy, options, parts = films.policy(hold=hold, lookahead=0), Options(every_frame=True), []
    plan = splitting.plan(source, policy, options, 2.0)
    assert [span.start * plan.form.time_base * RATE for span in plan.spans] == [0, 60, 120, 180, 240]
    for number, span in enumerate(plan.spans):
        parts.append(tmp_path / f"part{number}.mp4")
        Film(source, Ensemble([Blinkered()]), policy, options, span).mask(parts[-1], lambda: None)
    joining.join(parts, tmp_path / "b.mp4", ".mp4", plan.form, None)
    assert [n for n, image in enumerate(films.read(tmp_path / "b.mp4")) if red(image).any()] == ([] if hold else missed)


class Fading(Squares):
    """Is sure only of pictures with a black lower right corner."""

    def _detect(self, picture: np.ndarray) -> tuple[Detection, ...]:
        score = 0.9 if picture[-6:, -6:].mean() < 30 else 0.12
        return tuple(d.model_copy(update={"score": score}) for d in super()._detect(picture))


def test_what_was_last_seen_for_sure_long_before_a_seam_stays_masked(tmp_path: Path) -> None:
    """A whole film follows it by what is weakly seen for as long as it takes; a part does not know its beginning."""
    film = [scene(n, speed=0.2) for n in range(400)]
    for n in range(8):
        film[n][-8:, -8:] = 0
    source = write(tmp_path / "a.mp4", film, options={"g": "20", "sc_threshold": "0"})
    policy, options = films.policy(targets={Target.FACE: Masking(threshold=0.5)}), Options(every_frame=True)
    Film(source, Ensemble([Fading()]), policy, options).mask(tmp_path / "whole.mp4", lambda: None)
    assert not any(red(image).any() for image in films.read(tmp_path / "whole.mp4"))
    plan, parts = splitting.plan(source, policy, options, 4.0), []
    assert len(plan.spans) == 4
    for number, span in enumerate(plan.spans):
        parts.append(tmp_path / f"part{number}.mp4")
        Film(source, Ensemble([Fading()]), policy, options, span).mask(parts[-1], lambda: None)
    joining.join(parts, tmp_path / "b.mp4", ".mp4", plan.form, None)
    assert [n for n, image in enumerate(films.read(tmp_path / "b.mp4")) if red(image).any()] == []


def test_what_is_seen_seldom_is_held_as_long_after_a_seam(tmp_path: Path) -> None:
    """A part does not know how often it was seen before."""
    film = [scene(n, speed=0.0) for n in range(400)]
    for n in range(400):
        if n > 10 and n % 80:
            film[n][-8:, -8:] = 0
    source = write(tmp_path / "a.mp4", film, options={"g": "20", "sc_threshold": "0"})
    policy, options = films.policy(hold=4.0, lookahead=0), Options(every_frame=True)
    Film(source, Ensemble([Blinkered()]), policy, options).mask(tmp_path / "whole.mp4", lambda: None)
    assert not any(red(image).any() for image in films.read(tmp_path / "whole.mp4"))
    plan, parts = splitting.plan(source, policy, options, 5.6), []
    assert len(plan.spans) > 1
    for number, span in enumerate(plan.spans):
        parts.append(tmp_path / f"part{number}.mp4")
        Film(source, Ensemble([Blinkered()]), policy, options, span).mask(parts[-1], lambda: None)
    joining.join(parts, tmp_path / "b.mp4", ".mp4", plan.form, None)
    assert [n for n, image in enumerate(films.read(tmp_path / "b.mp4")) if red(image).any()] == []


def test_a_film_that_ends_early_says_so_in_parts_too(tmp_path: Path) -> None:
    source = long(tmp_path / "a.mkv", options={"g": "20"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    film = Film(source, films.ensemble(), films.policy(), Options())
    film.mask(tmp_path / "b.mkv", lambda: None)
    plan = splitting.plan(source, films.policy(), Options(), 2.0)
    assert len(plan.spans) > 2
    assert plan.cut_short == film.cut_short
    assert "seconds and ends after" in (plan.cut_short or "")
