"""What is not masked keeps its numbers; nothing of what is masked is left in any plane."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.models import masks, planes
from sfumato.models.images import GREY
from sfumato.models.planes import Colours, Planes
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.masking import MaskName
from tests.films import policy, scene

COLOURS = [Colours(1, 1, 1, 1), Colours(6, 1, 6, 6), Colours(5, 2, 5, 6), Colours(9, 1, 9, 16), Colours(2, 0, 2, 2)]


def noise(seed: int, colours: Colours, size: tuple[int, int] = (96, 64)) -> Planes:
    width, height = size
    random = np.random.default_rng(seed)
    y = random.integers(16, 236, (height, width), np.uint8)
    u, v = (random.integers(40, 216, (height // 2, width // 2), np.uint8) for _ in range(2))
    return Planes(y, u, v, colours)


def masked(picture: Planes, box: tuple[float, float, float, float]) -> Planes:
    before = planes.to_bgr(picture)
    after = before.copy()
    masks.apply(after, (Detection(target=Target.FACE, score=1, box=box),), policy(MaskName.SOLID))
    return planes.blend(picture, before, after)


@pytest.mark.parametrize("colours", COLOURS)
@given(
    seed=st.integers(0, 1000), x=st.integers(0, 80), y=st.integers(0, 50), w=st.integers(1, 40), h=st.integers(1, 40)
)
@settings(max_examples=25)
def test_a_solid_mask_leaves_nothing_of_what_it_covers(colours, seed, x, y, w, h):
    """Two pictures that differ only under the mask come out alike to the last bit."""
    box = (float(x), float(y), float(x + w), float(y + h))
    one, inner = noise(seed, colours), noise(seed + 1, colours)
    x0, y0, x1, y1 = (v // 2 for v in (max(0, x), max(0, y), min(96, x + w), min(64, y + h)))
    x0, y0 = x0 + 2, y0 + 2  # bicubic chroma reaches so far into what is next to it
    x1, y1 = max(x0, x1 - 2), max(y0, y1 - 2)
    other = Planes(one.y.copy(), one.u.copy(), one.v.copy(), colours)
    other.y[2 * y0 : 2 * y1, 2 * x0 : 2 * x1] = inner.y[2 * y0 : 2 * y1, 2 * x0 : 2 * x1]
    other.u[y0:y1, x0:x1], other.v[y0:y1, x0:x1] = inner.u[y0:y1, x0:x1], inner.v[y0:y1, x0:x1]
    first, second = masked(one, box), masked(other, box)
    for plane in "yuv":
        assert np.array_equal(getattr(first, plane), getattr(second, plane))


@pytest.mark.parametrize("colours", COLOURS)
def test_what_lies_outside_keeps_its_numbers(colours):
    picture = noise(3, colours)
    done = masked(picture, (30, 20, 50, 40))
    changed = done.y != picture.y
    assert changed[20:40, 30:50].mean() > 0.9
    outside = np.ones_like(changed)
    outside[14:48, 24:58] = False
    assert not (changed & outside).any()
    assert not ((done.u != picture.u) & outside[::2, ::2]).any()


def test_a_hole_of_the_masks_own_colour_is_masked_as_well():
    """Not one pixel under a mask keeps its number for having looked like the mask."""
    picture = noise(5, COLOURS[0])
    before = planes.to_bgr(picture)
    after = before.copy()
    after[20:40, 20:60] = GREY
    before[28:32, 36:42] = GREY
    done = planes.blend(picture, before, after)
    assert np.ptp(done.y[24:36, 24:56]) <= 2


@pytest.mark.parametrize("colours", COLOURS)
def test_conversion_uses_the_pictures_own_matrix_and_range(colours):
    """Red, green and blue come back as they went in, whatever the tags."""
    image = cv2.resize(scene(3), (96, 64))
    matrix, levels = colours.conversion
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
        format="yuv420p", dst_colorspace=matrix, dst_color_range=levels
    )
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    back = planes.to_bgr(planes.from_frame(frame))
    assert np.abs(back.astype(int) - image).mean() < 3
    assert np.abs(back[50:, :20].astype(int) - image[50:, :20]).max() < 12
