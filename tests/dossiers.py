"""What a small pipeline leaves on a broker and in a database, and how to read the dossier that is made of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from markdown_it import MarkdownIt

from sfumato.agents import policies
from sfumato.agents.access.keys import Keys
from sfumato.agents.database import Database
from sfumato.agents.dossier.facts import Facts
from sfumato.agents.dossier.write import write
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.controller import Controller
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
"""Of what is published."""
DAY = timedelta(days=1)
SIGNER = Signer("city.example/ledger", Ed25519PrivateKey.generate())
HOSTILE = "Traffic <script>alert(1)</script> | **bold** [x](javascript:alert(1)) <img src=x onerror=alert(1)> &amp; `x`"


def soon() -> datetime:
    """After whatever is on Kafka by now, whose broker says when it came."""
    return datetime.now(UTC) + timedelta(minutes=1)


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


def populate(topics: Settings) -> Settings:
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
    within = False
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open", "th_close", "td_close"):
            within = token.type.endswith("open")
        elif token.type == "inline" and within:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def table(markdown: str, *columns: str) -> dict[str, list[str]]:
    """The rows, by their first cell, of the one table whose first columns are called so."""
    (rows,) = [each for each in tables(markdown) if each[0][: len(columns)] == [*columns]]
    return {row[0]: row[1:] for row in rows[1:]}


def listed(markdown: str, title: str) -> list[str]:
    """What is listed under this title at the top, as a reader sees it."""
    part = re.search(rf"## {title}: (\d+)\n\n(.*?)\n\n", markdown, re.DOTALL)
    assert part is not None
    items = re.findall(r"^- (.*)$", part[2], re.MULTILINE)
    assert len(items) == int(part[1])
    return [item.replace("\\", "") for item in items]


def made(facts: Facts, folder: Path, controller: Controller | None = None) -> tuple[str, str]:
    """The Markdown of the record and of the annex."""
    write(facts, controller or Controller(), folder)
    return (folder / "record.md").read_text(), (folder / "assessment.md").read_text()


def letters(markdown: str) -> list[str]:
    return re.findall(r"^## \(([a-g])\)", markdown, re.MULTILINE)
