"""The audit event's contract and its published JSON Schema."""

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from sfumato.schemas.audit import AuditEvent, Origin
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.outcome import Outcome, Reason

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


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b"[1]"])
def test_a_broken_event_is_an_envelope_error(value):
    with pytest.raises(EnvelopeError):
        AuditEvent.from_message(value)
