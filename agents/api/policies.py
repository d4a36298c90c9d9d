"""Policies: listed, read, set, withdrawn and checked. What is set is in force when the answer comes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from confluent_kafka import KafkaException
from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.exceptions import HTTPException

from sfumato.agents import policies, retention
from sfumato.agents.access.callers import Caller, needs
from sfumato.agents.policies import Register
from sfumato.agents.policy_files import PolicyError
from sfumato.agents.standing import Standing
from sfumato.agents.web import conditions, paging
from sfumato.agents.web.conditions import IfMatch, IfNoneMatch
from sfumato.agents.web.formats import Negotiated
from sfumato.agents.web.paging import LIMIT, Cursor, Limit
from sfumato.agents.web.problems import Refusal, summary
from sfumato.models.task import NoPolicy
from sfumato.models.timetable import Timetable
from sfumato.schemas.page import Page
from sfumato.schemas.policy import CAMERAS, Policy, covers
from sfumato.schemas.policy_view import PolicyCheck, PolicySummary, PolicyVersion
from sfumato.schemas.problem import Fault
from sfumato.schemas.scope import Scope

router = APIRouter(prefix="/v1", tags=["policies"], route_class=Negotiated)

IN_EFFECT = 10.0
"""Longest wait for a policy that was published to be in force, in seconds."""
NONE = "no policy of this name is in force; GET /v1/policies lists those that are"

Name = Annotated[
    str,
    Path(
        pattern=f"^{CAMERAS.pattern}$", description="A camera's id or a pattern of ids", examples=["north", "north-*"]
    ),
]
Number = Annotated[int, Path(ge=1, lt=2**63, description="A version", examples=[1])]
Reading = Annotated[Caller, needs(Scope.POLICIES_READ)]
Writing = Annotated[Caller, needs(Scope.POLICIES_WRITE)]
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "Not there, or not for the caller's cameras"}}
CHANGED: dict[int | str, dict[str, Any]] = {
    403: {"description": "It is for cameras that are not the caller's"},
    412: {"description": "The condition does not hold: it was changed since, exists, or does not exist"},
    428: {"description": "Without If-Match or If-None-Match"},
    503: {"description": "The broker does not answer"},
    504: {"description": "It was published, and is not seen in force yet"},
}


def _standing(request: Request) -> Standing:
    standing: Standing = request.app.state.standing
    return standing


Known = Annotated[Standing, Depends(_standing)]


@router.get("/policies", summary="The policies in force", operation_id="listPolicies")
def list_policies(standing: Known, caller: Reading, limit: Limit = LIMIT, cursor: Cursor = None) -> Page[PolicySummary]:
    """Sorted by name; those for the caller's cameras alone."""
    now = datetime.now(UTC)
    entries = standing.policies.look(lambda register: sorted(register.in_force.items()))
    shown = [_summary(name, entry, now) for name, entry in entries if covers(caller.cameras, name)]
    return paging.page(shown, limit, cursor, lambda each: each.camera)


@router.post(
    "/policies:validate",
    summary="Check a policy without setting it",
    operation_id="validatePolicy",
    responses={409: {"description": "Its version is not higher than one that was set"}},
)
def validate(policy: Policy, standing: Known, caller: Reading) -> PolicyCheck:
    """Also against the site's floor and the versions that were set. What is wrong is a problem with each field."""
    _permit(caller, policy.camera)
    _check(standing, policy)
    warnings = [*policy.warnings(), *filter(None, [retention.problem(standing.settings, policy)])]
    return PolicyCheck(camera=policy.camera, version=policy.version, warnings=tuple(warnings))


@router.get(
    "/policies/{name}",
    response_model=Policy,
    summary="A policy in force",
    operation_id="getPolicy",
    responses={**NOT_FOUND, 304: {"description": "Not changed"}, 409: {"description": "It is not valid any more"}},
)
def get_policy(
    name: Name,
    request: Request,
    response: Response,
    standing: Known,
    caller: Reading,
    if_none_match: IfNoneMatch = None,
) -> object:
    """Its ETag is what `If-Match` wants to change it."""
    entry = standing.policies.look(lambda register: register.in_force.get(name))
    if entry is None or not covers(caller.cameras, name):
        raise HTTPException(404, NONE)
    state = _state(entry) or ""
    if isinstance(entry, NoPolicy):
        headers = {"ETag": conditions.etag(request, state)}
        raise HTTPException(
            409, f"it is not valid, so frames are fully masked: {entry.detail}; PUT a valid one", headers
        )
    return conditions.answer(request, response, state, entry.policy)


