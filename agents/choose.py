"""The policy by which the API looks at a file: one in force, one sent along, or targets and a mask.

Requests with a picture say it in the query and in a part of their own (:class:`Choice`), jobs in JSON; both become one
:class:`~sfumato.schemas.job.PolicyChoice`.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller
from sfumato.agents.policies import Register
from sfumato.agents.rules import USUAL_TARGETS, MaskError, Rules, timeless
from sfumato.agents.standing import Standing
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.detection import Target
from sfumato.schemas.job import PolicyChoice
from sfumato.schemas.masking import MaskName
from sfumato.schemas.part import Part
from sfumato.schemas.policy import CAMERAS, Policy, covers

LARGEST_POLICY = 1024 * 1024
"""Bytes of a policy that is sent along: as many as a body may have that sets one."""
STILLS = tuple(target for target in Target if target is not Target.MOTION)


class Choice(Part):
    """What the query says. ``policy``: a camera, or the name of a policy in force. ``targets``: comma-separated.
    ``mask``: the mask of each of them."""

    policy: Annotated[str, Field(pattern=f"^{CAMERAS.pattern}$")] | None = None
    targets: Annotated[str, Field(max_length=200)] | None = None
    mask: Annotated[str, Field(max_length=50)] | None = None

    def with_inline(self, inline: bytes | None) -> PolicyChoice:
        """As jobs say it; ``inline``: a policy as JSON. 422 where it is not valid, and where more than one way is
        taken."""
        plain = self.targets is not None or self.mask is not None
        if (self.policy is not None) + (inline is not None) + plain > 1:
            raise HTTPException(422, "policy: a name, a policy sent along, or targets and mask: leave all but one out")
        try:
            targets = tuple(Target(name.strip()) for name in self.targets.split(",")) if self.targets else None
        except ValueError:
            raise HTTPException(422, f"targets: one or more of {', '.join(STILLS)}, comma-separated") from None
        try:
            mask = MaskName(self.mask) if self.mask else None
        except ValueError:
            raise HTTPException(422, f"mask: one of {', '.join(MaskName)}") from None
        return PolicyChoice(
            name=self.policy, inline=None if inline is None else _read(inline), targets=targets, mask=mask
        )


class Chosen(NamedTuple):
    """``named``: whether the caller named or sent it, rather than targets and a mask."""

    policy: Policy
    named: bool


def choose(choice: PolicyChoice, standing: Standing, caller: Caller) -> Chosen:
    """The policy that a request asks for, no less than the site's floor; without any: what ``sfumato mask`` does.

    422 where it is not in force, not for the caller's cameras, below the floor or has schedules.
    """
    try:
        if choice.name is not None:
            policy = timeless(_find(choice.name, standing, caller))
        elif choice.inline is not None:
            policy = timeless(choice.inline)
        else:
            policy = Rules.usual(choice.targets or USUAL_TARGETS, choice.mask).policy
    except MaskError as error:
        raise HTTPException(422, f"policy: {error}") from None
    if problems := standing.floor.problems(policy):
        raise HTTPException(422, f"policy: {'; '.join(problems)}")
    return Chosen(policy, choice.named)


def for_picture(chosen: Chosen) -> Chosen:
    """The same; 422 where it wants motion, which no single picture shows."""
    if Target.MOTION in chosen.policy.targets:
        raise HTTPException(422, "targets.motion: one picture shows no motion; leave it out, or send a film as a job")
    return chosen


def _find(name: str, standing: Standing, caller: Caller) -> Policy:
    """The policy of that camera, or of that name; 422 lists those that the caller may use."""
    seen = covers(caller.cameras, name)

    def look(register: Register) -> tuple[list[str], Timetable | NoPolicy | None]:
        applying = register.applies(name) if seen else None
        return sorted(register.in_force), None if applying is None else register.in_force[applying]

    names, entry = standing.policies.look(look)
    if entry is None:
        known = ", ".join(each for each in names if covers(caller.cameras, each)) or "none"
        raise HTTPException(422, f"policy: no policy in force for it, or not one of your cameras; known: {known}")
    if not isinstance(entry, Timetable):
        raise HTTPException(422, "policy: is not valid and gives no right to look; set it anew")
    return entry.policy


def _read(inline: bytes) -> Policy:
    if len(inline) > LARGEST_POLICY:
        raise HTTPException(413, f"policy: more than {LARGEST_POLICY} bytes; send a smaller one")
    try:
        return Policy.from_value(inline)
    except EnvelopeError as error:
        raise HTTPException(422, f"policy: {str(error).removeprefix('value: ')}") from None
