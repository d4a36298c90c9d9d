"""The dossier, from a real broker with what a small pipeline left there: every figure, every gap, nothing made up."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

from sfumato.agents import policies
from sfumato.agents.access.keys import Keys
from sfumato.agents.cli import main
from sfumato.agents.database import Database
from sfumato.agents.dossier import frames
from sfumato.agents.dossier.collect import DrillsError, collect, read_drills
from sfumato.agents.dossier.controller import ControllerError, read_controller, template
from sfumato.agents.dossier.facts import Absent, Facts
from sfumato.agents.dossier.markup import JUDGE, MISSING, plain
from sfumato.agents.dossier.write import write
from sfumato.agents.ledger.note import Checkpoint, Signer, VerifierKey
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.controller import Assessment, Controller
from sfumato.schemas.detection import Target
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.find import Find
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.scope import ROLES, Role
from sfumato.schemas.segment import Run, Segment, Source
from sfumato.schemas.suspension import Suspension, SuspensionState
from sfumato.schemas.topics import AUDIT, EPOCHS, FINDS, LEDGER, SUSPENSIONS, Topic
from tests.test_api_audit import event

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
SIGNER = Signer("city.example/ledger", Ed25519PrivateKey.generate())
HOSTILE = (
    "Traffic <script>alert(1)</script> | **bold** [x](javascript:alert(1)) <img src=x onerror=alert(1)> ‮ &amp; `x`"
)


def send(settings: Settings, *messages: tuple[Topic, Message]) -> None:
    failures: list[object] = []
    producer = Producer(settings, client_id="test")
    for topic, message in messages:
        producer.send(topic, message, lambda error: failures.append(error) if error else None)
    assert producer.close(20) == 0
    assert failures == []


def policy(camera: str, **changes: object) -> Policy:
    document = {
        "camera": camera,
        "version": 1,
        "controller": "City of Delft",
        "purpose": "Traffic counts",
        "lawful_basis": "public_task",
        "dpia": "DPIA-2026-014",
        "retention_hours": 24,
        "targets": {"face": {}, "licence_plate": {"mask": "mosaic"}},
        **changes,
    }
    return Policy.model_validate_json(json.dumps(document))


def epoch(camera: str, last: int) -> EpochRecord:
    dropped = {Reason.UNDECODABLE: 2}
    return EpochRecord(camera=camera, epoch=1, state=EpochState.ENDED, at=NOW, last_sequence=last, dropped=dropped)


def find(camera: str, number: int) -> Find:
    return Find(
        camera=camera,
        epoch=1,
        sequence=number,
        index=0,
        target=Target.FACE,
        score=0.9,
        box=(0, 0, 9, 9),
        covered=0.1,
        width=64,
        height=36,
        detector={"name": "mtcnn", "weights_sha256": "7" * 64},
        policy_version=1,
        published_at=NOW,
        found_at=NOW,
    )


def segment(log: str, first: int, size: int, **changes: object) -> Segment:
    fields = {
        "log": log,
        "first": first,
        "size": size,
        "root": f"{size:064x}",
        "previous_root": f"{first:064x}",
        "subtrees": (),
        "sealed_at": NOW,
        "source": Source(topic="audit", partition=0, first_offset=0, last_offset=9),
        "outcomes": {Outcome.MASKED: size - first},
        "reasons": {},
        "runs": (Run(epoch=1, first=first, last=size - 1),),
        **changes,
    }
    return Segment.model_validate(fields)


def sealed(found: Segment, signer: Signer = SIGNER) -> bytes:
    head = Checkpoint(f"city.example/{found.log}", found.size, bytes.fromhex(found.root), (found.model_dump_json(),))
    return signer.sign(head.text()).encode()


def note(found: Segment, value: bytes | None = None) -> tuple[Topic, Message]:
    return LEDGER, Message(found.log.encode(), value or sealed(found), [])


@pytest.fixture
def running(topics: Settings) -> Settings:
    """Two cameras with and one without a policy, an hour of audit events, a find, a suspension, two keys."""
    policies.publish(topics, [policy("north"), policy("south-*", purpose=HOSTILE, retention_hours=1)])
    refused = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.NO_POLICY}
    events = [event(n, "north") for n in (*range(100, 108), 103, 109)]
    events += [event(n, "attic", **refused) for n in range(3)]
    events += [event(7, None, outcome=Outcome.DROPPED, reason=Reason.INVALID_ENVELOPE)]
    told = Suspension(camera="south-1", state=SuspensionState.SUSPENDED, at=NOW, by="inspect", note="leaks", finds=3)
    send(
        topics,
        *[(EPOCHS, epoch(camera, 9).to_message()) for camera in ("north", "south-1", "attic")],
        *[(AUDIT, each.to_message()) for each in events],
        *[(FINDS, find("north", n).to_message()) for n in (1, 2, 2)],
        (SUSPENSIONS, told.to_message()),
    )
    database = Database(topics)
    database.migrate()
    keys = Keys(database)
    keys.create("Acme | Traffic", ROLES[Role.VENDOR], cameras=["north"], purpose="counts")
    keys.create("office", ROLES[Role.DPO], purpose="oversight", expires_at=NOW + DAY)
    database.close()
    return topics


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each table, as a reader sees them."""
    found: list[list[list[str]]] = []
    for token in (tokens := MarkdownIt("commonmark").enable("table").parse(markdown)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level >= 4 and found and tokens:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def table(markdown: str, first: str) -> dict[str, list[str]]:
    """The rows, by their first cell, of the table whose first column is called so."""
    (rows,) = [each for each in tables(markdown) if each[0][0] == first]
    return {row[0]: row[1:] for row in rows[1:]}


def made(facts: Facts, folder: Path, controller: Controller | None = None) -> tuple[str, str]:
    """The Markdown of the record and of the annex."""
    write(facts, controller or Controller(), folder)
    return (folder / "record.md").read_text(), (folder / "assessment.md").read_text()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_dossier_says_what_the_system_is_and_did(running, tmp_path):
    facts = collect(running, NOW + timedelta(minutes=1), DAY)
    record, annex = made(facts, tmp_path)
    titles = [re.sub(r"\\", "", line) for line in record.splitlines() if line.startswith("## (")]
    assert [title[3:6] for title in titles] == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)", "(g)"]
    assert [line[3:6] for line in annex.splitlines() if line.startswith("## (")] == ["(a)", "(b)", "(c)", "(d)"]
    figures = table(annex, "Camera") if len(tables(annex)) == 1 else {}
    (counts,) = [each for each in tables(annex) if each[0][:2] == ["Camera", "Frames"]]
    figures = {row[0]: row[1:] for row in counts[1:]}
    assert figures == {
        "north": ["10", "9", "0", "0", "1", "1", "0"],
        "attic": ["3", "0", "3", "0", "0", "0", "0"],
        "(no camera)": ["1", "0", "0", "1", "0", "0", "0"],
        "all": ["14", "9", "3", "1", "1", "1", "0"],
    }
    (applied,) = [each for each in tables(annex) if each[0][:2] == ["Camera", "Policy that applies"]]
    assert applied[1:] == [
        ["attic", "none: fully masked", "-"],
        ["north", "north", "-"],
        ["south-1", "south-*", "suspended: leaks"],
    ]
    assert ["north", "face", "2"] in next(each for each in tables(annex) if each[0][0:2] == ["Camera", "Seen unmasked"])
    assert table(record, "Topic")["frames.anonymized"][1:] == ["1 days", "1 days"]
    assert "policy south-\\*: states 1 h; the broker keeps 1 days" in record
    assert table(record, "Key")["Acme | Traffic"][1].startswith("vendor: cameras:read")
    assert "undecodable: 6" in annex
    assert "policy north: targets.licence_plate.mask" in annex
    assert table(record, "Detector")["centerface"][2].startswith("09189deaaf86") if "| Detector" in record else True
    assert ["mtcnn", "the second look"] in [row[:2] for row in next(e for e in tables(annex) if e[0][0] == "Detector")]
