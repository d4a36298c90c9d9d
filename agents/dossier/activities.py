"""Processing activities: the policies in force, put together by who decides, for what purpose and on what basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sfumato.agents.dossier.facts import Absent, Facts
from sfumato.agents.dossier.topics import Standing
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.schemas.masking import Masking, MaskName
from sfumato.schemas.policy import LawfulBasis, Policy, applicable
from sfumato.schemas.topics import DAY, FRAMES_ANONYMIZED, HOUR, MINUTE
from sfumato.schemas.zone import Rule

LETTERS = dict(zip(LawfulBasis, "abcdef", strict=True))
"""Of GDPR Article 6(1)."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What the policies of one purpose have in common."""

    controller: str
    purpose: str
    lawful_basis: LawfulBasis
    dpia: str
    policies: tuple[Policy, ...]

    @property
    def basis(self) -> str:
        return f"Article 6(1)({LETTERS[self.lawful_basis]}), {self.lawful_basis.replace('_', ' ')}"


def activities(facts: Facts) -> list[Activity]:
    """Sorted; empty where there are no valid policies."""
    groups: dict[tuple[str, str, LawfulBasis, str], list[Policy]] = {}
    for policy in policies(facts):
        key = (policy.controller, policy.purpose, policy.lawful_basis, policy.dpia)
        groups.setdefault(key, []).append(policy)
    return [Activity(*key, tuple(groups[key])) for key in sorted(groups)]


def policies(facts: Facts) -> list[Policy]:
    """The valid ones in force, by name."""
    if isinstance(facts.policies, Absent):
        return []
    entries = (entry for _, entry in sorted(facts.policies.in_force.items()))
    return [entry.policy for entry in entries if isinstance(entry, Timetable)]


def invalid(facts: Facts) -> list[tuple[str, str]]:
    """The names and faults of those that are not valid: their cameras are fully masked."""
    if isinstance(facts.policies, Absent):
        return []
    entries = sorted(facts.policies.in_force.items())
    return [(name, entry.detail or entry.reason) for name, entry in entries if isinstance(entry, NoPolicy)]


def applied(facts: Facts) -> list[tuple[str, str | None]]:
    """Each camera that was heard of, and the name of the policy that applies to it; None: it is fully masked."""
    names = [policy.camera for policy in policies(facts)] + [name for name, _ in invalid(facts)]
    cameras = () if isinstance(facts.cameras, Absent) else facts.cameras
    return [(camera, applicable(camera, names)) for camera in cameras]


def masks(policy: Policy) -> str:
    """What is masked, and how, target by target."""
    return "; ".join(f"{target}: {_mask(masking)}" for target, masking in sorted(policy.targets.items()))


def _mask(masking: Masking) -> str:
    parts: list[str] = [masking.mask, masking.shape, f"grown by {masking.dilation:g}"]
    if masking.mask is MaskName.MOSAIC:
        parts.append(f"{masking.cells} cells")
    if masking.mask is MaskName.BLUR:
        parts.append(f"sigma {masking.sigma:g}")
    if masking.threshold is not None:
        parts.append(f"from score {masking.threshold:g} on")
    if masking.smallest is not None:
        parts.append(f"from {masking.smallest} px on")
    return ", ".join(parts)


def zones(policy: Policy) -> str:
    shown = []
    for zone in policy.zones:
        spared = f" (spares {', '.join(sorted(zone.spares))})" if zone.rule is Rule.NEVER_MASK else ""
        shown.append(f"{zone.name}: {zone.rule.replace('_', ' ')}{spared}")
    return "; ".join(shown) or "none"


def further(policy: Policy) -> str:
    """What else is kept or changes with time."""
    parts = [f"held for {policy.hold:g} s, looked ahead {policy.lookahead:g} s"]
    parts += [f"sound of films: {policy.audio}"]
    kept = ", ".join(f"{field} {treatment}" for field, treatment in sorted(policy.metadata.keep.items()))
    parts += [f"metadata of files: {kept or 'none kept'}"]
    if policy.schedules:
        parts.append(f"schedules: {', '.join(schedule.name for schedule in policy.schedules)}")
    if policy.valid_from or policy.valid_until:
        parts.append(f"valid from {policy.valid_from or 'the start'} until {policy.valid_until or 'withdrawn'}")
    return "; ".join(parts)


def duration(milliseconds: int | None) -> str:
    """A retention in words."""
    if milliseconds is None:
        return "not known"
    if milliseconds < 0:
        return "for ever"
    for name, unit in (("day", DAY), ("hour", HOUR), ("minute", MINUTE)):
        if milliseconds and milliseconds % unit == 0:
            number = milliseconds // unit
            return f"{number} {name}{'s' if number > 1 else ''}"
    return f"{milliseconds} ms"


def retention_faults(facts: Facts) -> Iterator[str]:
    """Where a policy states less than the broker keeps, or that cannot be said."""
    standing = facts.topics[FRAMES_ANONYMIZED]
    for policy in policies(facts):
        fault = _retention_fault(policy, standing)
        if fault:
            yield fault


def _retention_fault(policy: Policy, standing: Standing | None) -> str:
    kept = standing.retention_ms if standing else None
    if kept is None:
        return (
            f"policy {policy.camera}: states {policy.retention_hours} h; the broker does not say for how long it keeps"
        )
    if kept < 0 or kept > policy.retention_hours * HOUR:
        return f"policy {policy.camera}: states {policy.retention_hours} h; the broker keeps {duration(kept)}"
    return ""


def weak_masks(found: Mapping[str, Policy] | list[Policy]) -> list[str]:
    """What a policy allows although it is weak, in the words of `sfumato policy validate`."""
    every = found.values() if isinstance(found, Mapping) else found
    return [f"policy {policy.camera}: {warning}" for policy in every for warning in policy.warnings()]
