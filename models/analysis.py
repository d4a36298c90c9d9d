"""What a recogniser could make of a face, without recognising anybody: size, sharpness, pose, occlusion.

No template is made here, and nothing that tells one person from another is measured (``docs/analyses.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.models import images
from sfumato.models.boxes import Box
from sfumato.models.centerface import CenterFace, Points
from sfumato.models.detectors import Image
from sfumato.models.recogniser import SAME_PERSON, Recogniser
from sfumato.schemas.analysis import Criteria, Face, Hindrance, Measures, Pose, Residual
from sfumato.schemas.anonymization import found
from sfumato.schemas.detection import Detection

MOST_FACES = 50
"""Of one picture; the largest."""
LOOK = 32
"""Side to which the box of a face is brought before its sharpness is measured, in pixels: so small that what is finer
than a recogniser needs does not count."""
PATCH = 0.16
"""Side of what is looked at around each of the five points, as a share of the box's longer side."""
FLAT = 4.0
"""Standard deviation of the brightness (0 to 255) below which nothing is to be seen around a point."""
LEAST_AROUND = 0.05
"""Share of a picture that no face covers, below which nobody can tell whether two show the same scene."""
AGREES, LEFT = 8, 0.25
"""Pixels whose channels differ by so much at most, of 255, agree; so many of those around the faces must."""
AGAIN = 85
"""Quality of the JPEG in which a face is encoded once more, to be compared with itself."""
CRITERIA = Criteria()
ALONE = nullcontext()
"""Nobody else uses detector and recogniser."""

MODEL = np.array(
    [
        (-3.151146, -2.624618, -3.465698),
        (3.151146, -2.624618, -3.465698),
        (0.0, 1.126865, -7.475604),
        (-2.456206, 4.342621, -4.283884),
        (2.456206, 4.342621, -4.283884),
    ]
)
"""Middles of the eyes, tip of the nose, corners of the mouth of an average face in centimetres; x to the right of the
picture, y down, z away from who looks. From MediaPipe's canonical face model (Apache-2.0): vertices 33 and 133, 263
and 362, 1, 61, 291."""
FAR = 20.0
"""The face is taken to be so many of its heights away: lenses of cameras are seldom nearer, and it matters little."""


def largest(detections: Sequence[Detection]) -> list[Detection]:
    """At most :data:`MOST_FACES`, the largest first."""

    def area(detection: Detection) -> float:
        x0, y0, x1, y1 = detection.box
        return (x1 - x0) * (y1 - y0)

    return sorted(detections, key=area, reverse=True)[:MOST_FACES]


def measure(picture: Image, box: Box, detector: CenterFace) -> Measures:
    """The measures of the face in a box."""
    points = detector.points(picture, box)
    eyes = float(np.linalg.norm(points[1] - points[0]))
    found = {
        "width": round(box[2] - box[0], 1),
        "height": round(box[3] - box[1], 1),
        "eye_distance": round(eyes, 1),
        "sharpness": round(sharpness(picture, box), 4),
        "pose": pose(points, box),
        "occlusion": occlusion(picture, points, box),
    }
    hindrances = tuple(_hindrances(found))
    return Measures(**found, usable_by_recogniser=not hindrances, hindrances=hindrances)


