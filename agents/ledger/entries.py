"""One message of ``audit`` or ``disclosures`` as the ledger reads it: which log it belongs to, and what it says.

Which log, and whether it is a duplicate, depends on the message and on those before it in its partition, on nothing
else: neither on the clock nor on this version's list of outcomes and reasons. So every ledger, and whoever checks
one, comes to the same leaves.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import SchemaValidator, core_schema

from sfumato.schemas.cloudevent import CAMERA_ID
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import DISCLOSURES_LOG, UNREADABLE

LARGEST = 2**63 - 1
MOST_DETECTORS = 32
_NAME, _SHA256 = re.compile(r"[a-z0-9_]{1,64}"), re.compile(r"[0-9a-f]{64}")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_REASONS = {reason.value: reason for reason in Reason}
_READ = (
    *("id", "camera", "epoch", "sequence", "outcome", "reason"),
    *("policy", "policy_version", "policy_sha256", "detectors"),
)
_ANY = core_schema.typed_dict_field(core_schema.any_schema(), required=False)
_EVENT = SchemaValidator(core_schema.typed_dict_schema(dict.fromkeys(_READ, _ANY), extra_behavior="ignore"))
"""The whole text is parsed as JSON, but only these fields become Python objects, whatever they are."""


class Place(NamedTuple):
    """A partition of a topic, by the topic's name on this cluster."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Version(int):
    """A policy's version; ``sha256``: of the text that the worker masked by, as its event says; None: it does not."""

    sha256: str | None = None


@dataclass(slots=True)
class Entry:
    """``identity``: (epoch, sequence) of a frame, else the first half of a SHA-256, in hexadecimal. ``outcome`` None:
    not a valid audit event, or a disclosure. ``written_at``: by the broker's clock, Unix seconds."""

    log: str
    identity: tuple[int, int] | str
    value: bytes
    outcome: Outcome | None = None
    reason: Reason | None = None
    policy: tuple[str, Version] | None = None
    detectors: tuple[tuple[str, str], ...] = ()
    written_at: float = 0.0


def read_audit(key: bytes | None, value: bytes | None, partition: int) -> Entry:
    """A message of ``audit``. One that names no frame, or another camera than its key, goes to the partition's log of
    unreadable messages, by its ``id`` or, without one, its SHA-256."""
    value = value or b""
    try:
        event = _EVENT.validate_json(value)
    except ValueError:  # no JSON, or no object
        return Entry(f"{UNREADABLE}{partition}", _digest(value), value)
    outcome, reason = _OUTCOMES.get(_text(event, "outcome")), _REASONS.get(_text(event, "reason"))
    if (outcome is Outcome.MASKED) != (event.get("reason") is None) or (reason is None and event.get("reason")):
        outcome = reason = None
    camera, epoch, sequence = _text(event, "camera"), _number(event, "epoch"), _number(event, "sequence")
    if epoch < 0 or sequence < 0 or not CAMERA_ID.fullmatch(camera) or key != camera.encode():
        id = _text(event, "id")
        return Entry(f"{UNREADABLE}{partition}", _digest(b"id " + id.encode() if id else value), value, outcome, reason)
    return Entry(camera, (epoch, sequence), value, outcome, reason, _policy(event, camera), _detectors(event))


def read_disclosure(id: bytes | None, value: bytes | None) -> Entry:
    """A message of ``disclosures``, by its header ``ce_id`` or, without one, its SHA-256."""
    value = value or b""
    return Entry(DISCLOSURES_LOG, _digest(value if id is None else b"id " + id), value)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""


def _number(event: dict[str, Any], name: str) -> int:
    """-1 where there is none from 0 to 2^63 - 1."""
    value = event.get(name)
    return value if type(value) is int and 0 <= value <= LARGEST else -1


def _policy(event: dict[str, Any], camera: str) -> tuple[str, Version] | None:
    number, sha256 = event.get("policy_version"), _text(event, "policy_sha256")
    if type(number) is not int:
        return None
    version = Version(number)
    version.sha256 = sha256 if _SHA256.fullmatch(sha256) else None
    return _text(event, "policy") or camera, version


def _detectors(event: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    records = event.get("detectors")
    if not isinstance(records, list):
        return ()
    named = [_detector(record) for record in records[:MOST_DETECTORS]]
    return tuple(each for each in named if each is not None)


def _detector(record: Any) -> tuple[str, str] | None:
    if not isinstance(record, dict):
        return None
    name, sha256 = _text(record, "name"), _text(record, "weights_sha256")
    return (name, sha256) if _NAME.fullmatch(name) and _SHA256.fullmatch(sha256) else None
