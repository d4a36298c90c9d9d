"""One picture file masked: the same format, upright, in sRGB; of its metadata only what the policy keeps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sfumato.models import images, masks, metadata, picture_metadata
from sfumato.models.detectors import Image
from sfumato.models.engine import MOST_DETECTIONS, SMALLEST_SIDE
from sfumato.models.ensemble import Ensemble
from sfumato.models.images import GREY
from sfumato.models.metadata import Pseudonymize
from sfumato.schemas.detection import Detection, Evidence
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.report import Account


@dataclass(frozen=True, slots=True)
class Still:
    """The masked file, the size of its picture in pixels, and what became of it. ``detections``: what was masked;
    none where all of it is grey."""

    payload: bytes
    width: int
    height: int
    account: Account
    metadata: MetadataRecord
    detections: tuple[Detection, ...] = ()

    @property
    def reason(self) -> Reason | None:
        """Why all of it is grey; None where it is not."""
        return next(iter(self.account.reasons), None)


def mask(
    payload: bytes,
    ensemble: Ensemble,
    policy: Policy,
    *,
    max_pixels: int,
    quality: int,
    pseudonymize: Pseudonymize | None = None,
) -> Still:
    """Mask an encoded picture. Where detection or masking fails, all of it becomes grey.

    ``quality``: of JPEG and WebP, 1 to 100. ``pseudonymize``: None removes what should have a pseudonym. Raises
    :class:`~sfumato.models.images.ImageError` where it is no JPEG, PNG or WebP, is damaged, too large or animated.
    """
    content_type = images.sniff(payload)
    told, bare = picture_metadata.read(payload, content_type)
    image = images.decode_file(bare, content_type, max_pixels=max_pixels)
    found, reason = _find(image, ensemble, policy)
    spared: tuple[str, ...] = ()
    if reason is None:
        try:
            spared = masks.apply(image, found, policy)
        except Exception:  # noqa: BLE001 - fail closed
            reason = Reason.MASK_ERROR
    if reason is not None:
        image, found = np.full_like(image, GREY), ()
    values, record = metadata.treat(told, policy.metadata, pseudonymize)
    encoded = picture_metadata.write(images.encode_as(image, content_type, quality), content_type, values)
    return Still(encoded, image.shape[1], image.shape[0], _account(found, spared, reason), record, found)


def _find(image: Image, ensemble: Ensemble, policy: Policy) -> tuple[tuple[Detection, ...], Reason | None]:
    if min(image.shape[:2]) < SMALLEST_SIDE:
        return (), Reason.TOO_SMALL
    try:
        (detections,) = ensemble.detect([image], [policy])
    except Exception:  # noqa: BLE001 - fail closed
        return (), Reason.DETECTOR_ERROR
    certain = tuple(d for d in detections if d.evidence is not Evidence.WEAK)
    return (certain, None) if len(certain) <= MOST_DETECTIONS else ((), Reason.TOO_MANY_DETECTIONS)


def _account(found: tuple[Detection, ...], spared: tuple[str, ...], reason: Reason | None) -> Account:
    return Account(
        frames=1,
        masked=reason is None,
        fully_masked=reason is not None,
        dropped=0,
        looked_at=reason in (None, Reason.MASK_ERROR, Reason.TOO_MANY_DETECTIONS),
        reasons={} if reason is None else {reason: 1},
        boxes=dict(Counter(detection.target for detection in found)),
        evidence=dict(Counter(detection.evidence for detection in found)),
        spared=dict(Counter(spared)),
    )
