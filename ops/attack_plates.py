"""The attacks on masked licence plates: a reader, and a matcher.

The reader is PP-OCRv4's recognition, on the plate as published and after undoing the mask as far as that goes. The
matcher draws plates of the same layout, masks them in the same way and takes the nearest (Hill, Zhou, Saul, Shacham:
"On the (In)effectiveness of Mosaicing and Blurring as Tools for Document Redaction", PETS 2016). It is tried on
photographed plates, whose typeface it only guesses, and on drawn ones, whose typeface it knows.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import attacked
import cv2
import numpy as np
import openvino
from attacked import EVAL, RESAMPLES, Box, Figure, Mask
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from sfumato.models.detectors import Image
from sfumato.schemas.detection import Target

READER_HEIGHT = 48
"""Height of the reader's input, in pixels."""
CANDIDATES = 50
"""Plates among which the matcher chooses, the right one included."""
MARGINS = tuple(product((0.02, 0.1), (0.02, 0.08), (0.08, 0.2)))
"""Where on the plate the matcher draws the characters: free shares on the left, on the right, above and below."""
LOOK = (96, 24)
"""Size to which a plate is brought where pixels are compared: width, height."""

Undo = Callable[[Image, Box], Image]


@dataclass(frozen=True)
class Plate:
    """``picture``: the plate and as much again around it; ``box`` in its pixels."""

    picture: Image
    box: Box
    text: str


@dataclass(frozen=True)
class Row:
    name: str
    mask: Mask
    undo: Undo | None = None


class PlateAttack:
    columns = ("characters read", "plates read", "photographed: nearest", "drawn: nearest")

    def __init__(self, limit: int | None = None) -> None:
        labels = json.loads((EVAL / "labels.json").read_text())["images"]
        found = [(name, o) for name, image in sorted(labels.items()) for o in image["objects"] if o.get("text")]
        self.plates = [_cut(name, label) for name, label in found[:limit]]
        self._reader = Reader()

    def run(self, row: Row) -> dict[str, object]:
        """Shares of characters and plates read, the better of plain and undone; and the probability that the right
        plate looks nearer than a wrong one, which is 0.5 by chance, with the share of plates found among 50."""
        read = [self._read(row, plate) for plate in self.plates]
        return {
            "characters read": f"{np.mean(read):.0%}",
            "plates read": f"{np.mean(np.array(read) == 1):.0%}",
            "photographed: nearest": self.match(row.mask),
            "drawn: nearest": self.match(row.mask, drawn=True),
        }

    def match(self, mask: Mask, *, drawn: bool = False) -> Match:
        random = np.random.default_rng(0)
        places = []
        for plate in self.plates:
            victim = _drawn(plate, plate.text, (0.05, 0.05, 0.12), random) if drawn else plate.picture
            seen = _look(attacked.published(mask, victim, plate.box), plate.box)
            texts = [plate.text, *(_other(plate.text, random) for _ in range(CANDIDATES - 1))]
            near = np.array([max(float(seen @ look) for look in _candidates(plate, text, mask)) for text in texts])
            places.append((np.mean(near[0] > near[1:]) + np.mean(near[0] >= near[1:])) / 2)
        return Match.of(np.array(places))

    def read(self, mask: Mask) -> float:
        """The share of characters read."""
        return float(np.mean([self._read(Row("", mask), plate) for plate in self.plates]))

    def _read(self, row: Row, plate: Plate) -> float:
        shown = attacked.published(row.mask, plate.picture, plate.box)
        tries = [shown] if row.undo is None else [shown, row.undo(shown, plate.box)]
        return max(agreement(self._reader.read(_inside(p, plate.box, 0.06)), plate.text) for p in tries)


