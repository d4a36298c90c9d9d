"""The one path to raw frames, on a real broker, and the worker that takes it: what it opens, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from sqlalchemy.exc import OperationalError

from sfumato.agents import metrics
from sfumato.agents.footage import stores
from sfumato.agents.footage.reveal import FootageGoneError, Window
from sfumato.agents.footage.sealing import Sealer
from sfumato.agents.footage.stores import KeyStoreError
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.clerk import Clerk, Keeping
from sfumato.agents.subjects.requests import ATTEMPTS, Claim
from sfumato.models.ensemble import Ensemble
from sfumato.models.subject import SubjectError
from sfumato.models.task import NoPolicy
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.subject_request import READ_AFTER, READ_BEFORE, SubjectState
from sfumato.schemas.topics import FRAMES_RAW
from tests.ingesting import read_topic
from tests.masking import policy
from tests.requesting import ASKS, Office, clip, office

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACES = policy(face={})


def frame(camera: str, second: int) -> RawFrame:
    at = NOON + timedelta(seconds=second)
    return RawFrame(FrameId(camera, 1, second), at, TimeSource.CAMERA, 64, 36, "image/jpeg", b"picture %d" % second)


@pytest.fixture
def sent(topics: Settings) -> dict[FrameId, Origin]:
    """A frame a second of two cameras, written much faster than they were taken; where each lies. One lies there twice,
    another is not as it was sealed."""
    sealer, producer = Sealer(stores.make(topics)), Producer(topics, client_id="test")
    errors: list[object] = []
    for second in range(120):
        for camera in ("north", "south"):
            sealed = sealer.seal(frame(camera, second))
            if second == 62:
                sealed = replace(sealed, payload=sealed.payload[:-1] + bytes([sealed.payload[-1] ^ 1]))
            for _ in range(2 if second == 61 else 1):
                producer.send(FRAMES_RAW, sealed.to_message(), errors.append)
    assert producer.close(30) == 0
    assert set(errors) == {None}
    found = {}
    for message in read_topic(topics, FRAMES_RAW):
        read = RawFrame.from_message(message.key(), message.value(), message.headers())
        origin = Origin(topic=message.topic(), partition=message.partition(), offset=message.offset())
        found.setdefault(read.id, origin)
    return found


def window(settings: Settings, sent: dict[FrameId, Origin], second: int = 60, **changes: Any) -> Window:
    id = FrameId("north", 1, second)
    asked = {
        "frame": id,
        "origin": sent[id],
        "since": NOON + timedelta(seconds=58),
        "until": NOON + timedelta(seconds=64),
    }
    return Window(settings, **{**asked, **changes})


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_it_opens_the_cameras_frames_of_the_window_each_once_with_those_around_it(topics, sent):
    with window(topics, sent) as opened:
        for _ in range(2):  # two passes see the same
            tasks = list(opened.tasks(FACES))
            seconds = [task.frame.id.sequence for task in tasks]
            assert seconds == sorted(set(seconds))
            assert {task.frame.id.camera for task in tasks} == {"north"}
            assert seconds[0] <= 58 - READ_BEFORE / 2
            assert seconds[-1] == 64 + READ_AFTER
            broken = next(task for task in tasks if task.frame.id.sequence == 62)
            assert (broken.reason, broken.image) == (Reason.SEAL_BROKEN, None)
            others = [task for task in tasks if task is not broken]
            assert all(task.frame.payload == b"picture %d" % task.frame.id.sequence for task in others)
            assert all(task.outcome is None for task in others)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_is_gone_is_said_to_be_with_the_date(topics, sent, monkeypatch):
    other = sent[FrameId("north", 1, 59)]
    with pytest.raises(FootageGoneError, match="keeps them 10 minutes"):
        window(topics, sent, origin=other)  # another frame lies there now
    monkeypatch.setattr("sfumato.agents.footage.reveal.TIMEOUT", 3.0)
    with pytest.raises(FootageGoneError, match="keeps them"):
        window(topics, sent, origin=other.model_copy(update={"offset": 10**6}))
    stores.make(topics).shred("north", NOON + timedelta(hours=2))
    with pytest.raises(FootageGoneError, match="shredded at") as gone:
        window(topics, sent)
    assert datetime.now(UTC) - gone.value.at < timedelta(minutes=5)


@pytest.fixture
def desk(tmp_path) -> Iterator[Office]:
    with office(tmp_path) as made:
        yield made


def clerk(desk: Office, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> Clerk:
    """Whose film fails so."""
    settings = Settings(state_dir=desk.settings.state_dir)
    made = Clerk(settings, desk.requests, desk.uploads, Ensemble([]), lambda *_: NoPolicy(Reason.SUSPENDED))

    def fails(*_: object) -> None:
        assert error is not None
        raise error

    if error is not None:
        monkeypatch.setattr(made, "_film", fails)
    return made


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (None, "failed", "camera: no policy gives the right to look (suspended)"),
        (SubjectError("box: nobody"), "failed", "box: nobody"),
        (FootageGoneError("the footage was shredded", NOON), "gone", "the footage was shredded"),
        (ZeroDivisionError("pixels"), "failed", "failed: ZeroDivisionError; see the log of sfumato reveal"),
    ],
)
def test_a_clip_that_cannot_be_made_ends_the_request(desk, monkeypatch, error, state, said):
    request = desk.approved()
    before = metrics.REVEALED.labels(state)._value.get()
    assert clerk(desk, monkeypatch, error).step()
    assert metrics.REVEALED.labels(state)._value.get() == before + 1
    ended = desk.requests.get(request.id)
    assert (ended.state, ended.error, desk.listener.heard[-1].note) == (state, said, said)
    assert ended.clip is None


@pytest.mark.parametrize(
    "error", [KafkaException(KafkaError(KafkaError._TRANSPORT)), KeyStoreError("away"), TimeoutError(), OSError()]
)
def test_what_may_mend_itself_is_tried_again(desk, monkeypatch, error):
    request = desk.approved()
    worker = clerk(desk, monkeypatch, error)
    before = metrics.REVEALED.labels("put_off")._value.get()
    assert worker.step()
    assert not worker.step()
    assert metrics.REVEALED.labels("put_off")._value.get() == before + 1
    assert desk.requests.get(request.id).state is SubjectState.APPROVED
    assert desk.listener.acts == ["requested", "approved", "approved"]


def test_a_worker_that_ends_costs_no_attempt_and_leaves_the_request_to_others(desk, monkeypatch):
    request = desk.approved()
    for _ in range(ATTEMPTS + 1):
        worker = clerk(desk, monkeypatch)

        def film(claim: Claim, worker: Clerk = worker) -> None:
            worker.stopping.set()
            Keeping(worker, claim).tick()

        monkeypatch.setattr(worker, "_film", film)
        assert worker.step()
        desk.set(request, leased_until=NOON)
    assert desk.requests.claim("other").attempt == 1


def test_an_outage_of_the_database_costs_no_attempt(desk, monkeypatch):
    request, gone = desk.approved(), OperationalError("SELECT", {}, Exception("no answer"))
    worker = clerk(desk, monkeypatch)

    def fails(*_: object) -> None:
        raise gone

    for _ in range(ATTEMPTS + 1):
        with monkeypatch.context() as away:

            def film(_: Claim, away: pytest.MonkeyPatch = away) -> None:
                away.setattr(desk.database, "begin", fails)
                raise gone

            away.setattr(worker, "_film", film)
            for _ in range(2):  # the release is not answered either, nor the next look
                with pytest.raises(OperationalError):
                    worker.step()
        assert not worker.step()  # released: nobody begins for a while
        desk.set(request, leased_until=NOON)
    assert desk.requests.claim("other").attempt == 1


@pytest.mark.parametrize("arrived", [True, False])
def test_a_clip_stays_where_it_is_not_known_whether_it_is_ready(desk, monkeypatch, arrived):
    request = desk.approved()
    worker = clerk(desk, monkeypatch)
    monkeypatch.setattr(worker, "_film", lambda claim: (b"film" * 1000, clip(claim.request)))
    monkeypatch.setattr(desk.uploads, "complete", lambda _: "video/mp4")  # which looks whether it is a film
    made = desk.requests.made

    def lost(*given: Any) -> None:
        if arrived:
            made(*given)
        raise OperationalError("COMMIT", {}, Exception("no answer"))

    monkeypatch.setattr(desk.requests, "made", lost)
    assert worker.step()
    if arrived:
        _, upload = desk.requests.clip(request.id, ASKS)
        assert desk.uploads.get(upload).offset == 4000
        return
    monkeypatch.undo()
    desk.set(request, leased_until=NOON)
    assert clerk(desk, monkeypatch, SubjectError("box: nobody")).step()
    assert not list(desk.blobs.list("uploads"))


def test_what_a_dead_worker_left_is_deleted(desk, monkeypatch):
    request = desk.approved()
    left = desk.film(desk.requests.claim("dead"))
    desk.set(request, leased_until=NOON)
    clerk(desk, monkeypatch, SubjectError("box: nobody")).step()
    assert [blob.name for blob in desk.blobs.list(f"uploads/{left}")] == []
