"""Made-up requests to every operation of a running bridge, by schemathesis with all its checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema

from sfumato.agents.api.examples import example
from sfumato.agents.api.routes import ROUTES
from sfumato.agents.audits import Positions
from sfumato.agents.web import formats, openapi, paging

ANSWERED = ["2xx", "304", "401", "403", "404", "409", "410", "412", "428"]
"""What a request that is valid by the document may get: conditions and states are nothing that a document can say."""
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "415", "422", "428", "429"]
BEYOND = ["putPolicy", "validatePolicy", "searchAudit", "exportAudit", "make", "used"]
"""Operations with rules that the document cannot say, as `from` not after `to`, or that a day of a cursor exists."""


@dataclass(slots=True)
class Report:
    """``failures``: each check that failed, once per operation and check, with how to repeat it."""

    cases: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def run(address: str, key: str, *, examples: int, seed: int = 1) -> Report:
    """Send some requests to each operation at ``http://address``: ``examples`` of each, at most, per phase."""
    _teach()
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {key}"},
            "request-timeout": 60,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            # Its serializers do not take examples of XML; tests/test_openapi.py sees that all examples are valid.
            "phases": {"examples": {"enabled": False}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ANSWERED},
                "negative_data_rejection": {"expected-statuses": REFUSED},
            },
            "operations": [
                {
                    "include-operation-id": name,
                    "checks": {"positive_data_acceptance": {"expected-statuses": [*ANSWERED, "422"]}},
                }
                for name in BEYOND
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
        for id, nodes in event.recorder.checks.items():
            for node in nodes:
                if node.failure_info is not None:
                    case, info = event.recorder.cases[id].value, node.failure_info
                    text = f"{info.failure.title}: {info.failure.message}\n{info.code_sample}"
                    report.failures.setdefault(f"{case.method} {case.path}: {node.name}", text)
    elif isinstance(event, events.NonFatalError):
        report.errors.append(f"{event.label}: {event.value}")
    elif isinstance(event, events.FatalError):
        report.errors.append(str(event.exception))


def _serialize(context: Any, value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _wants_wrong_body(case: Any) -> bool:
    """Whether the case is to be refused, and nothing but the body is the reason."""
    if case.meta is None or not case.meta.generation.mode.is_negative:
        return False
    others = (each for place, each in case.meta.components.items() if place != ParameterLocation.BODY)
    return not any(each.mode.is_negative for each in others)


def _teach() -> None:
    """What the document cannot say: how bodies in XML and Protobuf look, and cursors."""
    taken = {openapi.operation_id(route): formats.accepted(route) for route in ROUTES}
    for kind in (formats.XML, formats.PROTOBUF):
        schemathesis.openapi.media_type(kind, st.just(b""))
        schemathesis.serializer(kind)(_serialize)

    @schemathesis.hook
    def map_case(context: Any, case: Any) -> Any:
        model = taken.get(case.operation.definition.raw.get("operationId"))
        if model is not None and case.media_type in (formats.XML, formats.PROTOBUF):
            case.body = (
                b"\x07wrong" if _wants_wrong_body(case) else formats.encode(model, example(model), case.media_type)
            )
        return case

    names = st.text("abcxyz", max_size=5).map(lambda name: paging.write(paging.After(after=name)))
    offsets = st.dictionaries(st.integers(0, 3), st.integers(0, 9), max_size=4)
    places = offsets.map(lambda offsets: paging.write(Positions(offsets=offsets)))
    schemathesis.openapi.format("cursor", names)
    schemathesis.openapi.format("audit-cursor", places)
