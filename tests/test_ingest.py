"""`sfumato ingest` on real brokers: identity, endings, what is dropped and how it is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from clips import clip
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from sfumato.agents import provision
from sfumato.agents.broker import EmbeddedBroker
from sfumato.agents.cameras import Camera
from sfumato.agents.epochs import newest
from sfumato.agents.ingest import ENVELOPE_BYTES, Feed, Outlet
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import Message, RawFrame, TimeSource
from sfumato.schemas.outcome import Reason
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW, MAX_MESSAGE_BYTES, Topic
from sfumato.schemas.unit import H264
from tests.footage import decoded, shown, write_video
from tests.ingesting import Ingest, assert_gapless, epochs, frames

LARGEST = MAX_MESSAGE_BYTES - ENVELOPE_BYTES


def picture(seed: int = 0, width: int = 64, height: int = 48) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return images.encode(noise, 90)


def table(folder: Path, *rows: str) -> str:
    (folder / "cameras.toml").write_text("\n".join(f"[[camera]]\n{row}" for row in rows))
    return str(folder / "cameras.toml")


def stills(folder: Path, *contents: bytes) -> str:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number:03}.jpg").write_bytes(content)
    return f"stills://{folder}"


def test_cameras_that_end(topics: Settings, tmp_path: Path) -> None:
    contents = [picture(seed) for seed in range(5)]
    cameras = table(
        tmp_path,
        f"id = 'film'\nurl = '{clip('carphone').as_uri()}'\npace = 'fast'\nfps = 10",
        f"id = 'jpegs'\nurl = '{clip('carphone').as_uri()}'\npace = 'fast'\nfps = 10\nremux = false",
        f"id = 'stills'\nurl = '{stills(tmp_path / 'stills', *contents)}'\npace = 'fast'",
    )
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        assert ingest.wait() == 0, ingest.log
    assert ingest.log.count("is decoded here and sent as JPEG") == 1
    assert "camera jpegs: h264 is decoded here and sent as JPEG" in ingest.log
    found, records = frames(topics), epochs(topics)
    assert set(found) == set(records) == {"film", "jpegs", "stills"}
    for camera in found:
        assert_gapless(found[camera], records[camera])
        assert records[camera][-1].dropped == {}
    assert [frame.payload for frame in found["stills"]] == contents
    assert {frame.content_type for frame in found["film"]} == {H264}
    assert {frame.content_type for frame in found["jpegs"]} == {"image/jpeg"}
    assert 20 < len(found["jpegs"]) < len(found["film"])
    taken = [frame for frame in found["film"] if not frame.unit.discard]
    assert abs(len(taken) - len(found["jpegs"])) <= 2
    for camera, count in (("film", len(taken)), ("jpegs", len(found["jpegs"]))):
        pictures = shown(found[camera])
        assert len(pictures) == count
        assert {image.shape for image in pictures} == {(f.height, f.width, 3) for f in found[camera]}
    for frame in found["film"] + found["jpegs"]:
        assert frame.time_source is TimeSource.ARRIVAL
        assert abs(frame.captured_at.timestamp() - time.time()) < 120
        assert abs(frame.id.epoch / 1000 - time.time()) < 120


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_good_order_when_told(topics: Settings, tmp_path: Path, number: signal.Signals) -> None:
    cameras = table(tmp_path, f"id = 'film'\nurl = '{clip('carphone').as_uri()}'\nloop = true")
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        ingest.until_frames("film", 20)
        ingest.process.send_signal(number)
        assert ingest.wait() == 0, ingest.log
    assert_gapless(frames(topics)["film"], epochs(topics)["film"])


def test_what_cannot_be_sent_is_counted_and_leaves_no_gap(topics: Settings, tmp_path: Path) -> None:
    good = picture()
    largest, too_large = (good + bytes(size - len(good)) for size in (LARGEST, LARGEST + 1))
    url = stills(tmp_path / "stills", good, b"no picture", b"", too_large, largest, good, good[:20])
    with Ingest(topics, tmp_path, "--camera", f"a={url}") as ingest:  # one a second: all fit into the queue
        assert ingest.wait() == 0, ingest.log
    found, records = frames(topics)["a"], epochs(topics)["a"]
    assert [frame.payload for frame in found] == [good, largest, good]
    assert_gapless(found, records)
    assert records[-1].dropped == {Reason.UNDECODABLE: 2, Reason.EMPTY: 1, Reason.TOO_LARGE: 1}
    assert [record.state for record in records].count("progress") >= 1


def tell(settings: Settings, *messages: Message) -> None:
    producer = Producer(settings, client_id="test")
    for message in messages:
        assert producer.try_send(EPOCHS, message, lambda error: None)
    assert producer.close(30) == 0


def ahead(camera: str, epoch: int) -> Message:
    return EpochRecord(camera=camera, epoch=epoch, state=EpochState.ENDED, at=datetime.now(UTC)).to_message()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_new_start_is_a_newer_epoch_though_the_clock_went_back(
    topics: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an older one, readers would take all for seen."""
    url = stills(tmp_path / "stills", picture(1), picture(2))
    cameras = table(tmp_path, f"id = 'a'\nurl = '{url}'\npace = 'fast'")
    tomorrow = int((time.time() + 86400) * 1000)
    told = [("a", tomorrow), ("a", 5), ("b", tomorrow + 9), ("c", 2**63)]
    for _ in range(2):
        with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
            assert ingest.wait() == 0, ingest.log
        if told:
            tell(topics, *[ahead(camera, epoch) for camera, epoch in told], Message(b"a", b"{", []))
            told = []
    found = [frame.id for frame in frames(topics)["a"]]
    assert [frame.sequence for frame in found] == [0, 1, 0, 1]
    assert found[0].epoch == found[1].epoch < tomorrow
    assert found[2].epoch == found[3].epoch == tomorrow + 1
    assert newest(topics, ["a", "b", "c", "d"]) == {"a": tomorrow + 1, "b": tomorrow + 9}
    monkeypatch.setattr("sfumato.agents.epochs.NEWEST_RECORDS", 1)
    assert newest(topics, ["a", "b"]) == {"a": tomorrow + 1}


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_without_the_topic_epochs_begin_by_the_clock(
    topics: Settings, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest(topics, ["a"]) == {}
    assert caplog.text == ""
    assert newest(settings.model_copy(update={"topic_prefix": "none."}), ["a"]) == {}
    assert "none.epochs was not read to its end" in caplog.text


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_dead_camera_does_not_hold_up_the_others(topics: Settings, tmp_path: Path) -> None:
    cameras = table(
        tmp_path,
        "id = 'dead'\nurl = 'rtsp://cam:s3cret@127.0.0.1:1/s3cret'",
        f"id = 'film'\nurl = '{clip('carphone').as_uri()}'\nloop = true",
    )
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        ingest.until(lambda: ingest.metric("sfumato_reconnects_total", camera="dead") >= 2)
        ingest.until_frames("film", 5)
        assert ingest.stop() == 0, ingest.log
    assert "camera dead (rtsp://127.0.0.1:1/…): Connection refused; again in" in ingest.log
    assert "s3cret" not in ingest.log
    records = epochs(topics)["dead"]
    assert [(r.state, r.last_sequence, r.dropped) for r in (records[0], records[-1])] == [
        ("begun", None, {}),
        ("ended", None, {}),
    ]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_missing_topics_are_named(settings: Settings, tmp_path: Path) -> None:
    with Ingest(settings, tmp_path, "--camera", "a=rtsp://127.0.0.1:1/") as ingest:
        assert ingest.wait() == 1
    for topic in (FRAMES_RAW, EPOCHS):
        assert f"{settings.topic(topic)}: missing; run `sfumato topics`" in ingest.log
    assert "Traceback" not in ingest.log


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_what_the_broker_refuses_for_good_ends_the_process(topics: Settings, tmp_path: Path) -> None:
    cameras = table(tmp_path, f"id = 'film'\nurl = '{clip('carphone').as_uri()}'\nloop = true")
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        ingest.until_frames("film", 5)
        entry = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topics.topic(FRAMES_RAW), incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()
        assert ingest.wait() == 1
    assert "ending: Kafka refused frame" in ingest.log
    assert "its epoch stays open" in ingest.log
    assert epochs(topics)["film"][-1].state != "ended"


@pytest.mark.parametrize("refusal", [None, KafkaException(KafkaError(KafkaError._FATAL))])
def test_what_the_producer_does_not_take_is_not_outstanding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: KafkaException | None
) -> None:
    """Its queue is full: dropped and counted. It is broken: the process ends."""
    outlet = Outlet(Settings(bootstrap_servers="127.0.0.1:1"), 1, None)

    def try_send(topic: Topic, message: Message, on_delivery: object) -> bool:
        if refusal and topic is FRAMES_RAW:
            raise refusal
        sent.append((topic, message))
        return topic is EPOCHS

    sent: list[tuple[Topic, Message]] = []
    monkeypatch.setattr(outlet.producer, "try_send", try_send)
    camera = Camera(id="a", url=stills(tmp_path / "stills", picture(1), picture(2)), fps=100)
    Feed(camera, outlet).run()
    assert outlet.admission.total == 0
    assert outlet.failed is outlet.stopping.is_set() is (refusal is not None)
    last = EpochRecord.from_message([message for topic, message in sent if topic is EPOCHS][-1].value)
    assert (last.state, last.dropped) == (("begun", {}) if refusal else ("ended", {Reason.QUEUE_FULL: 2}))
    outlet.producer.close(0)


