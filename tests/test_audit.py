"""The audit event's contract and its published JSON Schema."""

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from sfumato.agents.ledger import entries
from sfumato.models import engine
from sfumato.schemas import export
from sfumato.schemas.audit import MOST_DETECTORS, MOST_ERRORS, MOST_SPARED, AuditEvent, Origin
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.detection import MOST_DETECTIONS, Detection, DetectorName, Target
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy

SCHEMA = Path(__file__).parent.parent / "docs" / "audit.schema.json"
EVENT = {
    "id": "north/1/2",
    "origin": Origin(topic="frames.raw", partition=0, offset=5),
    "camera": "north",
    "epoch": 1,
    "sequence": 2,
    "outcome": Outcome.MASKED,
    "audited_at": datetime(2026, 11, 23, tzinfo=UTC),
    "detections": (Detection(target=Target.FACE, score=0.5, box=(0, 0, 9, 9)),),
    "input_bytes": 3,
    "input_sha256": "a" * 64,
    "output_bytes": 2,
    "output_sha256": "b" * 64,
}


def test_round_trip_and_published_schema():
    event = AuditEvent(**EVENT)
    value = event.to_message().value
    assert AuditEvent.from_message(value) == event
    jsonschema.validate(json.loads(value), json.loads(SCHEMA.read_text()))
    (detection,) = json.loads(value)["detections"]
    assert detection.items() >= {"class": "face", "score": 0.5, "box": [0, 0, 9, 9]}.items()


def test_a_time_without_a_zone_can_be_compared():
    at = EVENT["audited_at"]
    assert AuditEvent(**{**EVENT, "audited_at": at.replace(tzinfo=None), "captured_at": at}).audited_at == at


def test_the_published_schema_is_the_one_in_force():
    assert json.loads(SCHEMA.read_text()) == AuditEvent.model_json_schema(by_alias=True, mode="serialization"), (
        "run `make schemas`"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Outcome.FULLY_MASKED},
        {"reason": Reason.NO_POLICY},
        {"output_sha256": None},
        {"outcome": Outcome.DROPPED, "reason": Reason.EMPTY},
        {"pixels": "..."},
    ],
)
def test_contradictions_are_refused(changes):
    with pytest.raises(ValidationError):
        AuditEvent(**{**EVENT, **changes})


@pytest.mark.parametrize(
    ("contract", "field", "element"),
    [
        (AuditEvent, "detections", b"0"),
        (
            AuditEvent,
            "detections",
            Detection(target=Target.FACE, score=0.5, box=(0, 0, 9, 9)).model_dump_json().encode(),
        ),
        (AuditEvent, "detectors", b"0"),
        (AuditEvent, "spared", b"0"),
        (AuditEvent, "spared", b'"fountain"'),
        (Detection, "outline", b"0"),
        (Detection, "outline", b"[1,1]"),
        (export.Weights, "weights", b"0"),
        (export.Consistency, "path", b"0"),
        (export.Consistency, "path", b'"' + b"a" * 64 + b'"'),
    ],
)
def test_a_long_list_costs_one_error(contract, field, element):
    """Each error costs a kilobyte and a half, and one line of an export has room for a million."""
    message = b'{"%s":[%s]}' % (field.encode(), b",".join([element] * 3000))
    with pytest.raises(ValidationError) as told:
        contract.model_validate_json(message)
    assert sum(error["loc"][0] == field for error in told.value.errors()) == 1


def test_many_unknown_fields_are_only_counted():
    message = json.dumps({f"unknown{number}": 0 for number in range(MOST_ERRORS)}).encode()
    with pytest.raises(EnvelopeError, match=r"value: wrong in [0-9]+ places$"):
        AuditEvent.from_message(message)


def test_a_worker_stays_below_the_bounds_of_its_event():
    """Else it could not write the event: what is more is masked fully, as `too_many_detections`."""
    assert engine.MOST_DETECTIONS <= MOST_DETECTIONS
    assert len(DetectorName) <= MOST_DETECTORS == entries.MOST_DETECTORS
    zones = Policy.model_json_schema()["properties"]["zones"]
    assert zones["maxItems"] <= MOST_SPARED


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b"[1]"])
def test_a_broken_event_is_an_envelope_error(value):
    with pytest.raises(EnvelopeError):
        AuditEvent.from_message(value)
