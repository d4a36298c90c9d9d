"""Made-up requests to every operation of a running bridge, by schemathesis with all its checks.

What is taught to schemathesis here, because a document cannot say it: how bodies that are not JSON look, cursors, and
which answers depend on the state of things. No check is switched off.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC
from itertools import count
from typing import Any

import httpx
import numpy as np
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema

from sfumato.agents.api import usage
from sfumato.agents.api.examples import example
from sfumato.agents.api.routes import ROUTES
from sfumato.agents.search import Positions
from sfumato.agents.web import formats, openapi, paging, tus
from sfumato.models import images
from sfumato.schemas.job import JobRequest

ANSWERED = ["2xx", "304", "401", "403", "404", "409", "410", "412", "428"]
"""What a request that is valid by the document may get: conditions and states are nothing that a document can say."""
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "415", "422", "428", "429", "460"]
BEYOND = {
    # `from` not after `to`, versions that rise, roles or scopes.
    ("putPolicy", "validatePolicy", "searchAudit", "exportAudit", "searchCalls", "createKey", "getUsage"): ["422"],
    # Either a point or a box, times in order and past; another Idempotency-Key.
    ("createSubjectRequest", "decideSubjectRequest"): ["422"],
    # Files, addresses and policies that are there, a pseudonym that was made.
    ("createJob", "revealPseudonym"): ["422"],
    # Either a name, a policy or targets; names of targets. A form's part that is no picture.
    ("anonymizeImage", "detectObjects", "analyseFaces"): ["400", "415", "422"],
    # Either a length or none yet; Base64; a checksum that is the body's; another Idempotency-Key.
    ("createUpload", "continueUpload"): ["400", "415", "422", "460"],
    # An Idempotency-Key that was used before.
    ("liftSuspension",): ["422"],
    # From an address that showed too many wrong keys.
    ("signIn",): ["429"],
}
"""Operations with rules that the document cannot say, and what they may answer besides."""
RESOURCE = (formats.XML, formats.PROTOBUF)
WRONG = b"\x07wrong"
CHECKSUM = "sha256 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass(slots=True)
class Report:
    """``statuses``: how often each was answered. ``failures``: each check that failed, once per operation and check,
    with how to repeat it."""

    cases: int = 0
    checks: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.cases += other.cases
        self.checks += other.checks
        self.statuses += other.statuses
        self.operations |= other.operations
        self.failures |= other.failures
        self.errors += other.errors


def run(address: str, key: str, *, examples: int, seed: int = 1, coverage: bool = True) -> Report:
    """Send some requests to each operation at ``http://address``: ``examples`` of each, at most, per phase.

    ``coverage``: also each border of each parameter, some thousands.
    """
    with httpx.Client(base_url=f"http://{address}", headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        _teach(client)
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {key}"},
            "request-timeout": 60,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            # Its serializers do not take examples of XML; tests/test_openapi.py sees that all examples are valid.
            "phases": {"examples": {"enabled": False}, "coverage": {"enabled": coverage}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ANSWERED},
                "negative_data_rejection": {"expected-statuses": REFUSED},
                # tus itself wants 412 where Tus-Resumable is missing.
                "missing_required_header": {"expected-statuses": ["400", "401", "403", "406", "412", "415", "422"]},
            },
            "operations": [
                {
                    "include-operation-id": name,
                    "checks": {"positive_data_acceptance": {"expected-statuses": [*ANSWERED, *statuses]}},
                }
                for names, statuses in BEYOND.items()
                for name in names
            ],
        }
    )
    schema = schemathesis.openapi.from_url(f"http://{address}/openapi.json", config=config)
    report = Report()
    for event in from_schema(schema).execute():
        _count(report, event)
    return report


def _count(report: Report, event: Any) -> None:
    if isinstance(event, events.ScenarioFinished):
        report.cases += len(event.recorder.interactions)
        for id, interaction in event.recorder.interactions.items():
            if interaction.response is not None:
                report.statuses[interaction.response.status_code] += 1
            if id in event.recorder.cases:
                case = event.recorder.cases[id].value
                report.operations.add(f"{case.method} {case.path}")
        for id, nodes in event.recorder.checks.items():
            report.checks += len(nodes)
            for node in nodes:
                if node.failure_info is not None:
                    case, info = event.recorder.cases[id].value, node.failure_info
                    text = f"{info.failure.title}: {info.failure.message}\n{info.code_sample}"
                    report.failures.setdefault(f"{case.method} {case.path}: {node.name}", text)
    elif isinstance(event, events.NonFatalError):
        report.errors.append(f"{event.label}: {event.value}")
    elif isinstance(event, events.FatalError):
        report.errors.append(str(event.exception))


def _name(case: Any) -> str:
    return str(case.operation.definition.raw["operationId"])


def _wants_wrong_body(case: Any) -> bool:
    """Whether the case is to be refused for its body. Others of its parts that are not valid need not be the reason:
    an unknown parameter is none."""
    if case.meta is None or not case.meta.generation.mode.is_negative:
        return False
    if case.meta.is_negative_at(ParameterLocation.BODY):
        return True
    return not any(each.mode.is_negative for each in case.meta.components.values())


def _teach(client: httpx.Client) -> None:
    """Tell schemathesis; what an earlier call told is forgotten."""
    schemathesis.hooks.unregister_all()
    pictures = _pictures()
    known = _Known(client, pictures)
    for kind in (*RESOURCE, tus.BODY, *pictures):
        schemathesis.openapi.media_type(kind, st.just(pictures.get(kind, b"")))
        # As it is sent: a body that is put into a case would be held against the schema of a text, and found wrong.
        schemathesis.serializer(kind)(lambda context, value: known.body(context.case))

    @schemathesis.hook
    def map_case(context: Any, case: Any) -> Any:
        return known.complete(case)

    @schemathesis.hook
    def after_call(context: Any, case: Any, response: Any) -> None:
        known.tidy(case, response)

    names, ids = st.text("abcxyz", max_size=5), st.text("0123456789abcdef", min_size=32, max_size=32)
    moments = st.datetimes(timezones=st.just(UTC))
    offsets = st.dictionaries(st.integers(0, 3), st.integers(0, 9), max_size=4)
    places = {
        "cursor": st.builds(paging.After, after=names),
        "search-cursor": st.builds(Positions, offsets=offsets),
        "usage-cursor": st.builds(usage.Place, day=st.dates(), caller=names),
        **dict.fromkeys(("job-cursor", "subject-request-cursor"), st.builds(paging.Before, created_at=moments, id=ids)),
    }
    for name, strategy in places.items():
        schemathesis.openapi.format(name, strategy.map(paging.write))


def _pictures() -> dict[str, bytes]:
    picture = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    return {kind: images.encode_as(picture, kind, 80) for kind in images.FORMATS}


class _Known:
    """What is there: the caller's key, and a job that has ended. Every third request names it."""

    def __init__(self, client: httpx.Client, pictures: dict[str, bytes]) -> None:
        self._address, self._headers = str(client.base_url), dict(client.headers)
        self._pictures = pictures
        self._key = client.get("/v1/session").json()["caller"].removeprefix("key:")
        self._taken = {openapi.operation_id(route): formats.accepted(route) for route in ROUTES}
        self._turn = count()
        self._job = self._ended_job()

    def complete(self, case: Any) -> Any:
        """The case with what is there in it."""
        operation, parameters, turn = _name(case), case.path_parameters or {}, next(self._turn)
        positive = case.meta is not None and case.meta.generation.mode.is_positive
        if case.media_type == tus.BODY and _wants_wrong_body(case):
            case.headers["Upload-Checksum"] = CHECKSUM
        if positive and turn % 3 == 0 and operation == "createJob" and case.media_type == formats.JSON:
            case.body = self._job_request()
        if positive and turn % 3 == 0 and "job" in parameters and operation != "deleteJob":
            parameters["job"] = self._job
        if operation == "revokeKey" and parameters.get("id") == self._key:
            parameters["id"] = "0" * 12  # what follows would be refused, every request of it
        return case

    def body(self, case: Any) -> bytes:
        """What is sent, of a type that is not JSON."""
        model = self._taken.get(_name(case))
        if _wants_wrong_body(case):
            return WRONG
        if model is None:
            return self._pictures.get(case.media_type, b"some bytes")
        document = self._job_request() if model is JobRequest else example(model)
        return formats.encode(model, document, case.media_type)

    def tidy(self, case: Any, response: Any) -> None:
        """No worker is there, so a job would be under way, and watched, for ever."""
        if _name(case) == "createJob" and response.status_code == 202:
            self._post(response.headers["location"][0] + ":cancel")

    def _ended_job(self) -> str:
        job = self._post("/v1/jobs", json=self._job_request()).json()["id"]
        self._post(f"/v1/jobs/{job}:cancel")
        return str(job)

    def _job_request(self) -> dict[str, Any]:
        picture = self._pictures["image/png"]
        headers = {"Tus-Resumable": tus.VERSION, "Upload-Length": str(len(picture)), "Content-Type": tus.BODY}
        upload = self._post("/v1/uploads", headers=headers, content=picture).headers["location"].rpartition("/")[2]
        return {"files": [{"upload": upload}], "purpose": "made-up requests"}

    def _post(self, path: str, **options: Any) -> httpx.Response:
        headers = {**self._headers, **options.pop("headers", {})}
        response = httpx.post(self._address.rstrip("/") + path, headers=headers, timeout=30, **options)
        response.raise_for_status()
        return response