@pytest.fixture
def own_broker(tmp_path: Path):
    """A broker that the test may stop, and settings with topics on it."""
    with EmbeddedBroker() as broker:
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, partitions=2, state_dir=tmp_path / "state")
        provision.create(settings)
        yield broker, settings
        os.kill(broker.pid, signal.SIGCONT)


def test_a_full_queue_drops_the_noisy_cameras_frames_alone(own_broker, tmp_path: Path) -> None:
    broker, settings = own_broker
    noisy = stills(tmp_path / "noisy", *(picture(seed, 400, 300) for seed in range(3)))
    quiet = stills(tmp_path / "quiet", *(picture(seed) for seed in range(3)))
    cameras = table(
        tmp_path,
        f"id = 'noisy'\nurl = '{noisy}'\nfps = 100\nloop = true",
        f"id = 'quiet'\nurl = '{quiet}'\nfps = 10\nloop = true",
    )
    with Ingest(settings, tmp_path, "--cameras", cameras, queue_bytes=1_000_000) as ingest:
        ingest.until_frames("quiet", 5)
        os.kill(broker.pid, signal.SIGSTOP)
        dropped = {"camera": "noisy", "reason": "queue_full"}
        ingest.until(lambda: ingest.metric("sfumato_ingest_dropped_frames_total", **dropped) >= 50)
        before = ingest.metric("sfumato_ingested_frames_total", camera="quiet")
        ingest.until_frames("quiet", int(before) + 10)  # goes on while the broker stands still
        assert 500_000 < ingest.metric("sfumato_outstanding_bytes") <= 2_000_000
        os.kill(broker.pid, signal.SIGCONT)
        ingest.until(lambda: ingest.metric("sfumato_outstanding_bytes") < 100_000)
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=ingest.metrics(), text=True, capture_output=True
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
        assert ingest.stop() == 0, ingest.log
    found, records = frames(settings), epochs(settings)
    for camera in ("noisy", "quiet"):
        assert_gapless(found[camera], records[camera])
    assert records["quiet"][-1].dropped == {}
    assert set(records["noisy"][-1].dropped) == {Reason.QUEUE_FULL}
    assert records["noisy"][-1].dropped[Reason.QUEUE_FULL] >= 50