@router.put(
    "/policies/{name}",
    summary="Set a policy",
    operation_id="putPolicy",
    responses={
        **CHANGED,
        201: {"description": "Set where there was none", "model": Policy},
        409: {"description": "Its version is not higher than one that was set"},
    },
)
def put_policy(
    name: Name,
    policy: Policy,
    request: Request,
    response: Response,
    standing: Known,
    caller: Writing,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Policy:
    """In force everywhere within two seconds, at the bridge when the answer comes. Its version must be higher than any
    that was set under the name, also before a withdrawal."""
    _permit(caller, name)
    if policy.camera != name:
        raise _invalid(Fault(field="camera", pointer="/camera", detail="differs from the path", remedy=f"write {name}"))
    with standing.changing:
        entry = standing.policies.look(lambda register: register.in_force.get(name))
        conditions.permit_change(request, _state(entry))
        _check(standing, policy)
        _publish(
            standing,
            lambda: policies.publish(request.app.state.settings, [policy]),
            lambda register: isinstance(now := register.in_force.get(name), Timetable) and now.policy == policy,
        )
    response.status_code = 201 if entry is None else 200
    response.headers["ETag"] = conditions.etag(request, _state(Timetable(policy)) or "")
    return policy


@router.delete(
    "/policies/{name}",
    status_code=204,
    response_class=Response,
    summary="Withdraw a policy",
    operation_id="withdrawPolicy",
    responses={**CHANGED, **NOT_FOUND},
)
def withdraw(name: Name, request: Request, standing: Known, caller: Writing, if_match: IfMatch = None) -> Response:
    """A pattern's policy may then apply; else frames are fully masked. The versions stay readable."""
    _permit(caller, name)
    with standing.changing:
        entry = standing.policies.look(lambda register: register.in_force.get(name))
        if entry is None:
            raise HTTPException(404, NONE)
        conditions.permit_change(request, _state(entry))
        settings = request.app.state.settings
        _publish(standing, lambda: policies.withdraw(settings, name), lambda register: name not in register.in_force)
    return Response(status_code=204)


@router.get(
    "/policies/{name}/versions",
    summary="The versions ever set",
    operation_id="listPolicyVersions",
    responses=NOT_FOUND,
)
def list_versions(
    name: Name, standing: Known, caller: Reading, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[PolicyVersion]:
    """The oldest first, also those from before a withdrawal."""
    history = _history(standing, caller, name)
    entry = standing.policies.look(lambda register: register.in_force.get(name))
    current = entry.policy.version if isinstance(entry, Timetable) else None
    versions = [
        PolicyVersion(version=number, set_at=each.set_at, in_force=number == current, valid=each.policy is not None)
        for number, each in sorted(history.items())
    ]
    return paging.page(versions, limit, cursor, lambda each: f"{each.version:020}")


@router.get(
    "/policies/{name}/versions/{number}",
    summary="A version ever set",
    operation_id="getPolicyVersion",
    responses={**NOT_FOUND, 410: {"description": "It is not valid by the rules of today"}},
)
def get_version(name: Name, number: Number, standing: Known, caller: Reading) -> Policy:
    """What an audit event's `policy_version` means."""
    version = _history(standing, caller, name).get(number)
    if version is None:
        raise HTTPException(404, f"no such version; GET /v1/policies/{name}/versions lists them")
    if version.policy is None:
        raise HTTPException(
            410, "this version is not valid by the rules of today; `sfumato policy get` prints its text"
        )
    return version.policy


def _history(standing: Standing, caller: Caller, name: str) -> dict[int, policies.Version]:
    history = standing.policies.look(lambda register: dict(register.history.get(name, {})))
    if not history or not covers(caller.cameras, name):
        raise HTTPException(404, "nothing was ever set under this name; GET /v1/policies lists what is in force")
    return history


def _permit(caller: Caller, name: str) -> None:
    if not covers(caller.cameras, name):
        raise HTTPException(403, "camera: your key or token is for other cameras; name one, or a pattern, of its own")


def _check(standing: Standing, policy: Policy) -> None:
    """Raise 422 where it is below the floor or states fewer hours than frames are kept, 409 where its version does not
    rise."""
    found = [_below(problem) for problem in standing.floor.problems(policy)]
    if retention.refuses(standing.settings) and (said := retention.problem(standing.settings, policy)):
        found.append(_below(said))
    if found:
        raise _invalid(*found)
    try:
        standing.policies.look(lambda register: policies.check(register, [policy]))
    except PolicyError as error:
        raise Refusal(409, str(error), kind="version-used") from None


def _below(problem: str) -> Fault:
    field, _, rest = problem.partition(": ")
    detail, _, remedy = rest.partition("; ")
    return Fault(field=field, pointer="/" + field.replace(".", "/"), detail=detail, remedy=remedy or detail)


def _invalid(*faults: Fault) -> Refusal:
    return Refusal(422, summary(faults), errors=faults)


def _publish(standing: Standing, publish: Callable[[], None], in_force: Callable[[Register], bool]) -> None:
    try:
        publish()
    except (KafkaException, TimeoutError):
        raise HTTPException(503, "the broker does not take it; try again", {"Retry-After": "5"}) from None
    if not standing.policies.wait_for(in_force, IN_EFFECT):
        raise HTTPException(504, "it was published, and is not seen in force yet; GET it before you try again")


def _state(entry: Timetable | NoPolicy | None) -> str | None:
    if isinstance(entry, NoPolicy):
        return f"invalid {entry.detail}"
    return entry.policy.model_dump_json() if entry is not None else None


def _summary(name: str, entry: Timetable | NoPolicy, now: datetime) -> PolicySummary:
    form = entry if isinstance(entry, NoPolicy) else entry.at(now, now)
    if isinstance(form, NoPolicy):
        return PolicySummary(
            camera=name, version=form.version, schedule=form.schedule, reason=form.reason, detail=form.detail
        )
    return PolicySummary(camera=name, version=form.version, schedule=form.schedule, targets=tuple(sorted(form.targets)))
