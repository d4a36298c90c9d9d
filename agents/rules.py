"""By which policy files are masked, and with which detectors: as a file says, or the options of ``sfumato mask``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from sfumato.agents.policy_files import PolicyError, read_file, read_floor
from sfumato.agents.settings import Settings
from sfumato.models import detectors
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.models.weights import sha256
from sfumato.schemas.detection import Target
from sfumato.schemas.fault import Fault
from sfumato.schemas.floor import Floor
from sfumato.schemas.masking import MaskName
from sfumato.schemas.metadata import MEASURES, NAMES, Metadata, MetadataField, Treatment
from sfumato.schemas.policy import LawfulBasis, Policy
from sfumato.schemas.remedy import remedies
from sfumato.schemas.report import PolicyRecord

USUAL: dict[Target, str] = {
    Target.FACE: "centerface",
    Target.LICENCE_PLATE: "clp",
    Target.PERSON: "ssdlite",
    Target.TEXT: "ppocr",
}
"""The detectors that are loaded for each target where neither the policy nor SFUMATO_DETECTORS names any."""
USUAL_TARGETS = (Target.FACE, Target.LICENCE_PLATE)
"""What identifies most people. People as a whole are left out: little would remain of most films."""


class MaskError(Fault, ValueError):
    """The run cannot begin; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy, and its file where one was given."""

    policy: Policy
    file: Path | None = None

    @classmethod
    def read(cls, file: Path, floor: Floor) -> Rules:
        """The file's only policy; PolicyError or :class:`MaskError` says what is wrong with it."""
        policies = read_file(file, floor)
        if len(policies) > 1:
            raise MaskError(f"{file} holds {len(policies)} policies; sfumato mask wants one")
        (policy,) = policies
        try:
            return cls(timeless(policy), file)
        except MaskError as error:
            raise MaskError(f"{file}: {error}") from None

    @classmethod
    def usual(cls, targets: Sequence[Target], mask: MaskName | None, metadata: Metadata | None = None) -> Rules:
        """Without a policy file; ``mask`` None: each target's own. Whoever runs the command answers for the lawful
        basis; the report names none."""
        masking = {} if mask is None else {"mask": mask}
        return cls(
            Policy.model_validate(
                {
                    "camera": "files",
                    "version": 1,
                    "controller": "not stated",
                    "purpose": "not stated",
                    "lawful_basis": LawfulBasis.LEGITIMATE_INTERESTS,
                    "dpia": "not stated",
                    "retention_hours": 1,
                    "targets": {target: masking for target in targets},
                    "metadata": metadata or Metadata(),
                }
            )
        )

    def record(self) -> PolicyRecord | None:
        if self.file is None:
            return None
        return PolicyRecord(camera=self.policy.camera, version=self.policy.version, sha256=sha256(self.file))


def timeless(policy: Policy) -> Policy:
    """The policy, as it holds for files; :class:`MaskError` where it has schedules or is not in force."""
    if policy.schedules:
        raise MaskError("schedules: a file has no time of day that could be relied on; leave them out")
    now = datetime.now(UTC)
    form = Timetable(policy).at(now, now)
    if isinstance(form, NoPolicy):
        raise MaskError(f"{form.detail}: it gives no right to look")
    return form


def metadata(keep: str | None, recipient: str | None) -> Metadata | None:
    """What ``--keep-metadata`` and ``--recipient`` ask for. A field without a treatment gets the strongest."""
    if keep is None:
        if recipient is not None:
            raise MaskError("--recipient: goes with --keep-metadata serial=pseudonym and the like")
        return None
    kept = {}
    try:
        for part in keep.split(","):
            name, _, treatment = part.strip().partition("=")
            field = MetadataField(name)
            strongest = Treatment.PSEUDONYM if field in NAMES else Treatment.COARSEN if field in MEASURES else "exact"
            kept[field] = Treatment(treatment or strongest)
    except ValueError:
        fields, treatments = ", ".join(MetadataField), ", ".join(Treatment)
        raise MaskError(f"--keep-metadata: fields of {fields}; each alone, or with = and one of {treatments}") from None
    try:
        return Metadata(keep=kept, recipient=recipient)
    except ValidationError as error:
        raise MaskError(f"--keep-metadata: {remedies(error)}") from None


def chosen(
    settings: Settings,
    file: Path | None,
    targets: str | None = None,
    mask: str | None = None,
    metadata: Metadata | None = None,
) -> Rules:
    """What the options ``--policy``, ``--targets``, ``--mask`` and ``--keep-metadata`` ask for; no less than the site's
    floor."""
    floor = read_floor(settings)
    if file is not None:
        if targets is not None or mask is not None or metadata is not None:
            raise MaskError("--policy says what to mask and keep: leave out --targets, --mask and --keep-metadata")
        return Rules.read(file, floor)
    try:
        wanted = [Target(name.strip()) for name in targets.split(",")] if targets else USUAL_TARGETS
    except ValueError:
        raise MaskError(f"--targets: one or more of {', '.join(Target)}") from None
    try:
        found = Rules.usual(wanted, MaskName(mask) if mask else None, metadata)
    except ValueError:
        raise MaskError(f"--mask: one of {', '.join(MaskName)}") from None
    if problems := list(floor.problems(found.policy)):
        raise PolicyError("\n".join(problems))
    return found


def needed(settings: Settings, policy: Policy) -> list[str]:
    """The names of the detectors to load for the policy."""
    if "detectors" in settings.model_fields_set:
        return settings.detector_names()
    named = {name for masking in policy.targets.values() for name in masking.detectors}
    usual = {USUAL[t] for t, masking in policy.targets.items() if t in USUAL and not masking.detectors}
    return sorted({*named, *usual})


def load(settings: Settings, policy: Policy) -> Ensemble:
    """The detectors that the policy needs; DetectorError, WeightError or :class:`MaskError` says what is missing."""
    options = settings.detector_options()
    ensemble = Ensemble([detectors.make(name, options) for name in needed(settings, policy)])
    if missing := ensemble.missing(policy):
        raise MaskError(f"{missing}; --targets names what to mask, SFUMATO_DETECTORS what to load")
    return ensemble