def test_what_stays_undelivered_is_said(own_broker, tmp_path: Path) -> None:
    """And ends within the 20 s that the compose file grants."""
    broker, settings = own_broker
    url = stills(tmp_path / "stills", *(picture(seed) for seed in range(3)))
    cameras = table(tmp_path, f"id = 'a'\nurl = '{url}'\nfps = 20\nloop = true")
    with Ingest(settings, tmp_path, "--cameras", cameras) as ingest:
        ingest.until_frames("a", 40)  # the record of the beginning is out by then
        os.kill(broker.pid, signal.SIGSTOP)
        before = ingest.metric("sfumato_ingested_frames_total", camera="a")
        ingest.until_frames("a", int(before) + 5)
        started = time.monotonic()
        assert ingest.stop() == 1
        assert time.monotonic() - started < 20
    assert "camera a: frames were not delivered; its epoch stays open" in ingest.log
    assert "messages were not acknowledged by the broker" in ingest.log
    os.kill(broker.pid, signal.SIGCONT)
    found: list[RawFrame] = frames(settings)["a"]
    assert [frame.id.sequence for frame in found] == list(range(len(found)))
    assert [record.state for record in epochs(settings)["a"]] == ["begun"]


# Access units


def noisy_film(path: Path, pictures: int, **options: str) -> dict[int, np.ndarray]:
    """Pictures of some 100 KB, ten a second; what they show, by their time in tenths of a second."""
    generator = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=10, options={"g": "10", "sc_threshold": "0", "qp": "12", **options}
        )
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(pictures):
            noise = generator.integers(0, 256, (360, 320), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="yuv420p")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return dict(enumerate(frame.to_ndarray() for frame in container.decode(video=0)))


