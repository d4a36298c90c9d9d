"""Four eyes and more: who may do what to a subject request and when; each act is told before it happens, and what a
worker leaves half done is done again or deleted. On SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from sfumato.agents.files.uploads import NoUploadError
from sfumato.agents.subjects.disclosures import UntoldError, about, identity
from sfumato.agents.subjects.picking import PickError, held
from sfumato.agents.subjects.requests import (
    ATTEMPTS,
    KEPT_DAYS,
    ForbiddenError,
    GoneError,
    LostError,
    NoRequestError,
    Person,
    RequestStateError,
)
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.disclosure import Act, Disclosure
from sfumato.schemas.subject_request import Point, SubjectState
from tests.masking import found
from tests.requesting import ASKS, FIRST, SECOND, THIRD, Office, clip, draft, office

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def desk(tmp_path, database_url) -> Iterator[Office]:
    with office(tmp_path, database_url=database_url) as made:
        yield made


def test_two_others_approve_and_the_clip_is_made(desk):
    request = desk.create()
    assert (request.state, request.needed) == ("pending", 2)
    assert desk.decide(request, FIRST).state is SubjectState.PENDING
    assert desk.requests.claim("worker") is None
    done = desk.decide(request, SECOND)
    assert (done.state, [a.by for a in done.approvals]) == ("approved", [FIRST.id, SECOND.id])
    with pytest.raises(RequestStateError, match="no approval"):
        desk.decide(request, THIRD)
    desk.make(desk.requests.claim("worker"))
    ready = desk.requests.get(request.id)
    assert (ready.state, ready.clip.frames) == ("ready", 9)
    assert desk.requests.claim("worker") is None
    assert desk.listener.acts == ["requested", "approved", "approved", "made"]


@pytest.mark.parametrize(
    "person",
    [ASKS, Person("key:x", made_by=ASKS.id), Person("key:admin")],
    ids=["requester", "their key", "who made their key"],
)
def test_who_asks_never_decides_in_no_guise(desk, person):
    request = desk.create()
    for verdict in ("approve", "refuse"):
        with pytest.raises(ForbiddenError):
            desk.decide(request, person, verdict)
    assert desk.listener.acts == ["requested"]
    assert desk.requests.get(request.id).approvals == ()


def test_each_decides_once_and_not_by_two_keys(desk):
    request = desk.create()
    desk.decide(request, FIRST)
    with pytest.raises(RequestStateError, match="already"):
        desk.decide(request, FIRST)
    with pytest.raises(ForbiddenError, match="made your key"):
        desk.decide(request, Person("key:x", made_by=FIRST.id))
    assert desk.requests.get(request.id).state is SubjectState.PENDING


def test_one_refusal_ends_it(desk):
    request = desk.create()
    desk.decide(request, FIRST)
    assert desk.decide(request, SECOND, "refuse").state is SubjectState.REFUSED
    with pytest.raises(RequestStateError):
        desk.decide(request, THIRD)
    assert desk.requests.claim("worker") is None
    assert desk.listener.acts == ["requested", "approved", "refused"]


def test_each_act_is_told_before_it_happens_and_not_done_where_it_is_not_told(desk):
    states = []

    def hold(disclosure: Disclosure) -> None:
        try:
            request = desk.requests.get(disclosure.request)
        except NoRequestError:
            states.append((disclosure.act.value, None, 0))
        else:
            states.append((disclosure.act.value, request.state.value, len(request.approvals)))

    desk.listener.hold = hold
    request = desk.approved()
    desk.make(desk.requests.claim("worker"))
    desk.requests.deliver(request.id, ASKS, "0-1/2")
    desk.requests.withdraw(request.id, ASKS)
    assert states == [
        ("requested", None, 0),
        ("approved", "pending", 0),
        ("approved", "pending", 1),
        ("made", "approved", 2),
        ("delivered", "ready", 2),
        ("withdrawn", "ready", 2),
    ]
    desk.listener.deaf = True
    with pytest.raises(UntoldError):
        desk.create()
    assert len(desk.requests.page(10, None, lambda camera: True)[0]) == 1
    desk.listener.deaf = False
    other = desk.create()
    desk.listener.deaf = True
    for act in (lambda: desk.decide(other, FIRST), lambda: desk.requests.withdraw(other.id, ASKS)):
        with pytest.raises(UntoldError):
            act()
    assert desk.requests.get(other.id).model_dump() == other.model_dump()


def test_what_is_told_names_all_and_reads_back(desk):
    request = desk.approved()
    desk.make(desk.requests.claim("worker"))
    desk.requests.deliver(request.id, ASKS, "0-99/4000")
    for disclosure in desk.listener.heard:
        key, value, headers = disclosure.to_message()
        assert Disclosure.from_message(key, value) == disclosure
        event = CloudEvent.from_headers(headers)
        assert (event.id, event.type, event.extensions) == (
            disclosure.id,
            "sfumato.disclosure.v1",
            {"camera": "north"},
        )
    assert len({disclosure.id for disclosure in desk.listener.heard}) == 5
    told = desk.listener.heard[-1]
    assert (told.by, told.case, told.reason, told.range) == (ASKS.id, "2026/17", request.reason, "0-99/4000")
    assert (told.sha256, told.frames, told.shown, told.box) == ("1" * 64, 9, 8, (10, 10, 50, 90))
    assert desk.listener.heard[1].note == "looked at it"
    with pytest.raises(EnvelopeError, match="key"):
        Disclosure.from_message(b"other", value)


def test_an_act_that_happens_once_is_the_same_message_when_told_again():
    assert identity("r", Act.EXPIRED) == identity("r", Act.EXPIRED) == "r/expired"
    assert identity("r", Act.DELIVERED) != identity("r", Act.DELIVERED)


def test_another_clip_is_another_message(desk):
    """The ledger keeps the first of an id: it would hold the hash of a clip that nobody ever got."""
    request = desk.approved()
    first = desk.requests.claim("worker")
    made = [clip(first.request), clip(first.request).model_copy(update={"sha256": "2" * 64})]
    told = [about(request, Act.MADE, "worker", clip=each).id for each in (*made, made[0])]
    assert told == [f"{request.id}/made/{digit * 16}" for digit in "121"]


def test_only_the_requester_fetches_and_withdraws(desk):
    request = desk.approved()
    with pytest.raises(RequestStateError, match="no clip"):
        desk.requests.clip(request.id, ASKS)
    upload = desk.make(desk.requests.claim("worker"))
    for act in (
        lambda: desk.requests.deliver(request.id, FIRST, ""),
        lambda: desk.requests.withdraw(request.id, FIRST),
    ):
        with pytest.raises(ForbiddenError):
            act()
    assert desk.requests.clip(request.id, ASKS)[1] == upload
    desk.requests.withdraw(request.id, ASKS)
    with pytest.raises(NoUploadError):
        desk.uploads.get(upload)
    with pytest.raises(RequestStateError, match="withdrawn"):
        desk.requests.deliver(request.id, ASKS, "")
    with pytest.raises(RequestStateError, match="has ended"):
        desk.requests.withdraw(request.id, ASKS)
    assert "delivered" not in desk.listener.acts


def test_the_clips_key_goes_with_the_request_that_ends(desk, monkeypatch):
    """A process that is killed right after leaves noise, which the sweep deletes."""
    request = desk.approved()
    upload = desk.make(desk.requests.claim("worker"))
    desk.uploads.keep(upload, request.expires_at)
    monkeypatch.setattr(desk.uploads, "delete", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.requests.withdraw(request.id, ASKS)
    with pytest.raises(NoUploadError):
        desk.uploads.get(upload)
    desk.uploads.sweep()
    assert not list(desk.blobs.list(f"uploads/{upload}"))


def test_after_its_time_nothing_is_approved_made_or_fetched_and_the_clip_goes(desk):
    waiting, ready = desk.create(), desk.approved()
    upload = desk.make(desk.requests.claim("worker"))
    approved = desk.approved()
    for request in (waiting, ready, approved):
        desk.set(request, expires_at=LONG_AGO)
        assert desk.requests.get(request.id).state is SubjectState.EXPIRED
        assert desk.requests.get(request.id).clip is None
    with pytest.raises(RequestStateError, match="expired"):
        desk.decide(waiting, FIRST)
    with pytest.raises(GoneError, match="deleted") as gone:
        desk.requests.clip(ready.id, ASKS)
    assert gone.value.at == LONG_AGO
    assert desk.requests.claim("worker") is None
    desk.requests.expire()
    desk.requests.expire()
    assert desk.listener.acts.count("expired") == 3
    desk.set(waiting, ended_at=LONG_AGO - timedelta(days=KEPT_DAYS))
    desk.requests.expire()
    assert {r.id for r in desk.requests.page(9, None, lambda camera: True)[0]} == {ready.id, approved.id}
    with pytest.raises(NoUploadError):
        desk.uploads.get(upload)


def test_a_worker_that_is_killed_is_followed_by_another_and_its_work_counts_for_nothing(desk):
    request = desk.approved()
    dead = desk.requests.claim("dead")
    left = desk.film(dead)
    assert desk.requests.claim("other") is None
    desk.set(request, leased_until=LONG_AGO)
    other = desk.requests.claim("other")
    assert (other.request.id, other.upload, other.attempt) == (request.id, left, 2)
    for act in (
        lambda: desk.requests.renew(dead),
        lambda: desk.requests.adopt(dead, None),
        lambda: desk.make(dead),
        lambda: desk.requests.fail(dead, "late"),
        lambda: desk.requests.release(dead),
    ):
        with pytest.raises(LostError):
            act()
    assert desk.requests.get(request.id).state is SubjectState.APPROVED
    desk.make(other)
    assert desk.requests.get(request.id).state is SubjectState.READY


def test_a_request_at_which_workers_die_fails(desk):
    request = desk.approved()
    for _ in range(ATTEMPTS):
        assert desk.requests.claim("worker") is not None
        desk.set(request, leased_until=LONG_AGO)
    assert desk.requests.claim("worker") is None
    ended = desk.requests.get(request.id)
    assert (ended.state, ended.error) == ("failed", "it was begun 3 times and never finished")
    assert desk.listener.heard[-1].note == ended.error


def test_what_was_away_costs_no_attempt(desk):
    request = desk.approved()
    for _ in range(ATTEMPTS + 1):
        claim = desk.requests.claim("worker")
        assert claim.attempt == 1
        desk.requests.release(claim)
        assert desk.requests.claim("worker") is None
        desk.set(request, leased_until=LONG_AGO)


def test_footage_that_is_gone_ends_the_request_with_the_date(desk):
    request = desk.approved()
    desk.requests.fail(desk.requests.claim("worker"), "the footage was shredded at noon", LONG_AGO)
    ended = desk.requests.get(request.id)
    assert (ended.state, ended.gone_at) == ("gone", LONG_AGO)
    with pytest.raises(GoneError, match="shredded at noon"):
        desk.requests.clip(request.id, ASKS)
    assert desk.listener.acts[-1] == "gone"


def test_pages_hold_the_cameras_one_may_see_newest_first(desk):
    made = [desk.create(camera=camera) for camera in ("north", "south", "north", "north")]
    first, more = desk.requests.page(2, None, lambda camera: camera == "north")
    assert ([r.id for r in first], more) == ([made[3].id, made[2].id], True)
    rest, more = desk.requests.page(2, (first[-1].created_at, first[-1].id), lambda camera: camera == "north")
    assert ([r.id for r in rest], more) == ([made[0].id], False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"box": {"left": 1, "top": 1, "right": 9, "bottom": 9}}, "either a point or a box"),
        ({"point": None}, "either a point or a box"),
        ({"point": None, "box": {"left": 9, "top": 1, "right": 1, "bottom": 9}}, "box"),
        ({"point": None, "box": {"left": 0, "top": 1, "right": float("inf"), "bottom": 9}}, "box"),
        ({"since": datetime(2999, 1, 1, tzinfo=UTC)}, "since"),
        ({"reason": ""}, "reason"),
        ({"case": ""}, "case"),
    ],
)
def test_a_draft_that_says_too_little_or_too_much_is_refused(changes, field):
    with pytest.raises(ValidationError, match=field):
        draft(**changes)


def test_a_click_chooses_the_smallest_person_or_face_that_holds_it():
    body, face, plate = (
        found("person", 0, 0, 100, 200),
        found("face", 30, 10, 60, 50),
        found("licence_plate", 40, 20, 50, 30),
    )
    assert held((body, face, plate), Point(x=45, y=25)) == face
    assert held((body, face, plate), Point(x=10, y=190)) == body
    with pytest.raises(PickError, match="no face or person"):
        held((plate,), Point(x=45, y=25))
    with pytest.raises(PickError, match="on two people"):
        held((body, found("person", 50, 0, 200, 200)), Point(x=70, y=100))


def test_requests_are_counted_by_state(desk):
    desk.create()
    desk.approved()
    counted = desk.requests.counts()
    assert (counted[SubjectState.PENDING], counted[SubjectState.APPROVED], counted[SubjectState.GONE]) == (1, 1, 0)
    assert set(counted) == set(SubjectState)
