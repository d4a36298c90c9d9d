"""Video through the engine: access units in, masked JPEG or H.264 out, and nothing of the input in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import av
import numpy as np
import pytest

from sfumato.agents.anonymize import Anonymizer, Ending
from sfumato.models import encoders, images
from sfumato.models.encoders import TICKS, EncoderError, Encoders
from sfumato.models.engine import Engine, Limits
from sfumato.models.ensemble import Ensemble
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Codec, Output, Policy
from sfumato.schemas.unit import H264, AnonymizedUnit
from tests.encoding import STREAMS, clip_pictures, encode, raw_frame, reference, tasks_of, with_payload
from tests.test_anonymize import POLICY, Scripted, noise, record

VIDEO = POLICY.model_copy(update={"output": Output(codec=Codec.H264, keyframe_interval=0.5, bitrate=500)})
FACE = (slice(8, 64), slice(8, 80))
"""Well inside of what the scripted detector finds: the upper left quarter."""


class Whole(Anonymizer):
    """An engine that is closed after each call, so that nothing stays in a decoder."""

    def __init__(self, policy: Policy | NoPolicy = POLICY, threads: int = 1, behaviour=None, **limits: int) -> None:  # type: ignore[no-untyped-def]
        super().__init__(
            Engine(Ensemble([Scripted(behaviour)]), Limits(**limits), threads=threads), lambda camera: policy
        )  # type: ignore[arg-type]

    def end(self, tasks: list[Task]) -> list[Ending]:
        return [ending for _, ending in [*self.anonymize(tasks), *self.close_idle(-1)]]


def published(endings: list[Ending]) -> list[AnonymizedFrame]:
    """What the broker would be given, read back as a consumer reads it."""
    messages = [ending.output.to_message() for ending in endings if ending.output is not None]
    return [AnonymizedFrame.from_message(*message) for message in messages]


def decoded(frames: list[AnonymizedFrame]) -> list[np.ndarray]:
    """The pictures of one run, by an ordinary decoder."""
    context = av.CodecContext.create("h264", "r")
    pictures = [p for frame in frames for p in context.decode(av.Packet(frame.payload))]
    return [p.to_ndarray(format="bgr24") for p in [*pictures, *context.decode(None)]]


@pytest.mark.parametrize("name", STREAMS)
def test_each_unit_becomes_one_masked_picture_in_presentation_order(name):
    endings = Whole().end(tasks_of(name, POLICY))
    assert {ending.audit.outcome for ending in endings} == {Outcome.MASKED}
    assert sorted(ending.audit.sequence for ending in endings) == list(range(40))
    frames = published(endings)
    assert [f.captured_at for f in frames] == sorted(f.captured_at for f in frames)
    originals = reference(name)
    for frame in frames:
        image = images.decode(frame.payload, frame.content_type, max_pixels=10**6).astype(int)
        assert abs(image[FACE] - 128).max() < 12
        assert abs(image[:60, 100:].astype(int) - originals[frame.id.sequence][:60, 100:]).mean() < 4


@pytest.mark.parametrize("name", ["h264", "h264-b-frames", "h265-b-frames"])
def test_h264_output_plays_and_is_masked(name):
    frames = published(Whole(VIDEO).end(tasks_of(name, VIDEO)))
    assert {frame.content_type for frame in frames} == {H264}
    units = [frame.unit for frame in frames]
    assert [unit.number for unit in units] == list(range(40))
    assert len({unit.stream for unit in units}) == 1
    assert [unit.pts for unit in units] == sorted({unit.pts for unit in units})
    assert [n for n, unit in enumerate(units) if unit.keyframe] == [0, 13, 26, 39]  # every 0.5 s at 25 frames/s
    pictures = decoded(frames)
    originals = reference(name)
    assert len(pictures) == 40
    for frame, picture in zip(frames, pictures, strict=True):
        assert abs(picture[FACE].astype(int) - 128).max() < 16
        assert abs(picture[:60, 100:].astype(int) - originals[frame.id.sequence][:60, 100:]).mean() < 8
    assert len(decoded(frames[13:])) == 27, "a consumer joins at any keyframe"


def test_nothing_of_the_inputs_stream_survives():
    """User data of the camera: an SEI message in each unit."""
    secret = b"serial number 4711"
    sei = b"\0\0\0\1\x06\x05" + bytes([16 + len(secret)]) + b"\xaa" * 16 + secret + b"\x80"
    for policy in (POLICY, VIDEO):
        tasks = [with_payload(task, sei + task.frame.payload) for task in tasks_of("h264", policy)]
        frames = published(Whole(policy).end(tasks))
        assert len(frames) == 40
        assert all(secret not in frame.payload for frame in frames)


def test_what_is_damaged_is_a_grey_picture_in_the_same_stream():
    tasks = [task for task in tasks_of("h264", VIDEO) if task.frame.id.sequence != 14]
    frames = published(Whole(VIDEO).end(tasks))
    assert [f.id.sequence for f in frames if f.reason is Reason.DAMAGED] == [15, 16, 17, 18, 19]
    assert [frame.unit.number for frame in frames] == list(range(39))
    for frame, picture in zip(frames, decoded(frames), strict=True):
        if frame.outcome is Outcome.FULLY_MASKED:
            assert abs(picture.astype(int) - 128).max() < 16


def test_units_to_be_discarded_are_decoded_and_dropped():
    tasks = [
        Task(replace(t.frame, unit=replace(t.frame.unit, discard=t.frame.id.sequence % 2 == 1)), POLICY, t.origin)
        for t in tasks_of("h264", POLICY)
    ]
    endings = Whole().end(tasks)
    dropped = [ending.audit for ending in endings if ending.audit.sequence % 2]
    assert {(audit.outcome, audit.reason) for audit in dropped} == {(Outcome.DROPPED, Reason.DISCARDED)}
    assert sum(ending.audit.outcome is Outcome.MASKED for ending in endings) == 20


@pytest.mark.parametrize(
    ("limits", "policy", "left_out"),
    [
        ({"decoders": 0}, POLICY, None),  # too_many_cameras
        ({}, POLICY, 14),  # damaged
        ({}, NoPolicy(Reason.NO_POLICY), None),
        ({"max_pixels": 100}, VIDEO, None),
    ],
)
def test_units_to_be_discarded_are_never_published(limits, policy, left_out):
    tasks = [
        Task(replace(t.frame, unit=replace(t.frame.unit, discard=True)), policy, t.origin)
        for t in tasks_of("h264", policy)
        if t.frame.id.sequence != left_out
    ]
    whole = Whole(policy, **limits)
    for endings in (whole.end(tasks), whole.refuse(tasks, Reason.DETECTOR_TIMEOUT)):
        assert {(e.audit.outcome, e.audit.reason) for e in endings} == {(Outcome.DROPPED, Reason.DISCARDED)}
        assert len(endings) == len(tasks)
        assert published(endings) == []


def test_without_a_policy_video_is_grey_jpeg():
    endings = Whole().end(tasks_of("h265", NoPolicy(Reason.NO_POLICY)))
    frames = published(endings)
    assert {(f.outcome, f.reason, f.content_type) for f in frames} == {
        (Outcome.FULLY_MASKED, Reason.NO_POLICY, "image/jpeg")
    }
    assert all(np.ptp(images.decode(f.payload, f.content_type, max_pixels=10**6)) <= 1 for f in frames)


def test_a_detector_that_fails_ends_as_grey_pictures_of_the_stream():
    def crash(pictures):  # type: ignore[no-untyped-def]
        raise RuntimeError("out of memory")

    frames = published(Whole(VIDEO, behaviour=crash).end(tasks_of("h264", VIDEO)[:10]))
    assert {frame.reason for frame in frames} == {Reason.DETECTOR_ERROR}
    assert all(abs(picture.astype(int) - 128).max() < 16 for picture in decoded(frames))


def test_a_unit_that_outgrew_the_topic_ends_the_run():
    """No later unit may refer to one that was not published."""
    endings = Whole(VIDEO, max_bytes=1000).end(tasks_of("h264", VIDEO)[:20])
    frames = published(endings)
    assert len(frames) == 20
    assert any(frame.reason is Reason.TOO_LARGE for frame in frames)
    runs: dict[str, list[AnonymizedUnit]] = {}
    for frame in frames:
        if frame.unit is not None:
            runs.setdefault(frame.unit.stream, []).append(frame.unit)
    assert all([unit.number for unit in run] == list(range(len(run))) for run in runs.values())
    assert all(run[0].keyframe for run in runs.values())


def test_stills_can_come_out_as_h264():
    anonymizer = Whole(VIDEO)
    tasks = [anonymizer.read(record(images.encode(noise(n, (97, 129)), 90), sequence=n)) for n in range(5)]
    frames = published(anonymizer.end(tasks))  # type: ignore[arg-type]
    assert [frame.unit.number for frame in frames] == list(range(5))
    assert {(frame.width, frame.height) for frame in frames} == {(128, 96)}  # odd sides lose a line
    assert [picture.shape for picture in decoded(frames)] == [(96, 128, 3)] * 5


def test_codec_threads_keep_each_camera_in_order():
    anonymizer = Whole(VIDEO, threads=4)
    cameras = [tasks_of(name, VIDEO, camera=name) for name in ("h264", "h264-b-frames", "h265-b-frames")]
    mixed = [task for group in zip(*cameras, strict=True) for task in group]
    endings = [
        ending for start in range(0, len(mixed), 8) for _, ending in anonymizer.anonymize(mixed[start : start + 8])
    ]
    endings += [ending for _, ending in anonymizer.close_idle(-1)]
    frames = published(endings)
    assert len(frames) == 120
    for camera in ("h264", "h264-b-frames", "h265-b-frames"):
        own = [frame for frame in frames if frame.id.camera == camera]
        assert [frame.unit.number for frame in own] == list(range(40))
        assert len(decoded(own)) == 40


def test_a_camera_that_changes_between_units_and_stills():
    anonymizer = Whole()
    units = tasks_of("h264-b-frames", POLICY)[:10]
    still = anonymizer.read(record(images.encode(noise(), 90), sequence=10))
    endings = anonymizer.end([*units, still])  # type: ignore[list-item]
    assert [ending.audit.outcome for ending in endings] == [Outcome.MASKED] * 11
    assert endings[-1].audit.sequence == 10, "what the decoder held comes out before the still"


# Encoders


def test_an_unknown_encoder_is_an_error_that_lists_the_known():
    with pytest.raises(EncoderError, match=r"unknown H\.264 encoder 'mpeg1'; one of: h264_nvenc, libx264"):
        encoders.check("mpeg1")
    encoders.check("libx264")


def test_an_encoder_that_does_not_work_here_is_an_error(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "h264_v4l2m2m", {})
    with pytest.raises(EncoderError, match="h264_v4l2m2m does not work here"):
        encoders.check("h264_v4l2m2m")


def test_a_run_ends_with_its_size_or_the_policys_output():
    pool, output = Encoders("libx264", 8), Output(codec=Codec.H264)
    small, large = np.zeros((96, 128, 3), np.uint8), np.zeros((192, 256, 3), np.uint8)
    steps = [
        (small, output),
        (small, output),
        (large, output),
        (large, output.model_copy(update={"bitrate": 300})),
    ]
    units = [pool.encode("a", image, wanted, n, TICKS).unit for n, (image, wanted) in enumerate(steps)]
    assert [unit.number for unit in units] == [0, 1, 0, 0]
    assert [unit.keyframe for unit in units] == [True, False, True, True]
    assert len({unit.stream for unit in units}) == 3
    pool.close("a")
    assert pool.encode("a", large, output, 9, TICKS).unit.number == 0


def test_a_keyframe_that_the_encoder_makes_unasked_is_one_to_join_at():
    """x264 begins anew where a scene does: grey while fully masked, and then a picture."""
    pool, output = Encoders("libx264", 8), Output(codec=Codec.H264, keyframe_interval=60)
    shown = [np.full((144, 176, 3), 127, np.uint8)] * 30 + clip_pictures(5)
    units = [pool.encode("a", image, output, 3600 * n, TICKS) for n, image in enumerate(shown)]
    assert [n for n, each in enumerate(units) if each.unit.keyframe] == [0, 30]
    assert [each.unit.number for each in units] == list(range(35))
    context = av.CodecContext.create("h264", "r")
    pictures = [picture for each in units[30:] for picture in context.decode(av.Packet(each.payload))]
    assert len([*pictures, *context.decode(None)]) == 5


def test_only_so_many_encoders_are_kept():
    pool, image = Encoders("libx264", 2), np.zeros((96, 128, 3), np.uint8)
    runs = [pool.encode(camera, image, Output(), n, TICKS).unit for n, camera in enumerate("abacbca")]
    assert [unit.number for unit in runs] == [0, 0, 1, 0, 0, 1, 0]


def test_times_that_stand_still_are_moved_on():
    pool, image = Encoders("libx264", 8), np.zeros((96, 128, 3), np.uint8)
    units = [pool.encode("a", image, Output(), pts, TICKS).unit for pts in (100, 100, 50, 3700)]
    assert [unit.pts for unit in units] == [100, 101, 102, 3700]


def test_times_that_go_back_or_are_anothers_begin_a_run():
    """Tick by tick, no keyframe would come before they had caught up: nobody could join for as long."""
    pool, image = Encoders("libx264", 8), np.zeros((96, 128, 3), np.uint8)
    day = round(86400 / TICKS)
    steps = [(day, 1), (day - 90_000, 1), (day - 180_000, 1), (0, 2), (3600, 2), (day, (2, True))]
    units = [pool.encode("a", image, Output(), pts, TICKS, source).unit for pts, source in steps]
    assert [unit.number for unit in units] == [0, 1, 0, 0, 1, 0]
    assert [unit.pts for unit in units] == [day, day + 1, day - 180_000, 0, 3600, day]
    assert [unit.keyframe for unit in units] == [unit.number == 0 for unit in units]


def test_an_epoch_whose_clock_is_behind_has_runs_to_join():
    """An ingestor that was started again while a worker still held the camera's encoder."""
    anonymizer, frames = Whole(VIDEO.model_copy(update={"lookahead": 0.0})), []
    for epoch, hours in ((2, 0), (3, -5)):
        for n in range(4):
            task = anonymizer.read(record(images.encode(noise(n), 90), sequence=n))
            at = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(hours=hours, seconds=n)
            frame = replace(task.frame, id=FrameId("north", epoch, n), captured_at=at)  # type: ignore[union-attr]
            frames += published([ending for _, ending in anonymizer.anonymize([Task(frame, VIDEO, task.origin)])])
    frames += published([ending for _, ending in anonymizer.close_idle(-1)])
    assert [(f.id.epoch, f.unit.number) for f in frames] == [(epoch, n) for epoch in (2, 3) for n in range(4)]
    assert all(frame.unit.seconds == frame.captured_at.timestamp() for frame in frames)
    assert all(frame.unit.keyframe for frame in frames if frame.unit.number == 0)


def test_the_mask_hides_what_was_under_it_also_after_encoding():
    """Two inputs that differ only under the mask give the same pictures."""
    outputs = []
    for seed in (1, 2):
        pictures = clip_pictures(6)
        for picture in pictures:
            picture[16:56, 16:72] = noise(seed, (40, 56))
        units = encode(pictures, H264, {"qp": "0", "preset": "ultrafast", "g": "3"})
        tasks = [
            Task(raw_frame(n, payload, unit, H264), VIDEO, origin)
            for n, ((payload, unit), origin) in enumerate(
                zip(units, (t.origin for t in tasks_of("h264", VIDEO)), strict=False)
            )
        ]
        outputs.append(decoded(published(Whole(VIDEO).end(tasks))))
    for first, second in zip(*outputs, strict=True):
        assert abs(first[FACE].astype(int) - second[FACE]).max() <= 2