def assert_shown_as_in(film: dict[int, np.ndarray], found: list[RawFrame]) -> None:
    """Each unit can be decoded although others are missing, and shows what the film shows at its time."""
    pictures = decoded(found)
    assert len(pictures) == len(found)
    for picture in pictures:
        number = round(float(picture.pts * found[0].unit.time_base * 10))
        assert (picture.to_ndarray() == film[number % len(film)]).all()


@pytest.mark.parametrize("options", [{"bf": "0"}, {"x264-params": "open-gop=1:bframes=3:keyint=10"}])
def test_a_full_queue_drops_up_to_the_next_keyframe(own_broker, tmp_path: Path, options: dict[str, str]) -> None:
    """What comes after the gap can be decoded: sequences are dense, so nobody could see that it is there."""
    broker, settings = own_broker
    film = noisy_film(tmp_path / "film.mp4", 50, **options)
    cameras = table(tmp_path, f"id = 'film'\nurl = '{(tmp_path / 'film.mp4').as_uri()}'\nloop = true")
    with Ingest(settings, tmp_path, "--cameras", cameras, queue_bytes=1_000_000) as ingest:
        ingest.until_frames("film", 5)
        dropped = {"camera": "film", "reason": "queue_full"}
        for more in (10, 20):
            os.kill(broker.pid, signal.SIGSTOP)
            ingest.until(lambda m=more: ingest.metric("sfumato_ingest_dropped_frames_total", **dropped) >= m)
            os.kill(broker.pid, signal.SIGCONT)
            before = ingest.metric("sfumato_ingested_frames_total", camera="film")
            ingest.until_frames("film", int(before) + 15)
        assert ingest.stop() == 0, ingest.log
    found, records = frames(settings)["film"], epochs(settings)["film"]
    assert_gapless(found, records)
    assert set(records[-1].dropped) == {Reason.QUEUE_FULL}
    assert records[-1].dropped[Reason.QUEUE_FULL] >= 20
    assert_shown_as_in(film, found)


