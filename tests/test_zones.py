"""Drawn zones: always masked, or spared from what their policy says, and named in the audit."""

from __future__ import annotations

import numpy as np

from sfumato.models import images, masks
from tests.masking import found, picture, policy
from tests.test_anonymize import anonymizer, face, record

RIGHT = [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]


def never(name="flag", polygon=RIGHT, **fields):
    return {"name": name, "polygon": polygon, "rule": "never_mask", **fields}


def grey(image):
    return (image == 128).all(axis=2)


def test_a_zone_covers_its_polygon_and_its_edge():
    before = picture(size=(100, 200))
    image = before.copy()
    assert masks.apply(image, (), policy([{"name": "door", "polygon": RIGHT}], face={})) == ()
    assert grey(image)[:, 100:].all()
    assert (image[:, :97] == before[:, :97]).all()


def test_a_never_mask_zone_spares_motion_and_says_so():
    image, before = picture(), picture()
    given = policy([never()], motion={"dilation": 0})
    assert masks.apply(image, (found("motion", 30, 30, 90, 60),), given) == ("flag",)
    assert grey(image)[30:60, 30:63].all()
    assert np.array_equal(image[:, 64:], before[:, 64:])


def test_it_loses_against_any_detection_that_it_does_not_name():
    image = picture()
    given = policy([never(spares=["motion", "person"])], face={}, person={}, motion={})
    names = masks.apply(image, (found("person", 70, 10, 120, 90), found("face", 80, 20, 100, 40)), given)
    assert names == ("flag",)  # of the person something is seen
    assert grey(image)[20:40, 80:100].all()
    assert not grey(image)[60:90, 75:120].any()


def test_a_zone_in_which_all_is_masked_after_all_is_not_named():
    image = picture()
    given = policy([never()], face={"dilation": 0.5}, motion={"dilation": 0})
    assert masks.apply(image, (found("motion", 80, 40, 90, 50), found("face", 75, 35, 95, 55)), given) == ()
    assert grey(image)[40:50, 80:90].all()


def test_an_always_mask_zone_wins_against_a_never_mask_zone():
    image = picture()
    zones = [never(), {"name": "door", "polygon": [[0.7, 0.2], [0.9, 0.2], [0.9, 0.8], [0.7, 0.8]]}]
    assert masks.apply(image, (found("motion", 90, 20, 114, 76),), policy(zones, motion={"dilation": 0})) == ()
    assert grey(image)[20:76, 90:114].all()


def test_a_mosaic_beside_a_never_mask_zone_covers_whole_cells():
    """Else the mean of a cell, less what is seen of it, would tell the rest."""
    image, before = picture(), picture()
    given = policy([never()], motion={"mask": "mosaic", "cells": 4, "dilation": 0})
    masks.apply(image, (found("motion", 50, 30, 86, 66),), given)  # 40 pixels grown, the third cell meets the zone
    assert (image != before).any(2)[28:68, 48:68].mean() > 0.95
    assert np.array_equal(image[:, 68:], before[:, 68:])


def test_the_audit_names_the_zones_that_spared_something():
    given = policy([never(polygon=[[0, 0], [1, 0], [1, 1], [0, 1]], spares=["face"]), never("hedge")], face={})
    (ending,) = anonymizer(policy=given).end([record(images.encode(picture(), 95))])
    assert ending.audit.spared == ("flag",)
    (ending,) = anonymizer(lambda _: [(face(0, 0, 1, 1),)] * 600, policy=given).end([record(b"")])
    assert ending.audit.spared == ()