@dataclass(frozen=True)
class Match:
    """``found``: share of the plates that are the nearest of all candidates."""

    nearer: Figure
    found: float

    @classmethod
    def of(cls, places: NDArray[np.float64]) -> Match:
        random = np.random.default_rng(0)
        drawn = [random.choice(places, len(places)).mean() for _ in range(RESAMPLES)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return cls(Figure(float(places.mean()), float(low), float(high)), float(np.mean(places == 1)))

    def __str__(self) -> str:
        return f"{self.nearer}, {self.found:.0%}"


class Reader:
    """PP-OCRv4's text recognition on OpenVINO; its characters are in the file."""

    def __init__(self) -> None:
        model = openvino.Core().read_model(attacked.weight("plate_reader"))
        listed = model.get_rt_info(["framework", "character"]).astype(str).splitlines()
        self._characters = ["", *listed, " "]
        self._model = openvino.Core().compile_model(model, "CPU")

    def read(self, picture: Image) -> str:
        """Capital letters and digits of one line of text."""
        width = max(16, round(picture.shape[1] * READER_HEIGHT / picture.shape[0]))
        line = cv2.resize(picture, (width, READER_HEIGHT), interpolation=cv2.INTER_CUBIC)
        result = self._model((line.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None])[0][0]
        best = result.argmax(axis=1)
        kept = best[np.flatnonzero(np.diff(best, prepend=-1))]  # CTC: repeated once, blanks (0) dropped
        text = "".join(self._characters[index] for index in kept).upper()
        return "".join(c for c in text if c in string.ascii_uppercase + string.digits)


def rows() -> list[Row]:
    """What is attacked; the first row shows that the attack works, the default stands second."""

    def of(**fields: object) -> Mask:
        return attacked.masking(Target.LICENCE_PLATE, **fields)

    return [
        Row("none", attacked.unmasked),
        Row("default", of()),
        *(
            Row(f"blur {sigma:g}", of(mask="blur", sigma=sigma), lambda p, b, s=sigma: _sharpened(p, b, s))
            for sigma in (0.01, 0.02, 0.03, 0.06, 0.15)
        ),
        Row("mosaic of 4 pixels", lambda p, b: _pixelated(p, b, 4)),
        *(Row(f"mosaic {n}", of(mask="mosaic", cells=n)) for n in (8, 6, 4, 2)),
        *(Row(name, of(mask=name)) for name in ("inpaint", "noise", "solid")),
    ]


def agreement(read: str, text: str) -> float:
    """1 less the edits (Levenshtein) per character of the text; never under 0."""
    line = list(range(len(text) + 1))
    for i, one in enumerate(read, 1):
        above, line = line, [i]
        for j, other in enumerate(text, 1):
            line.append(min(above[j] + 1, line[j - 1] + 1, above[j - 1] + (one != other)))
    return max(0.0, 1 - line[-1] / len(text))


def _cut(name: str, label: dict[str, object]) -> Plate:
    picture = cv2.imread(str(EVAL / "images" / name))
    x0, y0, x1, y1 = label["box"]  # type: ignore[misc]
    left, top = max(0, x0 - (x1 - x0)), max(0, y0 - 2 * (y1 - y0))
    around = picture[top : y1 + 2 * (y1 - y0), left : x1 + (x1 - x0)].copy()
    return Plate(around, (x0 - left, y0 - top, x1 - left, y1 - top), str(label["text"]))


def _inside(picture: Image, box: Box, grow: float = 0.0) -> Image:
    dx, dy = (box[2] - box[0]) * grow, (box[3] - box[1]) * grow
    return picture[max(0, round(box[1] - dy)) : round(box[3] + dy), max(0, round(box[0] - dx)) : round(box[2] + dx)]


def _look(picture: Image, box: Box) -> NDArray[np.float64]:
    grey = cv2.cvtColor(_inside(picture, box), cv2.COLOR_BGR2GRAY)
    look = cv2.resize(grey, LOOK, interpolation=cv2.INTER_AREA).astype(np.float64)
    return (look - look.mean()).ravel() / max(float(look.std()), 1.0)


def _candidates(plate: Plate, text: str, mask: Mask) -> list[NDArray[np.float64]]:
    return [_look(mask(_drawn(plate, text, margins), plate.box), plate.box) for margins in MARGINS]


def _other(text: str, random: np.random.Generator) -> str:
    """A text of the same layout: digits for digits, letters for letters."""
    pools = [string.digits if c in string.digits else string.ascii_uppercase for c in text]
    return "".join(pool[random.integers(len(pool))] for pool in pools)


def _drawn(
    plate: Plate, text: str, margins: tuple[float, float, float], random: np.random.Generator | None = None
) -> Image:
    """The plate's picture with a drawn plate in its place; with ``random``: a little moved, dimmed, blurred, noisy."""
    picture = plate.picture.copy()
    x0, y0, x1, y1 = (int(side) for side in plate.box)
    width, height = x1 - x0, y1 - y0
    left, right, above = margins
    if random is not None:
        left, right, above = (max(0.0, m + random.normal(0, 0.01)) for m in margins)
    drawn = np.full((height, width), 235, np.uint8)
    line = _line(text)
    rows, columns = slice(round(above * height), round((1 - above) * height)), slice(round(left * width), None)
    target = drawn[rows, columns][:, : round((1 - left - right) * width)]
    target[:] = cv2.resize(line, target.shape[::-1], interpolation=cv2.INTER_AREA)
    if random is not None:
        seen = cv2.GaussianBlur(drawn, (0, 0), 0.8) * random.uniform(0.5, 1.0) + random.normal(0, 6, drawn.shape)
        drawn = seen.clip(0, 255).astype(np.uint8)
    picture[y0:y1, x0:x1] = drawn[:, :, None]
    return picture


@lru_cache(10_000)
def _line(text: str) -> NDArray[np.uint8]:
    font = ImageFont.load_default(64)
    box = font.getbbox(text, stroke_width=2)
    line = PillowImage.new("L", (round(box[2] - box[0]), round(box[3] - box[1])), 235)
    ImageDraw.Draw(line).text((-box[0], -box[1]), text, font=font, fill=30, stroke_width=2, stroke_fill=30)
    return np.asarray(line)


def _pixelated(picture: Image, box: Box, cell: int) -> Image:
    """A mosaic whose cells do not grow with the plate, as many programs have it."""
    picture = picture.copy()
    patch = _inside(picture, box)
    height, width = patch.shape[:2]
    means = cv2.resize(patch, (max(1, width // cell), max(1, height // cell)), interpolation=cv2.INTER_AREA)
    patch[:] = cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST)
    return picture


def _sharpened(picture: Image, box: Box, sigma: float) -> Image:
    picture = picture.copy()
    patch = _inside(picture, box, 0.25)
    deviation = (box[2] - box[0]) * 1.5 * sigma
    line = cv2.getGaussianKernel(int(deviation * 3) * 2 + 1, deviation)
    patch[:] = attacked.deconvolved(patch, line @ line.T)
    return picture
