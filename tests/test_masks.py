"""What a mask covers, and that nothing of it can be read from what is written."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.models import masks
from sfumato.models.regions import SMALLEST_CELL
from sfumato.schemas.detection import Target
from sfumato.schemas.masking import Masking, MaskName, Shape
from tests.masking import CLOSED, SIZE, covered, found, objects, picture, policies, policy


def masked(image, detections, given_policy):
    image = image.copy()
    masks.apply(image, detections, given_policy)
    return image


def changed(before, after):
    return (before != after).any(axis=2)


def test_every_mask_name_has_a_mask():
    assert set(masks.MASKS) == set(MaskName)


@given(objects(), policies(masks=CLOSED), st.integers(0, 9))
def test_closed_masks_do_not_depend_on_what_they_cover(detections, given_policy, seed):
    one, other = picture(1), picture(1)
    inside = covered(detections, given_policy)
    other[inside] = picture(seed + 2)[inside]
    assert np.array_equal(masked(one, detections, given_policy), masked(other, detections, given_policy))


@given(objects(), policies(), st.integers(0, 9))
def test_what_is_under_a_closed_mask_does_not_come_through_one_that_overlaps_it(detections, given_policy, seed):
    one, other = picture(1), picture(1)
    inside = covered(detections, given_policy, CLOSED)
    other[inside] = picture(seed + 2)[inside]
    assert np.array_equal(masked(one, detections, given_policy), masked(other, detections, given_policy))


@given(objects(), policies())
def test_the_order_of_detections_does_not_matter(detections, given_policy):
    outputs = [masked(picture(), order, given_policy) for order in list(permutations(detections))[:6]]
    outputs.append(masked(picture(), detections[::-1], given_policy))
    assert all(np.array_equal(outputs[0], output) for output in outputs)


@given(objects(), policies(masks=(MaskName.SOLID, MaskName.NOISE, MaskName.MOSAIC)))
def test_every_pixel_of_every_region_is_masked(detections, given_policy):
    black, white = np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 255, np.uint8)
    black[::2, ::2] = white[::2, ::2] = 77  # so that no cell is of one colour
    inside = covered(detections, given_policy)
    for image in (black, white):
        outside = image.copy()
        outside[inside] = 255 - image[inside]
        before, after = masked(image, detections, given_policy), masked(outside, detections, given_policy)
        assert not ((before == image).all(2) & (after == outside).all(2) & inside).any()


@pytest.mark.parametrize(("strong", "weak"), [(s, w) for s, w in combinations(MaskName, 2) if s != MaskName.INPAINT])
def test_the_strongest_mask_is_seen_where_two_meet(strong, weak):
    both = policy(face={"mask": strong}, person={"mask": weak})
    face, person = found("face", 40, 30, 70, 60), found("person", 20, 20, 110, 90)
    inside = covered((face,), both)
    alone = masked(picture(), (face,), both)
    for order in permutations((face, person)):
        together = masked(picture(), order, both)
        assert np.array_equal(together[inside], alone[inside])
        assert changed(picture(), together)[80, 30]


@given(st.integers(1, 8), st.integers(SMALLEST_CELL, 9), st.integers(SMALLEST_CELL, 9), st.sampled_from(list(Shape)))
def test_a_mosaic_tells_the_means_of_its_cells_and_no_more(cells, high, wide, shape):
    given_policy = policy(face={"mask": "mosaic", "cells": cells, "shape": shape, "dilation": 0})
    image, cell = picture(), max(high, wide)
    side = cell * cells  # the grown box is so wide that its cells are whole pixels
    face = found("face", 12, 12, 12 + side - 4, 12 + side - 4)
    output = masked(image, (face,), given_policy)
    box = (slice(10, 10 + side), slice(10, 10 + side))
    colours = np.unique(output[box][changed(image, output)[box]].reshape(-1, 3), axis=0)
    assert 1 <= len(colours) <= cells**2
    grid = image[box].reshape(cells, cell, cells, cell, 3).transpose(0, 2, 1, 3, 4).reshape(cells, cells, -1, 3)
    shuffled = np.random.default_rng(1).permuted(grid, axis=2).reshape(cells, cells, cell, cell, 3)
    covered_cells = covered((face,), given_policy)[box].reshape(cells, cell, cells, cell).any(axis=(1, 3))
    other = image.copy()
    mixed = np.where(covered_cells[:, :, None, None, None], shuffled, grid.reshape(cells, cells, cell, cell, 3))
    other[box] = mixed.transpose(0, 2, 1, 3, 4).reshape(side, side, 3)
    assert np.array_equal(masked(other, (face,), given_policy), output)


@settings(deadline=None)
@given(objects(targets=(Target.FACE, Target.PERSON), at_most=4), st.integers(0, 10**6))
def test_overlapping_mosaics_show_a_pixel_in_whole_cells_only(detections, where):
    """However mosaics overlap, a pixel counts only in cells of one grid, each of which is shown whole."""
    given_policy = policy(
        face={"mask": "mosaic", "cells": 8}, person={"mask": "mosaic", "cells": 5, "shape": "ellipse"}
    )
    inner = np.zeros(SIZE, bool)
    inner[8:-8, 8:-8] = True
    candidates = np.argwhere(covered(detections, given_policy) & inner)
    if not len(candidates):
        return
    y, x = candidates[where % len(candidates)]
    outputs = []
    for value in (0, 255):
        image = np.full((*SIZE, 3), 100, np.uint8)
        image[y - 1 : y + 2, x - 1 : x + 2] = value
        outputs.append(masked(image, detections, given_policy))
    still_seen = (outputs[0] == 0).all(axis=2) & (outputs[1] == 255).all(axis=2)
    differing = changed(*outputs) & ~still_seen
    if differing.any():
        heights, widths = np.ptp(np.argwhere(differing), axis=0) + 1
        assert min(heights, widths) >= SMALLEST_CELL


def test_a_face_that_leaves_the_picture_keeps_no_finer_cells():
    given_policy = policy(face={"mask": "mosaic", "cells": 4, "dilation": 0})
    whole = masked(picture(), (found("face", 20, 20, 80, 80),), given_policy)
    leaving = masked(picture(), (found("face", -30, 20, 30, 80),), given_policy)
    rows = lambda image, column: len(np.unique(image[18:82, column], axis=0))  # noqa: E731
    assert rows(leaving, 5) <= rows(whole, 50) == 4


@given(objects(), policies(), st.sampled_from([0.05, 0.3]))
def test_feathering_changes_nothing_inside_and_adds_only_outside(detections, given_policy, feather):
    hard, soft = (
        policy(**{t: {**m.model_dump(mode="json"), "feather": f} for t, m in given_policy.targets.items()})
        for f in (0.0, feather)
    )
    before = picture()
    plain, feathered = masked(before, detections, hard), masked(before, detections, soft)
    inside = covered(detections, hard)
    assert np.array_equal(plain[inside], feathered[inside])
    # Beyond, each pixel lies between what it was and a mask: whatever the hard edge hid stays hidden.
    hidden = changed(before, plain)
    assert np.array_equal(plain[hidden], feathered[hidden])


def test_a_feather_fades_out():
    given_policy = policy(face={"mask": "solid", "dilation": 0, "feather": 0.25})
    white = np.full((*SIZE, 3), 255, np.uint8)
    row = masked(white, (found("face", 42, 32, 78, 68),), given_policy)[50, :, 0].astype(int)
    assert (row[40:80] == 128).all()
    assert (np.diff(row[79:90]) > 0).all()
    assert (row[91:] == 255).all()


@pytest.mark.parametrize("mask", list(MaskName))
@pytest.mark.parametrize("shape", list(Shape))
def test_the_middle_is_masked_and_the_rest_untouched(mask, shape):
    given_policy = policy(face={"mask": mask, "shape": shape, "dilation": 0.25})
    before, face = picture(), found("face", 40, 30, 80, 70)
    differing = changed(before, masked(before, (face,), given_policy))
    assert differing[30:70, 50:70].mean() > 0.98
    differing[20:80, 30:90] = False
    assert not differing.any()


def test_an_ellipse_covers_the_box_at_its_default_dilation():
    given_policy = policy(face={"mask": "solid", "shape": "ellipse"})
    assert (masked(picture(), (found("face", 40, 30, 80, 70),), given_policy)[30:70, 40:80] == 128).all()
    assert given_policy.warnings() == []


def test_an_outline_is_grown_on_all_sides_and_a_box_stands_in_for_it():
    given_policy = policy(face={"mask": "solid", "shape": "outline", "dilation": 0.1})
    corners = ((40.0, 30.0), (80.0, 30.0), (40.0, 70.0))
    output = masked(picture(), (found("face", 40, 30, 80, 70, outline=corners),), given_policy)
    grey = (output == 128).all(axis=2)
    assert grey[27:33, 38:82].all()
    assert grey[30:70, 37:41].all()
    assert not grey[64:, 72:].any()
    assert (masked(picture(), (found("face", 40, 30, 80, 70),), given_policy)[30:70, 40:80] == 128).all()


@given(
    st.tuples(*[st.floats(-500, 500) for _ in range(4)]),
    st.sampled_from(list(MaskName)),
    st.sampled_from(list(Shape)),
)
def test_no_box_is_too_strange(box, mask, shape):
    masked(picture(), (found("face", *box),), policy(face={"mask": mask, "shape": shape}))


def test_a_blur_widens_with_the_object():
    given_policy = policy(face={"mask": "blur", "sigma": 0.15, "dilation": 0})
    small = masked(picture(), (found("face", 50, 40, 62, 52),), given_policy)[42:50, 52:60]
    large = masked(picture(), (found("face", 20, 10, 92, 82),), given_policy)[36:56, 46:66]
    assert small.std() > 1.5 * large.std()


def test_warnings_name_what_is_weak():
    weak = policy(
        [{"name": "yard", "polygon": [[0, 0], [1, 0], [1, 1]], "mask": "blur"}],
        face={"mask": "blur"},
        licence_plate={"mask": "mosaic"},
        person={"shape": "ellipse", "dilation": 0.1},
    )
    assert [warning.partition(":")[0] for warning in weak.warnings()] == [
        "targets.face.mask",
        "targets.licence_plate.mask",
        "targets.person.dilation",
        "zones.yard.mask",
    ]
    assert policy(face={}, licence_plate={}, person={}).warnings() == []


def test_a_target_that_says_nothing_has_its_own_defaults():
    targets = policy(face={}, person={"cells": 3}).targets
    assert targets[Target.FACE] == Masking()
    assert (targets[Target.PERSON].dilation, targets[Target.PERSON].cells) == (0.1, 3)
    assert {masking.mask for masking in targets.values()} == {MaskName.SOLID}