def test_a_film_read_fast_waits_for_room(own_broker, tmp_path: Path) -> None:
    broker, settings = own_broker
    film = noisy_film(tmp_path / "film.mkv", 60, bf="2")
    cameras = table(tmp_path, f"id = 'film'\nurl = '{(tmp_path / 'film.mkv').as_uri()}'\npace = 'fast'\nloop = true")
    with Ingest(settings, tmp_path, "--cameras", cameras, queue_bytes=1_000_000) as ingest:
        ingest.until_frames("film", 100)
        os.kill(broker.pid, signal.SIGSTOP)
        ingest.until(lambda: ingest.metric("sfumato_outstanding_bytes") > 850_000)
        before = ingest.metric("sfumato_ingested_frames_total", camera="film")
        assert ingest.metric("sfumato_outstanding_bytes") <= 1_000_000
        os.kill(broker.pid, signal.SIGCONT)
        ingest.until_frames("film", int(before) + 100)
        assert ingest.stop() == 0, ingest.log
    found, records = frames(settings)["film"], epochs(settings)["film"]
    assert_gapless(found, records)
    assert records[-1].dropped.get(Reason.QUEUE_FULL, 0) <= 1, "at most the one that waited when told to stop"
    assert_shown_as_in(film, found)


def test_a_film_that_waits_still_stops_when_told(own_broker, tmp_path: Path) -> None:
    broker, settings = own_broker
    noisy_film(tmp_path / "film.mp4", 60)
    cameras = table(tmp_path, f"id = 'film'\nurl = '{(tmp_path / 'film.mp4').as_uri()}'\npace = 'fast'\nloop = true")
    with Ingest(settings, tmp_path, "--cameras", cameras, queue_bytes=1_000_000) as ingest:
        ingest.until_frames("film", 100)
        os.kill(broker.pid, signal.SIGSTOP)
        ingest.until(lambda: ingest.metric("sfumato_outstanding_bytes") > 850_000)
        started = time.monotonic()
        assert ingest.stop() == 1
        assert time.monotonic() - started < 20


def test_a_unit_that_is_too_large_costs_what_depends_on_it(topics: Settings, tmp_path: Path) -> None:
    path, noise = tmp_path / "film.mp4", np.random.default_rng(1).integers(0, 256, (2304 * 3 // 2, 4096), np.uint8)
    with av.open(str(path), "w") as container:
        options = {"g": "10", "sc_threshold": "0", "bf": "0", "qp": "1", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 4096, 2304, "yuv420p"
        for number in range(20):
            image = noise if number == 7 else np.full_like(noise, 100)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="yuv420p")))
        container.mux(stream.encode())
    cameras = table(tmp_path, f"id = 'film'\nurl = '{path.as_uri()}'\npace = 'fast'")
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        assert ingest.wait() == 0, ingest.log
    found, records = frames(topics)["film"], epochs(topics)["film"]
    assert_gapless(found, records)
    assert records[-1].dropped == {Reason.TOO_LARGE: 3}
    assert [round(float(f.unit.pts * f.unit.time_base * 10)) for f in found] == [*range(7), *range(10, 20)]
    assert {int(np.ptp(picture.to_ndarray())) for picture in decoded(found)} <= {0, 28}


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_is_encoded_here_is_counted(topics: Settings, tmp_path: Path) -> None:
    write_video(tmp_path / "film.webm", 20, "libvpx-vp9")
    cameras = table(
        tmp_path,
        f"id = 'vp9'\nurl = '{(tmp_path / 'film.webm').as_uri()}'\nloop = true",
        f"id = 'h264'\nurl = '{clip('carphone').as_uri()}'\nloop = true",
    )
    with Ingest(topics, tmp_path, "--cameras", cameras) as ingest:
        ingest.until_frames("vp9", 10)
        ingest.until_frames("h264", 10)
        assert ingest.metric("sfumato_transcoded_frames_total", camera="vp9") >= 10
        assert ingest.metric("sfumato_transcoded_frames_total", camera="h264") == 0
        assert ingest.stop() == 0, ingest.log
    assert "camera vp9: vp9 is decoded here and sent as JPEG" in ingest.log
