"""Subject requests without Kafka: a database, and a listener in place of the topic ``disclosures``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import Uploads, fill
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.disclosures import UntoldError
from sfumato.agents.subjects.requests import Choice, Claim, Person, Requests
from sfumato.agents.subjects.rows import RequestRow
from sfumato.schemas.anonymization import Rectangle
from sfumato.schemas.audit import Origin
from sfumato.schemas.detection import Target
from sfumato.schemas.disclosure import Disclosure
from sfumato.schemas.subject_request import ApprovalDraft, Clip, SubjectDraft, SubjectRequest, Verdict

ASKS, FIRST, SECOND, THIRD = (Person(f"key:{n}", "key:admin") for n in ("asks", "first", "second", "third"))
BOX = Rectangle(left=10, top=10, right=50, bottom=90)
CHOICE = Choice(Target.FACE, BOX, Origin(topic="frames.raw", partition=1, offset=7))


def draft(**changes: Any) -> SubjectDraft:
    at = datetime.now(UTC) - timedelta(seconds=60)
    fields = {
        "kind": "access",
        "camera": "north",
        "epoch": 1,
        "sequence": 5,
        "captured_at": at,
        "point": {"x": 20, "y": 20},
        "since": at - timedelta(seconds=5),
        "until": at + timedelta(seconds=5),
        "reason": "access under Article 15",
        "case": "2026/17",
        **changes,
    }
    return SubjectDraft.model_validate({name: value for name, value in fields.items() if value is not None})


class Listener:
    """Hears what is told. ``hold``: called before it is heard, to look at what has happened by then."""

    def __init__(self) -> None:
        self.heard: list[Disclosure] = []
        self.deaf = False
        self.hold: Callable[[Disclosure], None] = lambda disclosure: None

    def tell(self, disclosure: Disclosure) -> None:
        self.hold(disclosure)
        if self.deaf:
            raise UntoldError("nobody listens")
        self.heard.append(disclosure)

    @property
    def acts(self) -> list[str]:
        return [disclosure.act.value for disclosure in self.heard]


class Office:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.database.migrate()
        self.blobs = Blobs(settings)
        self.uploads = Uploads(settings, self.database, self.blobs, MasterKeys(settings))
        self.listener = Listener()
        self.requests = Requests(settings, self.database, self.uploads, self.listener)  # type: ignore[arg-type]

    def create(self, person: Person = ASKS, **changes: Any) -> SubjectRequest:
        return self.requests.create(draft(**changes), person, CHOICE)

    def decide(self, request: SubjectRequest, person: Person, verdict: str = "approve") -> SubjectRequest:
        return self.requests.decide(request.id, person, ApprovalDraft(verdict=Verdict(verdict), note="looked at it"))

    def approved(self) -> SubjectRequest:
        request = self.create()
        self.decide(request, FIRST)
        return self.decide(request, SECOND)

    def film(self, claim: Claim, data: bytes = b"film" * 1000) -> str:
        """Something sealed, as the clip of a claim."""
        upload = self.uploads.create(f"subject-request:{claim.request.id}", None).id
        self.requests.adopt(claim, upload)
        fill(self.uploads, upload, [data])
        return upload

    def make(self, claim: Claim) -> str:
        upload = self.film(claim)
        self.requests.made(claim, clip(claim.request))
        return upload

    def set(self, request: SubjectRequest, **values: Any) -> None:
        """Change the row behind everybody's back, as time does."""
        with self.database.begin() as session:
            session.execute(update(RequestRow).where(RequestRow.id == request.id).values(**values))


def clip(request: SubjectRequest) -> Clip:
    return Clip(
        href=f"/v1/subject-requests/{request.id}/content",
        content_type="video/mp4",
        bytes=4000,
        sha256="1" * 64,
        width=64,
        height=48,
        frames=9,
        shown=8,
        doubtful=1,
        grey=0,
        undecodable=0,
    )


@contextmanager
def office(folder: Path, **changes: Any) -> Iterator[Office]:
    made = Office(Settings(**{"state_dir": folder / "state", **changes}))
    yield made
    made.database.close()
