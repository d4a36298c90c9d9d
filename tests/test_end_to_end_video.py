"""Video through Kafka and real Faust workers: nothing lost, nothing shown that rests on something missing, whatever is
killed while groups of pictures are under way. Several cameras share each partition."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import cycle, islice

import av
import numpy as np
import pytest
from stack import Stack, demonstration_policy

from sfumato.agents.broker import free_port
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.sequences import Sequences
from sfumato.models import images
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Codec, Output
from sfumato.schemas.topics import AUDIT, FRAMES_ANONYMIZED, FRAMES_RAW
from sfumato.schemas.unit import H264, H265, RawUnit
from tests.encoding import clip_pictures, decode, encode, raw_frame
from tests.ingesting import read_topic
from tests.test_end_to_end import ended, faust_worker, send, settle
from tests.test_ingest_rtsp import rtsp_server

EPOCH = 1_700_000_000_000
COUNT = 120
CAMERAS: dict[str, tuple[str, dict[str, str]]] = {
    "short": (H264, {"preset": "ultrafast", "g": "7", "bf": "0"}),
    "long": (H264, {"preset": "ultrafast", "g": "60", "bf": "0", "sc_threshold": "0"}),
    "b-frames": (H264, {"preset": "veryfast", "g": "25", "bf": "3"}),
    "h265": (H265, {"preset": "ultrafast", "x265-params": "keyint=18:bframes=2:log-level=0"}),
    "silent": (H264, {"preset": "ultrafast", "g": "30", "bf": "2"}),
}
"""Cameras with groups of pictures of different lengths; the last one falls silent in the middle of one."""
SENT = {camera: 40 if camera == "silent" else COUNT for camera in CAMERAS}
EYES = (slice(48, 76), slice(68, 108))


@lru_cache
def units(camera: str) -> tuple[tuple[bytes, RawUnit], ...]:
    content_type, options = CAMERAS[camera]
    return tuple(encode(islice(cycle(clip_pictures(30)), SENT[camera]), content_type, options))


@lru_cache
def originals(camera: str) -> dict[int, np.ndarray]:
    return decode(CAMERAS[camera][0], units(camera))


def message(camera: str, sequence: int, flipped: int | None = None) -> Message:
    """A unit as the ingestor sends it; ``flipped``: the bit that is wrong."""
    payload, unit = units(camera)[sequence]
    if flipped is not None:
        payload = bytes(byte ^ (1 << flipped % 8) * (at == flipped // 8) for at, byte in enumerate(payload))
    return raw_frame(sequence, payload, unit, CAMERAS[camera][0], camera, EPOCH).to_message()


def send_all(
    stack: Stack, missing: Iterable[tuple[str, int]] = (), flipped: Mapping[tuple[str, int], int] | None = None
) -> None:
    """Every camera's units, interleaved; ``missing`` ones never get to Kafka, ``flipped`` ones have a wrong bit."""
    gone = set(missing)
    rows = [(camera, n) for n in range(COUNT) for camera in CAMERAS if n < SENT[camera]]
    send(stack, [(FRAMES_RAW, message(*row, (flipped or {}).get(row))) for row in rows if row not in gone])
    send(stack, [ended(camera, SENT[camera] - 1) for camera in CAMERAS])


def first_outcomes(stack: Stack) -> dict[tuple[str, int], AuditEvent]:
    """The first audit event of each frame: the one that counts."""
    found: dict[tuple[str, int], AuditEvent] = {}
    for raw in read_topic(stack.settings, AUDIT):
        event = AuditEvent.from_message(raw.value())
        found.setdefault((event.camera or "", event.sequence or 0), event)
    return found


def published(stack: Stack) -> dict[str, list[AnonymizedFrame]]:
    found: dict[str, list[AnonymizedFrame]] = {camera: [] for camera in CAMERAS}
    for raw in read_topic(stack.settings, FRAMES_ANONYMIZED):
        frame = AnonymizedFrame.from_message(raw.key(), raw.value(), raw.headers())
        found[frame.id.camera].append(frame)
    return found


