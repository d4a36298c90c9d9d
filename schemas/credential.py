"""What a content credential (C2PA manifest) says that sfumato did: counts and names, nothing of the original."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sfumato.schemas.audit import DetectorRecord, Sha256
from sfumato.schemas.detection import Target
from sfumato.schemas.masking import MaskName
from sfumato.schemas.metadata import MetadataField, MetadataRecord, Treatment
from sfumato.schemas.part import Part
from sfumato.schemas.policy import Policy
from sfumato.schemas.report import Account, Count

LABEL = "org.sfumato.redaction"
"""Of the assertion that holds a :class:`Statement`."""


class Masked(Part):
    """How one target was masked, and how many boxes of it were; in a film the sum over its pictures."""

    mask: MaskName
    boxes: Count


class Statement(Part):
    """``policy`` and ``version``: null where none was named, its file's ``policy_sha256`` where there is one.
    ``frames``: pictures in the file; ``fully_masked``: those that are all grey. ``metadata``: the fields that the file
    carries and how each was treated; all others were removed."""

    policy: str | None = None
    version: Annotated[int, Field(ge=1)] | None = None
    policy_sha256: Sha256 | None = None
    masked: dict[Target, Masked]
    zones: Count = 0
    frames: Count
    fully_masked: Count
    detectors: tuple[DetectorRecord, ...]
    metadata: dict[MetadataField, Treatment] = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        policy: Policy,
        account: Account,
        detectors: tuple[DetectorRecord, ...],
        metadata: MetadataRecord,
        *,
        named: bool = True,
        policy_sha256: str | None = None,
    ) -> Statement:
        """Of a finished file. ``named``: the policy is one that somebody answers for, not a default."""
        treatments = {Treatment.EXACT: metadata.exact, Treatment.PSEUDONYM: metadata.pseudonymized}
        treatments[Treatment.COARSEN] = metadata.coarsened
        return cls(
            policy=policy.camera if named else None,
            version=policy.version if named else None,
            policy_sha256=policy_sha256,
            masked={
                target: Masked(mask=masking.mask, boxes=account.boxes.get(target, 0))
                for target, masking in policy.targets.items()
            },
            zones=len(policy.zones),
            frames=account.masked + account.fully_masked,
            fully_masked=account.fully_masked,
            detectors=detectors,
            metadata={field: treatment for treatment, fields in treatments.items() for field in fields},
        )
