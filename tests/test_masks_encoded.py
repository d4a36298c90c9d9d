"""Masked pictures after JPEG and H.264: what was masked is in no bit of what is published."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as PillowImage

from sfumato.models import images, masks
from sfumato.models.encoders import Encoders
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.policy import Output
from tests.masking import CLOSED, covered, found, picture, policy
from tests.test_anonymize import Direct, Scripted, record

SIZES = [(96, 128), (97, 131), (95, 127)]
DETECTIONS = (found("face", 21, 19, 50, 47), found("person", 43, 37, 90, 83), found("face", 100, 60, 140, 99))


def pair(given_policy, size, detections=DETECTIONS):
    """Two smooth pictures that differ in every masked pixel and in no other."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    one = np.stack([rows + columns, 255 - rows, columns * 2 % 256], 2).astype(np.uint8)
    other = one.copy()
    inside = covered(detections, given_policy, size=size)
    other[inside] = 255 - picture(5, size)[inside]
    other[inside & (other == one).all(2)] ^= 128
    return one, other


@pytest.mark.parametrize("mask", CLOSED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [30, 85, 100])
def test_jpegs_of_pictures_that_differ_under_masks_are_the_same_file(mask, size, quality):
    """So no block at the border and no shared chroma sample tells anything, whatever the quality."""
    given_policy = policy(face={"mask": mask, "feather": 0.1}, person={"mask": mask, "shape": "ellipse"})
    files = []
    for image in pair(given_policy, size):
        masks.apply(image, DETECTIONS, given_policy)
        files.append(images.encode(image, quality))
    assert files[0] == files[1]
    shown = images.decode(files[0], "image/jpeg", max_pixels=10**6)
    assert shown[:10].std() > 5  # a picture all the same


@pytest.mark.parametrize("mask", CLOSED)
@pytest.mark.parametrize("size", SIZES)
def test_films_that_differ_under_masks_are_the_same_bytes(mask, size):
    """Nothing of the frames before is predicted from either: the encoder never saw them unmasked."""
    given_policy = policy(face={"mask": mask}, person={"mask": mask, "shape": "ellipse"})
    encoders = Encoders("libx264", 2)
    for number in range(8):
        moved = tuple(
            d.model_copy(update={"box": (d.box[0] + 3 * number, d.box[1], d.box[2] + 3 * number, d.box[3])})
            for d in DETECTIONS
        )
        units = []
        for camera, image in zip("ab", pair(given_policy, size, moved), strict=True):
            masks.apply(image, moved, given_policy)
            units.append(encoders.encode(camera, image, Output(), number, Fraction(1, 25)).payload)
        assert units[0] == units[1]


@pytest.mark.parametrize("size", SIZES)
def test_a_mosaic_gives_the_same_files_where_its_cells_have_the_same_means(size):
    given_policy = policy(face={"mask": "mosaic", "cells": 4, "dilation": 0})
    face, encoders = found("face", 22, 22, 58, 58), Encoders("libx264", 2)  # 40 pixels grown, cells of 10
    files = []
    for camera, image in zip("ab", pair(policy(face={}), size, ())[:1] * 2, strict=True):
        image = image.copy()
        if camera == "b":
            image[20:30, 20:30] = (
                np.random.default_rng(0).permutation(image[20:30, 20:30].reshape(-1, 3)).reshape(10, 10, 3)
            )
        masks.apply(image, (face,), given_policy)
        files.append((images.encode(image, 85), encoders.encode(camera, image, Output(), 0, Fraction(1, 25)).payload))
    assert files[0] == files[1]


def png(image: np.ndarray, mode: str, orientation: int) -> bytes:
    exif, buffer = PillowImage.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    PillowImage.fromarray(image[:, :, ::-1]).convert(mode).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_from_camera_to_topic_grey_and_turned_pictures_keep_nothing(mode, orientation, codec):
    """Through the whole engine. PNG, since a camera's JPEG would itself spread an object over its blocks."""
    given_policy = policy(face={"shape": "ellipse"}).model_copy(update={"output": Output(codec=codec)})
    size = (95, 127)
    upright = size if orientation in (1, 3) else size[::-1]
    face = found("face", 30, 25, 61, 66)
    outputs = []
    for image in pair(given_policy, upright, (face,)):
        lying = {1: image, 3: np.rot90(image, 2), 6: np.rot90(image), 8: np.rot90(image, -1)}[orientation]
        engine = Engine(Ensemble([Scripted(lambda pictures: [(face,)] * len(pictures))]), Limits())
        direct = Direct(engine, lambda camera: given_policy)
        (ending,) = direct.end([record(png(lying, mode, orientation), "image/png")])
        assert (ending.audit.height, ending.audit.width) == tuple(s - s % 2 * (codec == "h264") for s in upright)
        outputs.append(ending.output.payload)
    assert outputs[0] == outputs[1]
