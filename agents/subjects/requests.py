"""Subject requests: asked for by one, approved by others, made by ``sfumato reveal``, fetched by who asked.

The rows are the truth, and each act is on the topic ``disclosures`` before its row changes
(:mod:`sfumato.agents.subjects.disclosures`): a crash between the two leaves something told that did not happen, never
something that happened and was not told. A clip is sealed as uploads are, under a key of its own; it belongs to a
request in the one transaction that makes it ready, and is deleted with it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from sfumato.agents.database import Database
from sfumato.agents.files.uploads import Uploads
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.disclosures import Disclosures, about
from sfumato.agents.subjects.rows import OPEN, ApprovalRow, RequestRow, view
from sfumato.schemas.anonymization import Rectangle
from sfumato.schemas.audit import Origin
from sfumato.schemas.detection import Target
from sfumato.schemas.disclosure import Act
from sfumato.schemas.subject_request import (
    ApprovalDraft,
    Clip,
    SubjectDraft,
    SubjectRequest,
    SubjectState,
    Verdict,
)

LEASE = 60.0
"""Seconds after which a worker that is not heard of has lost the request to another."""
PAUSE = 10.0
"""Seconds before another attempt where what it needs was away."""
ATTEMPTS = 3
"""How often a clip is begun before the request fails."""
KEPT_DAYS = 400
"""After a request has ended it can be read for so long, as its messages can."""
WORKER = "sfumato reveal"
"""Who makes clips and ends requests, as messages name it."""


class NoRequestError(LookupError):
    """There is none of this id that the caller may see."""


class RequestStateError(RuntimeError):
    """It cannot be done in the request's state; the text says what can."""


class ForbiddenError(RuntimeError):
    """This caller may not do it."""


class GoneError(RuntimeError):
    """The footage, or the clip, is no more; the text says since when and why."""

    def __init__(self, text: str, at: datetime) -> None:
        super().__init__(text)
        self.at = at


class LostError(RuntimeError):
    """The request is not the worker's any more."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts. ``made_by``: who made their key, and may know it; None: nobody that calls."""

    id: str
    made_by: str | None = None

    def could_be(self, other: Person) -> bool:
        """Whether both may be one person: the same caller, or one holds a key that the other made."""
        return self.id == other.id or self.made_by == other.id or other.made_by == self.id


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and where its frame lies on ``frames.raw``, until about when."""

    target: Target | None
    box: Rectangle
    origin: Origin
    footage_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A request whose clip is to be made. ``upload``: what an attempt before this one left."""

    request: SubjectRequest
    origin: Origin
    attempt: int
    worker: str
    upload: str | None


