"""What a mask covers, and what it leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.models import masks
from sfumato.schemas.masking import Masking, MaskName, Shape
from sfumato.schemas.zone import Zone


def noise(height=120, width=160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_mask_name_has_a_mask():
    assert set(masks.MASKS) == set(MaskName)


@pytest.mark.parametrize("mask", list(MaskName))
@pytest.mark.parametrize("shape", list(Shape))
def test_the_middle_is_masked_and_the_rest_untouched(mask, shape):
    before = noise()
    image = before.copy()
    masks.mask_box(image, (40, 30, 80, 70), Masking(mask=mask, shape=shape, dilation=0.25))
    changed = (image != before).any(axis=2)
    assert changed[30:70, 50:70].mean() > 0.98
    outside = np.ones(changed.shape, bool)
    outside[20:80, 30:90] = False
    assert not changed[outside].any()


def test_an_ellipse_covers_the_undilated_box_but_its_corners():
    image = noise()
    masks.mask_box(image, (40, 30, 80, 70), Masking(mask=MaskName.SOLID, shape=Shape.ELLIPSE, dilation=0.25))
    rows, columns = np.mgrid[30:70, 40:80]
    inscribed = ((rows + 0.5 - 50) / 20) ** 2 + ((columns + 0.5 - 60) / 20) ** 2 <= 1
    assert (image[30:70, 40:80][inscribed] == 128).all()


@given(st.integers(4, 119), st.integers(4, 159), st.integers(1, 8))
def test_a_mosaic_never_keeps_more_cells_than_asked_nor_finer_ones(height, width, cells):
    patch = noise()[:height, :width]
    masked = masks.mosaic(patch, cells)
    assert masked.shape == patch.shape
    for axis in (0, 1):
        steps = np.flatnonzero((np.diff(masked.astype(int), axis=axis) != 0).any(axis=(1 - axis, 2)))
        edges = np.concatenate([[-1], steps, [patch.shape[axis] - 1]])
        assert len(edges) - 1 <= min(cells, -(-patch.shape[axis] // masks.SMALLEST_CELL))


@given(
    st.tuples(*[st.floats(-500, 500) for _ in range(4)]),
    st.sampled_from(list(MaskName)),
    st.sampled_from(list(Shape)),
)
def test_no_box_is_too_strange(box, mask, shape):
    image = noise()
    masks.mask_box(image, box, Masking(mask=mask, shape=shape))
    assert image.shape == (120, 160, 3)


def test_a_zone_covers_its_polygon_and_its_edge():
    before = noise(100, 200)
    image = before.copy()
    masks.mask_zone(image, Zone(name="door", polygon=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))))
    assert (image[:, 100:] == 128).all()
    assert (image[:, :97] == before[:, :97]).all()
