"""Pictures of a film beside those of another, at the same times, spread evenly, whatever their time bases."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from sfumato.models import pairs
from sfumato.models.pairs import Pairs
from tests import films
from tests.films import scene


def film(path: Path, numbers: list[int], base: int = 25, **options: object) -> Path:
    """Pictures of these numbers, each shown at its number of tenths of a second."""
    pts = [number * base // 10 for number in numbers]
    return films.write(path, [scene(n) for n in numbers], pts=pts, time_base=Fraction(1, base), rate=10, **options)


def square(image: object) -> int:
    """Where the wandering square is, in columns."""
    return int(films.red(image).any(axis=0).argmax())


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_pairs_show_the_same_moment(tmp_path, ending):
    first = film(tmp_path / "a.mp4", [*range(35)], base=1000)
    found = [*Pairs(first, film(tmp_path / f"b{ending}", [*range(35)], base=90_000), 10**6)]
    assert [pair.at for pair in found] == pytest.approx([0, 1, 2, 3], abs=0.01)
    columns = [square(pair.picture) for pair in found]
    assert len(set(columns)) == 4
    for column, pair in zip(columns, found, strict=True):
        assert square(pair.masked) == pytest.approx(column, abs=2)


def test_a_picture_that_the_other_does_not_have_is_counted_and_not_compared(tmp_path):
    first = film(tmp_path / "a.mkv", [*range(35)], base=1000)
    other = film(tmp_path / "b.mkv", [n for n in range(25) if n != 10], base=1000)
    found = Pairs(first, other, 10**6)
    assert [pair.at for pair in found] == pytest.approx([0, 2], abs=0.01)
    assert found.unmatched == 2  # at 1 s, and at 3 s, after its end


def test_long_films_are_sampled_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_PICTURES", 2)
    path = film(tmp_path / "a.mp4", [*range(60)], base=1000)
    ticks: list[None] = []
    found = Pairs(path, path, 10**6, lambda: ticks.append(None))
    assert [pair.at for pair in found] == pytest.approx([0, 3], abs=0.11)
    assert len(ticks) >= 60
