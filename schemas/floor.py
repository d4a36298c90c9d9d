"""The site's floor: what no policy may go below. A TOML file that the setting ``SFUMATO_POLICY_FLOOR`` names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from sfumato.schemas.detection import Target
from sfumato.schemas.masking import Masking, MaskName
from sfumato.schemas.part import Part, Relative
from sfumato.schemas.policy import Policy
from sfumato.schemas.zone import Rule


class Floor(Part):
    """Every policy, in each of its schedules, must mask ``targets``, by ``masks`` alone (None: any), zones included.

    The rest bounds the fields of the same name, None not at all. ``cells``, ``threshold`` and ``smallest``: the
    largest; a policy that leaves ``threshold`` or ``smallest`` to the worker is below a floor that states them.
    ``dilation``, ``sigma`` (of a blur), ``hold`` and ``lookahead``: the least. ``never_mask``: whether
    zones may be spared.
    """

    targets: frozenset[Target] = frozenset()
    masks: Annotated[frozenset[MaskName], Field(min_length=1)] | None = None
    cells: Annotated[int, Field(ge=1)] | None = None
    sigma: Relative | None = None
    threshold: Relative | None = None
    smallest: Annotated[int, Field(ge=4)] | None = None
    dilation: Annotated[float, Field(ge=0)] | None = None
    hold: Annotated[float, Field(ge=0)] | None = None
    lookahead: Annotated[float, Field(ge=0)] | None = None
    never_mask: bool = True

    def problems(self, policy: Policy) -> tuple[str, ...]:
        """Where the policy is weaker, each line with the field and the remedy; empty: nowhere."""
        found = [*self._weaker(policy), *_below(policy, {"hold": self.hold, "lookahead": self.lookahead})]
        for number, schedule in enumerate(policy.schedules):
            weaker = () if schedule.full_mask else self._weaker(policy.under(schedule))
            found += [f"schedules.{number}.{problem}" for problem in weaker if problem not in found]
        return tuple(found)

    def _weaker(self, policy: Policy) -> Iterator[str]:
        for target in sorted(self.targets - policy.targets.keys()):
            yield f"targets.{target}: missing; the site's floor wants it masked"
        for target, masking in policy.targets.items():
            for problem in self._weaker_masking(target, masking):
                yield f"targets.{target}.{problem}"
        for number, zone in enumerate(policy.zones):
            if zone.rule is Rule.NEVER_MASK:
                if not self.never_mask:
                    yield f"zones.{number}.rule: never_mask is not allowed by the site's floor; take the zone out"
            elif forbidden := self._forbidden(zone.mask):
                yield f"zones.{number}.{forbidden}"

    def _weaker_masking(self, target: Target, masking: Masking) -> Iterator[str]:
        if forbidden := self._forbidden(masking.mask):
            yield forbidden
        if self.cells is not None and masking.mask is MaskName.MOSAIC and masking.cells > self.cells:
            yield f"cells: more than the site's floor allows; at most {self.cells}"
        if masking.mask is MaskName.BLUR:
            yield from _below(masking, {"sigma": self.sigma})
        for name in ("threshold", "smallest"):
            most, given = getattr(self, name), getattr(masking, name)
            if name == "threshold" and target is Target.MOTION:  # has no scores
                continue
            if most is not None and (given is None or given > most):
                left = "left to the worker" if given is None else "higher than the site's floor allows"
                yield f"{name}: {left}; state at most {most:g}"
        yield from _below(masking, {"dilation": self.dilation})

    def _forbidden(self, mask: MaskName) -> str | None:
        if self.masks is None or mask in self.masks:
            return None
        return f"mask: {mask} is not allowed by the site's floor; one of {', '.join(sorted(self.masks))}"


def _below(part: Part, least: dict[str, float | None]) -> Iterator[str]:
    for name, floor in least.items():
        if floor is not None and getattr(part, name) < floor:
            yield f"{name}: less than the site's floor; at least {floor:g}"