class Requests:
    """Thread-safe; for several processes at once."""

    def __init__(self, settings: Settings, database: Database, uploads: Uploads, disclosures: Disclosures) -> None:
        self._settings = settings
        self._database = database
        self._uploads = uploads
        self._disclosures = disclosures

    def create(self, draft: SubjectDraft, person: Person, choice: Choice) -> SubjectRequest:
        """Raises UntoldError."""
        now = datetime.now(UTC)
        row = RequestRow(
            id=secrets.token_hex(16),
            requester=person.id,
            made_by=person.made_by,
            camera=draft.camera,
            state=SubjectState.PENDING,
            version=1,
            draft=draft.model_dump(mode="json"),
            target=choice.target,
            box=choice.box.model_dump(mode="json"),
            origin=choice.origin.model_dump(mode="json"),
            needed=self._settings.subject_approvals,
            created_at=now,
            expires_at=now + timedelta(hours=self._settings.subject_hours),
            attempts=0,
            footage_until=choice.footage_until,
        )
        made = view(row, ())
        self._disclosures.tell(about(made, Act.REQUESTED, person.id))
        with self._database.begin() as session:
            session.add(row)
        return made

    def get(self, id: str) -> SubjectRequest:
        """Raises :class:`NoRequestError`."""
        with self._database.read() as session:
            return _seen(session, _find(session, id))

    def page(self, limit: int, before: tuple[datetime, str] | None, cameras: Any) -> tuple[list[SubjectRequest], bool]:
        """Requests, newest first, of cameras for which ``cameras`` says yes, and whether there are more. ``before``:
        only those created before this moment and id."""
        wanted = select(RequestRow)
        if before is not None:
            at, id = before
            wanted = wanted.where((RequestRow.created_at < at) | ((RequestRow.created_at == at) & (RequestRow.id < id)))
        wanted = wanted.order_by(RequestRow.created_at.desc(), RequestRow.id.desc())
        found: list[SubjectRequest] = []
        with self._database.read() as session:
            for row in session.scalars(wanted.execution_options(yield_per=200)):
                if cameras(row.camera):
                    if len(found) == limit:
                        return found, True
                    found.append(_seen(session, row))
        return found, False

    def decide(self, id: str, person: Person, draft: ApprovalDraft) -> SubjectRequest:
        """Approve or refuse. One refusal ends it. Raises :class:`NoRequestError`, :class:`RequestStateError`,
        :class:`ForbiddenError`, UntoldError."""
        with self._database.read() as session:
            row = _find(session, id)
            _permit(row, _approvals(session, id), person)
            shown = _seen(session, row)
        approved = draft.verdict is Verdict.APPROVE
        self._disclosures.tell(about(shown, Act.APPROVED if approved else Act.REFUSED, person.id, note=draft.note))
        with self._database.begin() as session:
            row, now = _find(session, id, lock=True), datetime.now(UTC)
            given = _approvals(session, id)
            _permit(row, given, person)  # it may have changed while Kafka was told
            session.add(
                ApprovalRow(
                    request=id,
                    caller=person.id,
                    number=len(given),
                    made_by=person.made_by,
                    verdict=draft.verdict,
                    note=draft.note,
                    at=now,
                )
            )
            row.version += 1
            if not approved:
                _end(row, SubjectState.REFUSED, now)
            elif len(given) + 1 >= row.needed:
                row.state = SubjectState.APPROVED
            session.flush()
            return _seen(session, row)

    def withdraw(self, id: str, person: Person) -> None:
        """End it, and delete its clip. Raises :class:`NoRequestError`, :class:`RequestStateError`,
        :class:`ForbiddenError`, UntoldError."""
        shown = self.get(id)
        if shown.requested_by != person.id:
            raise ForbiddenError("only who asked for it may withdraw it; POST …/approvals refuses it")
        if shown.state.ended:
            raise RequestStateError(f"it has ended: {shown.state}")
        self._disclosures.tell(about(shown, Act.WITHDRAWN, person.id))
        self._close(id, SubjectState.WITHDRAWN)

    def deliver(self, id: str, person: Person, asked: str) -> tuple[Clip, str]:
        """The clip, and the upload that holds it; the delivery is told before. ``asked``: which bytes. Raises
        :class:`NoRequestError`, :class:`RequestStateError`, :class:`ForbiddenError`, :class:`GoneError`,
        UntoldError."""
        clip, upload = self.clip(id, person)
        self._disclosures.tell(about(self.get(id), Act.DELIVERED, person.id, clip=clip, range=asked))
        return clip, upload

    def clip(self, id: str, person: Person) -> tuple[Clip, str]:
        """As :meth:`deliver`, without delivering."""
        with self._database.read() as session:
            row = _find(session, id)
            shown = _seen(session, row)
        if shown.requested_by != person.id:
            raise ForbiddenError("only who asked for it may fetch it")
        if shown.state is SubjectState.GONE and shown.gone_at is not None:
            raise GoneError(shown.error or "the footage is gone", shown.gone_at)
        if shown.state is SubjectState.EXPIRED:
            raise GoneError(f"the clip was deleted; the request expired at {shown.expires_at}", shown.expires_at)
        if shown.clip is None or row.upload is None:
            raise RequestStateError(f"there is no clip: the request is {shown.state}")
        return shown.clip, row.upload

    # what workers do

    def claim(self, worker: str) -> Claim | None:
        """The next request whose clip is to be made, for :data:`LEASE`; None: there is none."""
        while True:
            now = datetime.now(UTC)
            free = or_(RequestRow.leased_until.is_(None), RequestRow.leased_until < now)
            due = select(RequestRow).where(RequestRow.state == SubjectState.APPROVED, RequestRow.expires_at > now, free)
            with self._database.begin() as session:
                row = session.scalar(due.order_by(RequestRow.created_at).limit(1).with_for_update(skip_locked=True))
                if row is None:
                    return None
                if row.attempts < ATTEMPTS:
                    row.attempts += 1
                    row.worker, row.leased_until = worker, now + timedelta(seconds=LEASE)
                    origin = Origin.model_validate(row.origin)
                    return Claim(_seen(session, row), origin, row.attempts, worker, row.upload)
                shown = _seen(session, row)
            self._fail(shown, f"it was begun {ATTEMPTS} times and never finished")

    def renew(self, claim: Claim) -> None:
        """Raises :class:`LostError`."""
        with self._database.begin() as session:
            _held(session, claim).leased_until = datetime.now(UTC) + timedelta(seconds=LEASE)

    def release(self, claim: Claim) -> None:
        """The attempt does not count: what it needs is away. Somebody tries again after a while."""
        with self._database.begin() as session:
            row = _held(session, claim)
            row.attempts -= 1
            row.worker, row.leased_until = None, datetime.now(UTC) + timedelta(seconds=PAUSE)

    def adopt(self, claim: Claim, upload: str | None) -> None:
        """What this attempt makes, so that nothing of it stays should it die. Raises :class:`LostError`."""
        with self._database.begin() as session:
            _held(session, claim).upload = upload

    def made(self, claim: Claim, clip: Clip) -> None:
        """The clip is whole. Raises :class:`LostError`, UntoldError."""
        with self._database.read() as session:
            shown = _seen(session, _held(session, claim, lock=False))
        self._disclosures.tell(about(shown, Act.MADE, WORKER, clip=clip))
        with self._database.begin() as session:
            row = _held(session, claim)
            row.state, row.clip, row.leased_until, row.worker = (
                SubjectState.READY,
                clip.model_dump(mode="json"),
                None,
                None,
            )
            row.version += 1

    def fail(self, claim: Claim, error: str, gone_at: datetime | None = None) -> None:
        """There will be no clip. ``gone_at``: since when the footage is no more. Raises :class:`LostError`,
        UntoldError."""
        with self._database.read() as session:
            shown = _seen(session, _held(session, claim, lock=False))
        self._fail(shown, error, gone_at)

    def counts(self) -> dict[SubjectState, int]:
        """Requests that are not forgotten, by state; what is over its time counts as it was until it is ended."""
        with self._database.read() as session:
            found = session.execute(select(RequestRow.state, func.count()).group_by(RequestRow.state))
            counted = {SubjectState(state): number for state, number in found}
        return {state: counted.get(state, 0) for state in SubjectState}

    def expire(self) -> None:
        """End what is over its time, and delete its clips; forget what ended long ago. Raises UntoldError."""
        wanted = select(RequestRow.id).where(RequestRow.state.in_(OPEN), RequestRow.expires_at <= datetime.now(UTC))
        with self._database.read() as session:
            ids = list(session.scalars(wanted))
        for id in ids:
            self._disclosures.tell(about(self.get(id), Act.EXPIRED, WORKER))
            self._close(id, SubjectState.EXPIRED)
        with self._database.begin() as session:
            old = RequestRow.ended_at < datetime.now(UTC) - timedelta(days=KEPT_DAYS)
            session.execute(delete(RequestRow).where(old))

    def _fail(self, shown: SubjectRequest, error: str, gone_at: datetime | None = None) -> None:
        state = SubjectState.FAILED if gone_at is None else SubjectState.GONE
        self._disclosures.tell(about(shown, Act.FAILED if gone_at is None else Act.GONE, WORKER, note=error))
        self._close(shown.id, state, error[:500], gone_at)

    def _close(self, id: str, state: SubjectState, error: str | None = None, gone_at: datetime | None = None) -> None:
        """The end of a request that has not ended otherwise meanwhile; its clip's key goes with it."""
        with self._database.begin() as session:
            row = _find(session, id, lock=True)
            if row.state not in OPEN:
                return
            upload, row.upload, row.clip = row.upload, None, None
            if upload is not None:
                self._uploads.forget(session, upload)
            row.error, row.gone_at = error, gone_at
            row.version += 1
            _end(row, state, datetime.now(UTC))
        if upload is not None:
            self._uploads.delete(upload)


