"""Records to endings: exactly one outcome each, and nothing raw comes out, whatever comes in."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.anonymize import Anonymizer, Ending, Record
from sfumato.models import ensemble, images
from sfumato.models.detectors import Threshold
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import NoPolicy, Task
from sfumato.models.tiles import TooManyViews
from sfumato.schemas.audit import Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.frame import RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from tests.test_images import encoded, png_header

POLICY = Policy.model_validate(
    {
        "camera": "north",
        "version": 3,
        "controller": "City",
        "purpose": "Test",
        "lawful_basis": "public_task",
        "dpia": "DPIA-1",
        "retention_hours": 1,
        "targets": {"face": {"mask": "solid", "threshold": 0.4, "dilation": 0}},
        "zones": [{"name": "door", "polygon": [[0.8, 0.8], [1, 0.8], [1, 1], [0.8, 1]]}],
    }
)


class Scripted:
    """A detector that sees one face in the upper left quarter, or does what the test tells it to."""

    name = DetectorName.CENTERFACE
    targets = frozenset({Target.FACE})
    threshold = Threshold(0.1)
    weights_sha256 = "c" * 64

    def __init__(self, behaviour=None):
        self.behaviour = behaviour

    def detect(self, images_, smallest=None):
        if self.behaviour is not None:
            return self.behaviour(images_)
        return [(face(0, 0, im.shape[1] / 2, im.shape[0] / 2),) for im in images_]


def face(*box, score=0.9):
    return Detection(target=Target.FACE, score=score, box=box)


def noise(seed=0, size=(96, 128)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def record(payload: bytes | None, content_type="image/jpeg", sequence=0, camera="north"):
    frame = RawFrame(
        FrameId(camera, 1, sequence), datetime.now(UTC), TimeSource.ARRIVAL, 128, 96, content_type, payload or b""
    )
    key, _, headers = frame.to_message()
    return Record(key, payload, headers, Origin(topic="frames.raw", partition=0, offset=sequence))


class Direct(Anonymizer):
    """Records in, their endings out, in the same order."""

    def end(self, records: list[Record]) -> list[Ending]:
        read = [self.read(record) for record in records]
        ended = dict(self.anonymize([task for task in read if isinstance(task, Task)]))
        ended |= dict(self.close_idle(-1))
        return [task if isinstance(task, Ending) else ended[task] for task in read]


def anonymizer(behaviour=None, policy=POLICY, **limits):
    return Direct(Engine(Ensemble([Scripted(behaviour)]), Limits(**limits)), lambda camera: policy)


def decode(output):
    return images.decode(output.payload, "image/jpeg", max_pixels=10**8)


def test_a_frame_is_masked_where_the_detector_and_the_zone_say():
    (ending,) = anonymizer().end([record(images.encode(noise(), 95))])
    audit, output = ending.audit, ending.output
    assert (audit.outcome, audit.reason, audit.policy_version) == (Outcome.MASKED, None, 3)
    assert audit.detectors[0].weights_sha256 == "c" * 64
    image = decode(output).astype(int)
    assert abs(image[4:44, 4:60] - 128).max() < 12  # the face
    assert abs(image[80:, 106:] - 128).max() < 12  # the zone
    assert image[50:76, 70:100].std() > 40  # the rest is as it was
    assert {stage for stage, ms in audit.timings_ms if ms > 0} == {
        "decode",
        "detect",
        "track",
        "wait",
        "mask",
        "encode",
    }


GARBAGE = [
    (b"", "image/jpeg", Outcome.DROPPED, Reason.EMPTY),
    (None, "image/jpeg", Outcome.DROPPED, Reason.EMPTY),
    (bytes(range(256)) * 20, "image/jpeg", Outcome.DROPPED, Reason.UNDECODABLE),
    (encoded("JPEG", size=(1, 1)), "image/jpeg", Outcome.FULLY_MASKED, Reason.TOO_SMALL),
    (images.encode(noise(), 95)[:-300], "image/jpeg", Outcome.DROPPED, Reason.UNDECODABLE),
    (png_header(20_000, 20_000), "image/png", Outcome.DROPPED, Reason.TOO_LARGE),
    (b"x", "text/plain", Outcome.DROPPED, Reason.UNSUPPORTED_CONTENT_TYPE),
]


@pytest.mark.parametrize(("payload", "content_type", "outcome", "reason"), GARBAGE)
def test_garbage_ends_as_one_audited_outcome(payload, content_type, outcome, reason):
    (ending,) = anonymizer().end([record(payload, content_type)])
    assert (ending.audit.outcome, ending.audit.reason) == (outcome, reason)
    assert (ending.output is None) == (outcome is Outcome.DROPPED)


def test_garbage_does_not_disturb_its_neighbours():
    good = images.encode(noise(), 95)
    records = [record(good, sequence=0)]
    records += [record(payload, kind, sequence=i + 1) for i, (payload, kind, *_) in enumerate(GARBAGE)]
    records.append(record(good, sequence=99))
    endings = anonymizer().end(records)
    assert [ending.audit.sequence for ending in endings] == [0, *range(1, len(GARBAGE) + 1), 99]
    assert endings[0].audit.outcome is endings[-1].audit.outcome is Outcome.MASKED


def test_an_unreadable_envelope_is_audited_by_its_place():
    broken = Record(b"north", b"RAW", [("ce_id", b"\xff")], Origin(topic="frames.raw", partition=3, offset=8))
    (ending,) = anonymizer().end([broken])
    assert ending.audit.id == "frames.raw/3/8"
    assert (ending.audit.outcome, ending.audit.reason) == (Outcome.DROPPED, Reason.INVALID_ENVELOPE)
    assert ending.output is None


def crash(images_):
    raise RuntimeError("CUDA out of memory")


def forget_one(images_):
    return [()] * (len(images_) - 1)


@pytest.mark.parametrize(
    ("behaviour", "policy", "limits", "reason"),
    [
        (None, NoPolicy(Reason.NO_POLICY), {}, Reason.NO_POLICY),
        (None, NoPolicy(Reason.INVALID_POLICY, "version: missing"), {}, Reason.INVALID_POLICY),
        (None, POLICY.model_copy(update={"targets": {Target.PERSON: POLICY.targets[Target.FACE]}}), {}, None),
        (crash, POLICY, {}, Reason.DETECTOR_ERROR),
        (forget_one, POLICY, {}, Reason.DETECTOR_ERROR),
        (lambda ims: [tuple(face(i % 60, 0, i % 60 + 9, 9) for i in range(501))], POLICY, {}, None),
        (lambda ims: [(face(0, 0, float("nan"), 9),)], POLICY, {}, Reason.MASK_ERROR),
        (lambda ims: [(face(140, 5, 150, 15),)], POLICY, {}, Reason.DETECTOR_ERROR),  # right of the picture
        (
            lambda ims: [
                (
                    face(5, 5, 15, 15),
                    face(5, -20, 15, -10),
                )
            ],
            POLICY,
            {},
            Reason.DETECTOR_ERROR,
        ),
        (None, POLICY, {"max_bytes": 100}, Reason.TOO_LARGE),
    ],
)
def test_whatever_fails_is_fully_masked(behaviour, policy, limits, reason):
    (ending,) = anonymizer(behaviour, policy, **limits).end([record(images.encode(noise(), 95))])
    assert ending.audit.outcome is Outcome.FULLY_MASKED
    expected = reason or (Reason.TOO_MANY_DETECTIONS if policy is POLICY else Reason.TARGET_UNAVAILABLE)
    assert ending.audit.reason is expected
    image = decode(ending.output)
    assert image.shape == (96, 128, 3)
    assert np.ptp(image) <= 1


def test_one_frame_that_breaks_the_detector_does_not_mask_its_batch():
    def behaviour(images_):
        if any(im.mean() > 200 for im in images_):
            raise ValueError("poison")
        return [() for _ in images_]

    frames = [noise(1), np.full_like(noise(), 250), noise(2)]
    records = [record(images.encode(image, 95), sequence=i) for i, image in enumerate(frames)]
    outcomes = [ending.audit.outcome for ending in anonymizer(behaviour).end(records)]
    assert outcomes == [Outcome.MASKED, Outcome.FULLY_MASKED, Outcome.MASKED]


def test_detections_below_the_policys_threshold_are_ignored():
    (ending,) = anonymizer(lambda ims: [(face(0, 0, 9, 9, score=0.39),)]).end([record(images.encode(noise(), 95))])
    assert ending.audit.detections == ()


def test_refusing_a_batch_needs_no_detector():
    refusing = anonymizer(crash)
    tasks = [refusing.read(record(payload)) for payload in (images.encode(noise(), 95), b"junk")]
    endings = refusing.refuse(tasks, Reason.DETECTOR_TIMEOUT)
    assert [(e.audit.outcome, e.audit.reason) for e in endings] == [
        (Outcome.FULLY_MASKED, Reason.DETECTOR_TIMEOUT),
        (Outcome.DROPPED, Reason.UNDECODABLE),
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_a_picture_ends_in_one_outcome_and_never_shows_the_input(data):
    payload = bytearray(images.encode(noise(size=(32, 48)), 90))
    for _ in range(data.draw(st.integers(1, 8))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    (ending,) = anonymizer().end([record(bytes(payload))])
    if ending.audit.outcome is Outcome.MASKED:
        image = decode(ending.output).astype(int)
        height, width = image.shape[:2]
        assert abs(image[2 : height // 2 - 8, 2 : width // 2 - 8] - 128).max(initial=0) < 16
    else:
        assert ending.audit.reason is not None


def test_codec_threads_keep_the_order():
    engine = Engine(Ensemble([Scripted()]), Limits(), threads=4)
    records = [record(images.encode(noise(i), 95), sequence=i) for i in range(24)]
    endings = Direct(engine, lambda camera: POLICY).end(records)
    assert [ending.audit.sequence for ending in endings] == list(range(24))
    assert len({ending.audit.output_sha256 for ending in endings}) == 24


def test_the_engine_is_not_the_place_where_a_timeout_blocks():
    """A hung detector holds one thread; refusing the batch meanwhile works."""
    looking, released = threading.Event(), threading.Event()

    def hang(images_):
        looking.set()
        released.wait()
        return [() for _ in images_]

    slow = anonymizer(hang)
    tasks = [slow.read(record(images.encode(noise(), 95)))]
    thread = threading.Thread(target=slow.anonymize, args=(tasks,), daemon=True)
    thread.start()
    assert looking.wait(30)
    (ending,) = slow.refuse(tasks, Reason.DETECTOR_TIMEOUT)
    assert ending.audit.reason is Reason.DETECTOR_TIMEOUT
    assert thread.is_alive()
    released.set()
    thread.join()


def test_what_was_refused_stays_so_though_the_thread_that_hung_goes_on(monkeypatch):
    """It wakes while the grey picture is made: what it then writes must not be published as fully masked."""
    encoding, released, encode, grey = threading.Event(), threading.Event(), images.encode, images.grey

    def hang(image, quality):
        encoding.set()
        assert released.wait(30)
        return encode(image, quality)

    def wake(width, height):
        released.set()
        thread.join(30)
        return grey(width, height)

    payload = encode(noise(), 95)
    monkeypatch.setattr(images, "encode", hang)
    monkeypatch.setattr(images, "grey", wake)
    slow = anonymizer(policy=POLICY.model_copy(update={"lookahead": 0.0}))
    tasks = [slow.read(record(payload))]
    ended = []
    thread = threading.Thread(target=lambda: ended.extend(slow.anonymize(tasks)), daemon=True)
    thread.start()
    assert encoding.wait(30)
    (ending,) = slow.refuse(tasks, Reason.DETECTOR_TIMEOUT)
    assert ended, "the thread has gone on"
    assert (ending.audit.outcome, ending.audit.reason) == (Outcome.FULLY_MASKED, Reason.DETECTOR_TIMEOUT)
    assert np.ptp(decode(ending.output)) <= 1
    assert ending.audit.detections == ()


def test_only_a_detector_that_fails_for_all_cameras_is_broken(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(ensemble.time, "monotonic", lambda: clock[0])

    def refuse_dark(images_):
        if any(im.mean() < 9 for im in images_):
            raise RuntimeError("a picture that it cannot bear")
        return [() for _ in images_]

    def look(*pictures):
        """One second later."""
        clock[0] += 1
        with suppress(RuntimeError, TooManyViews):
            seeing.detect(pictures, [POLICY] * len(pictures))

    seeing, dark = Ensemble([detector := Scripted(refuse_dark)]), np.zeros((96, 128, 3), np.uint8)
    for _ in range(200):
        for pictures in ((noise(), dark), (noise(),), (dark,)):  # as the engine does with a batch that raised
            look(*pictures)
        assert seeing.broken() is None
    for _ in range(2 * ensemble.FAILING_CALLS):
        detector.behaviour = too_small
        look(dark)
    assert seeing.broken() is None
    detector.behaviour = refuse_dark
    look(noise())
    for _ in range(ensemble.FAILING_CALLS):
        assert seeing.broken() is None
        look(dark)
    assert seeing.broken() is DetectorName.CENTERFACE
    look(noise())
    assert seeing.broken() is None


def too_small(images_):
    raise TooManyViews("200 views of one picture")