def distinct(frames: list[AnonymizedFrame]) -> list[AnonymizedFrame]:
    """Without duplicates, as a consumer drops them."""
    first: dict[FrameId, AnonymizedFrame] = {}
    for frame in frames:
        first.setdefault(frame.id, frame)
    return list(first.values())


def assert_masked(frame: AnonymizedFrame, image: np.ndarray) -> None:
    """It is the picture of that very unit, and the face in it is masked."""
    original = originals(frame.id.camera)[frame.id.sequence].astype(int)
    assert abs(image[EYES] - original[EYES]).mean() > 8
    assert abs(image[:, :30] - original[:, :30]).mean() < 6


def presentation(camera: str) -> list[int]:
    """The camera's sequences in presentation order."""
    return sorted(range(SENT[camera]), key=lambda sequence: units(camera)[sequence][1].pts)


def test_video_comes_out_masked_and_in_order(stack):
    policies = {camera: demonstration_policy(camera) for camera in CAMERAS}
    policies["long"] = policies["long"].model_copy(update={"output": Output(codec=Codec.H264)})
    stack.publish(*policies.values())
    send_all(stack)
    stack.start("anonymize", camera_idle=2.0)
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
        report = reader.account.report()
    assert report["masked"] == report["frames_in"] == sum(SENT.values())
    for camera, frames in published(stack).items():
        assert [frame.id.sequence for frame in distinct(frames)] == presentation(camera)
        if camera == "long":
            context = av.CodecContext.create("h264", "r")
            shown = [p.to_ndarray(format="bgr24") for f in frames for p in context.decode(av.Packet(f.payload))]
        else:
            shown = [images.decode(f.payload, f.content_type, max_pixels=10**6) for f in frames]
        for frame, image in zip(frames, shown, strict=True):
            assert_masked(frame, image)


def test_nothing_is_lost_or_wrong_when_a_worker_is_killed_amid_groups(stack):
    """And while up to a second of each camera's pictures waits for later ones."""
    stack.publish(*(demonstration_policy(camera).model_copy(update={"lookahead": 1.0}) for camera in CAMERAS))
    stack.start("anonymize", camera_idle=2.0)
    send_all(stack)
    with TopicReader(stack.settings) as reader:
        for share in (0.2, 0.5):
            while reader.account.report()["masked"] < share * sum(SENT.values()):
                reader.read(0.2)
                stack.check()
            os.kill(faust_worker(stack), signal.SIGKILL)
        settle(stack, reader)
        report = reader.account.report()
    assert report["unaccounted"] == 0
    assert report["masked"] == report["frames_in"] == sum(SENT.values()), report
    assert report["duplicates"] > 0
    assert_right(stack)


def test_nothing_is_lost_or_wrong_when_workers_come_and_go(stack):
    """Rebalances: a second worker joins, the first is killed, a third joins."""
    stack.publish(*(demonstration_policy(camera) for camera in CAMERAS))
    stack.start("anonymize", camera_idle=2.0)
    send_all(stack)
    with TopicReader(stack.settings) as reader:
        reach(stack, reader, 0.2)
        stack.start("anonymize", name="second", camera_idle=2.0, metrics_port=0)
        reach(stack, reader, 0.5)
        os.kill(faust_worker(stack), signal.SIGKILL)
        settle(stack, reader)
        report = reader.account.report()
    assert report["unaccounted"] == 0
    assert report["masked"] == report["frames_in"] == sum(SENT.values()), report
    assert_right(stack)


def reach(stack: Stack, reader: TopicReader, share: float) -> None:
    while reader.account.report()["masked"] < share * sum(SENT.values()):
        reader.read(0.2)
        stack.check()


def assert_right(stack: Stack) -> None:
    """Each frame's first outcome is that it was masked; each camera is in order; each picture is the right one."""
    assert {event.outcome for event in first_outcomes(stack).values()} == {Outcome.MASKED}
    for camera, frames in published(stack).items():
        assert [frame.id.sequence for frame in distinct(frames)] == presentation(camera)
        for frame in frames:
            assert_masked(frame, images.decode(frame.payload, frame.content_type, max_pixels=10**6))


