"""Rows of samples as an SVG: one small picture each, from zero to its largest value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, GAP = 640, 90, 170, 30


@dataclass(frozen=True)
class Row:
    """``samples``: of what is drawn to the right and upwards."""

    name: str
    samples: Sequence[tuple[float, float]]


def draw(path: Path, rows: Sequence[Row], unit: str) -> None:
    """Write the file; ``unit``: of what is drawn to the right."""
    height = len(rows) * (HEIGHT + GAP) + GAP
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
    style = 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    parts = [_panel(row, GAP + number * (HEIGHT + GAP), unit) for number, row in enumerate(rows)]
    path.write_text("\n".join([begin + style, *parts, "</svg>"]) + "\n")


def _panel(row: Row, top: int, unit: str) -> str:
    right = max((x for x, _ in row.samples), default=0) or 1
    most = max((y for _, y in row.samples), default=0) or 1
    points = " ".join(f"{LEFT + x / right * WIDTH:.1f},{top + HEIGHT - y / most * HEIGHT:.1f}" for x, y in row.samples)
    frame = f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>'
    curve = f'<polyline points="{points}" fill="none" stroke="#1864ab" stroke-width="1.5"/>'
    texts = ((10, top + 14, row.name), (10, top + 32, f"up to {_short(most)}"))
    texts += ((LEFT + WIDTH - 90, top + HEIGHT + 16, f"{right:.0f} {unit}"),)
    return frame + curve + "".join(f'<text x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in texts)


def _short(value: float) -> str:
    return f"{value / 1e6:.0f} MB" if value >= 1e6 else f"{value:.0f}"