def sharpness(picture: Image, box: Box) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000) of the
    face at one size, divided by the variance of its brightness, so that neither distance nor contrast counts."""
    x0, y0, x1, y1 = _inside(box, picture)
    grey = cv2.cvtColor(picture[y0:y1, x0:x1], cv2.COLOR_BGR2GRAY)
    look = images.resize(grey, LOOK, LOOK)
    spread = float(look.var())
    edges = cv2.Laplacian(look, cv2.CV_64F)[1:-1, 1:-1]  # at the border it would see the reflection
    return float(edges.var()) / spread if spread > 1.0 else 0.0


def pose(points: Points, box: Box) -> Pose:
    """By the five points and an average face (perspective-n-point: Terzakis and Lourakis, "SQPnP", 2020)."""
    height = box[3] - box[1]
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    camera = np.array([[FAR * height, 0, middle[0]], [0, FAR * height, middle[1]], [0, 0, 1]])
    _, turn, _ = cv2.solvePnP(MODEL, points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    rotation: NDArray[np.float64] = cv2.Rodrigues(turn)[0]
    across, down, ahead = -rotation[:, 2]  # where the nose points
    return Pose(
        yaw=_degrees(across, -ahead),
        pitch=_degrees(-down, float(np.hypot(across, ahead))),
        roll=_degrees(rotation[1, 0], rotation[0, 0]),
    )


def occlusion(picture: Image, points: Points, box: Box) -> float:
    """Share of the five points around which there is nothing to be seen: outside the picture, or flat."""
    height, width = picture.shape[:2]
    half = max(box[2] - box[0], box[3] - box[1]) * PATCH / 2
    hidden = 0
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            hidden += 1
            continue
        x0, y0, x1, y1 = _inside((x - half, y - half, x + half, y + half), picture)
        hidden += float(cv2.cvtColor(picture[y0:y1, x0:x1], cv2.COLOR_BGR2GRAY).std()) < FLAT
    return hidden / len(points)


def analyse(
    picture: Image,
    masked: Image | None,
    faces: Sequence[Detection],
    detector: CenterFace,
    recogniser: Recogniser | None,
    turn: AbstractContextManager[object] = ALONE,
) -> tuple[Face, ...]:
    """The largest faces, judged. ``masked``: the same picture, masked; what it leaves is measured where there is a
    recogniser. ``turn``: held while detector or recogniser compute."""
    return tuple(_face(picture, masked, face, detector, recogniser, turn) for face in largest(faces))


def _face(
    picture: Image,
    masked: Image | None,
    face: Detection,
    detector: CenterFace,
    recogniser: Recogniser | None,
    turn: AbstractContextManager[object],
) -> Face:
    (place,) = found([face], picture.shape[1], picture.shape[0])
    left = None
    with turn:
        measures = measure(picture, face.box, detector)
        if recogniser is not None and masked is not None:
            left = residual(recogniser, picture, masked, face.box)
    return Face(box=place.box, relative=place.relative, score=face.score, measures=measures, residual=left)


def residual(recogniser: Recogniser, picture: Image, masked: Image, box: Box) -> Residual:
    """How far a face lies from itself, encoded once more, and from what a mask left of it."""
    x0, y0, x1, y1 = (round(side) for side in box)
    around = round(max(x1 - x0, y1 - y0))
    rows = slice(max(0, y0 - around), y1 + around)
    columns = slice(max(0, x0 - around), x1 + around)
    part, other = picture[rows, columns], masked[rows, columns]
    again = images.decode(images.encode(part, AGAIN), "image/jpeg", max_pixels=part.size)
    inside = (x0 - columns.start, y0 - rows.start, x1 - columns.start, y1 - rows.start)
    before, after = recogniser.distances(inside, part, again, other)
    return Residual(
        before=round(before, 3), after=round(after, 3), threshold=SAME_PERSON, recognised=after < SAME_PERSON
    )


def same_scene(picture: Image, masked: Image, faces: Sequence[Box]) -> bool:
    """Whether one picture is the other, masked: around the faces :data:`LEFT` of the pixels agree. So that a residual
    is measured, and not whether two pictures show the same person."""
    around = np.ones(picture.shape[:2], bool)
    for box in faces:
        x0, y0, x1, y1 = _inside(box, picture)
        around[y0:y1, x0:x1] = False
    if around.mean() < LEAST_AROUND:
        return False
    differences = cv2.absdiff(picture, masked).max(axis=2)[around]
    return bool((differences <= AGREES).mean() >= LEFT)


def _hindrances(found: dict[str, Any]) -> list[Hindrance]:
    turned = abs(found["pose"].yaw) > CRITERIA.most_yaw or abs(found["pose"].pitch) > CRITERIA.most_pitch
    judged = {
        Hindrance.TOO_SMALL: found["eye_distance"] < CRITERIA.least_eye_distance,
        Hindrance.BLURRED: found["sharpness"] < CRITERIA.least_sharpness,
        Hindrance.TURNED: turned,
        Hindrance.HIDDEN: found["occlusion"] > CRITERIA.most_occlusion,
    }
    return [hindrance for hindrance, holds in judged.items() if holds]


def _inside(box: Box, picture: Image) -> tuple[int, int, int, int]:
    """Whole pixels of the picture, one at least in each direction."""
    height, width = picture.shape[:2]
    x0, y0 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2]))), max(y0 + 1, min(height, round(box[3])))


def _degrees(opposite: float, adjacent: float) -> float:
    return round(float(np.degrees(np.arctan2(opposite, adjacent))), 1)