def test_units_that_are_missing_spoil_nothing(stack):
    """5 % of the units never came: what rests on them is fully masked until the next keyframe."""
    draw = np.random.default_rng(3)
    missing = {(c, n) for c in CAMERAS for n in range(1, SENT[c]) if draw.random() < 0.05}
    stack.publish(*(demonstration_policy(camera) for camera in CAMERAS))
    send_all(stack, missing)
    stack.start("anonymize", camera_idle=2.0)
    sent = sum(SENT.values()) - len(missing)
    with TopicReader(stack.settings) as reader:
        while reader.account.report()["frames_in"] - reader.account.unaccounted < sent:
            reader.read(0.2)
            stack.check()
        report = reader.account.report()
    assert report["unaccounted"] == len(missing), "the gaps are seen"
    assert set(report["fully_masked_reasons"]) == {Reason.DAMAGED}
    assert report["masked"] > 0.2 * sent
    for frames in published(stack).values():
        for frame in frames:
            image = images.decode(frame.payload, frame.content_type, max_pixels=10**6)
            if frame.outcome is Outcome.MASKED:
                assert_masked(frame, image)
            else:
                assert np.ptp(image) <= 1


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_flipped_bits_uncover_no_face(stack):
    """One bit in every tenth unit. What the decoder does not notice is masked as the detector sees it."""
    draw = np.random.default_rng(4)
    rows = [(c, n) for c in CAMERAS for n in range(SENT[c]) if draw.random() < 0.1]
    flipped = {row: int(draw.integers(64, 8 * len(units(row[0])[row[1]][0]))) for row in rows}
    stack.publish(*(demonstration_policy(camera) for camera in CAMERAS))
    send_all(stack, flipped=flipped)
    stack.start("anonymize", camera_idle=2.0)
    with TopicReader(stack.settings) as reader:
        settle(stack, reader)
        report = reader.account.report()
    assert report["frames_in"] == sum(SENT.values())
    assert report["unaccounted"] == 0
    assert set(report["fully_masked_reasons"]) == {Reason.DAMAGED}
    assert report["masked"] > 100
    for camera, frames in published(stack).items():
        for frame in frames:
            image = images.decode(frame.payload, frame.content_type, max_pixels=10**6).astype(int)
            original = originals(camera)[frame.id.sequence]
            assert abs(image[EYES] - original[EYES]).mean() > 8, frame.id


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_cameras_stream_from_rtsp_to_the_audit(stack):
    """A real RTSP server, killed and started again: no picture in between is lost from the account."""
    port = free_port()
    cameras = stack.folder / "cameras.toml"
    rows = [f"[[camera]]\nid = '{name}'\nurl = 'rtsp://127.0.0.1:{port}/{name}'\n" for name in ("h264", "mjpeg")]
    cameras.write_text("".join(rows))
    stack.publish(*(demonstration_policy(name) for name in ("h264", "mjpeg")))
    stack.start("anonymize", camera_idle=2.0)
    stack.start("ingest", "--cameras", str(cameras), metrics_port=0)
    with TopicReader(stack.settings) as reader:
        for masked in (30, 60):
            with rtsp_server(port):
                while not all(len(audited(reader, name)) >= masked for name in ("h264", "mjpeg")):
                    reader.read(0.2)
                    stack.check()
        assert stack.stop("ingest") == 0
        settle(stack, reader)
        report = reader.account.report()
    assert report["unaccounted"] == report["unpublished"] == 0
    assert set(report["dropped"]) <= {Reason.NO_KEYFRAME, Reason.UNDECODABLE}
    half_sent = report["fully_masked"] + report["dropped"].get(Reason.UNDECODABLE, 0)
    assert half_sent <= 4  # by a server that was killed: one of each camera, each time
    kinds = {dict(message.headers())["content-type"] for message in read_topic(stack.settings, FRAMES_RAW)}
    assert kinds == {H264.encode(), b"image/jpeg"}


def audited(reader: TopicReader, camera: str) -> Sequences:
    return next((epoch.audited for (name, _), epoch in reader.account.epochs.items() if name == camera), Sequences())