def _permit(row: RequestRow, given: list[ApprovalRow], person: Person) -> None:
    """Whether this person may decide about it now."""
    if view(row, ()).state is not SubjectState.PENDING:
        raise RequestStateError(f"it waits for no approval: it is {view(row, ()).state}")
    if person.could_be(Person(row.requester, row.made_by)):
        raise ForbiddenError("who asks does not decide, nor does a key that they made, or that made theirs")
    if any(approval.caller == person.id for approval in given):
        raise RequestStateError("you have decided about it already; somebody else has to")
    if any(person.could_be(Person(approval.caller, approval.made_by)) for approval in given):
        raise ForbiddenError("whoever has decided made your key, or you theirs; somebody else has to decide")


def _find(session: Session, id: str, *, lock: bool = False) -> RequestRow:
    row = session.get(RequestRow, id, with_for_update=lock, populate_existing=lock)
    if row is None:
        raise NoRequestError("no such request; GET /v1/subject-requests lists them")
    return row


def _held(session: Session, claim: Claim, *, lock: bool = True) -> RequestRow:
    row = session.get(RequestRow, claim.request.id, with_for_update=lock, populate_existing=lock)
    if row is None or (row.state, row.worker, row.attempts) != (SubjectState.APPROVED, claim.worker, claim.attempt):
        raise LostError("the request has ended, or another worker has taken it")
    return row


def _approvals(session: Session, id: str) -> list[ApprovalRow]:
    return list(session.scalars(select(ApprovalRow).where(ApprovalRow.request == id).order_by(ApprovalRow.number)))


def _seen(session: Session, row: RequestRow) -> SubjectRequest:
    return view(row, _approvals(session, row.id))


def _end(row: RequestRow, state: SubjectState, now: datetime) -> None:
    row.state, row.ended_at, row.leased_until, row.worker = state, now, None, None
