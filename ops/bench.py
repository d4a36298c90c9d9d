"""The benchmark: what Kafka, Faust and the accounting cost beside the model. ``make bench`` runs it.

One JSON object is the last line on stdout; all its figures come from this one run. The pipeline and the bare loop
use the same frames, model, settings and threads (one for the model), in turn, round after round; the ratio is the
median of the rounds', since shared machines drift.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
from clips import clip
from confluent_kafka import KafkaError
from stack import Stack, demonstration_policy

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Sealer
from sfumato.agents.produce import Producer
from sfumato.agents.reconcile import TopicReader
from sfumato.models import detectors, images, masks
from sfumato.models.detectors import DetectorOptions
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Evidence
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.frame import Message, RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome
from sfumato.schemas.topics import EPOCHS, FRAMES_RAW, Topic

GOALS = {"ratio": 0.9, "e2e_ms": {"p50": 50, "p99": 300}}
CLIP = "bikes"
FRAMES = 120
CADENCE = timedelta(milliseconds=40)
ROUNDS = 5
WARM_UP_SECONDS = 5.0
PACED_SECONDS = 60.0
INGEST_SECONDS = 20.0
TIMEOUT = 300.0


class BenchReader(TopicReader):
    """Keeps, besides the counts, what the figures are made of. Delays are from capture to audit, without the
    frame's share of the detection and its wait for later frames, of those frames that were looked at."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.beyond_model_ms: list[float] = []
        self.bytes_in = self.bytes_out = 0
        self.last_audited_at: datetime | None = None

    def on_audit(self, event: AuditEvent) -> None:
        self.last_audited_at = event.audited_at
        self.bytes_in += event.input_bytes
        self.bytes_out += event.output_bytes or 0
        if event.captured_at is not None and event.outcome is Outcome.MASKED:
            delay = (event.audited_at - event.captured_at).total_seconds() * 1000
            self.beyond_model_ms.append(delay - event.timings_ms.detect - event.timings_ms.wait)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="embedded", help="embedded, kafka, or the host:port of your own")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    pictures = [images.encode(image, 85) for image in islice(decoded(CLIP), options.frames)]
    folder = Path(tempfile.mkdtemp(prefix="sfumato-bench-"))
    say(f"logs: {folder}")
    settings = {"detector_threads": 1, "partitions": 4}
    with Stack(options.broker, folder / "speed", **settings) as stack:
        list(fetch_weights(stack.settings))
        rounds = compare(stack, pictures, options.rounds)
    bare, pipeline = (statistics.median(fps) for fps in zip(*rounds, strict=True))
    with Stack(options.broker, folder / "latency", **settings) as stack:
        paced = latency_at(stack, pipeline / 2)
    result = {
        "pipeline_fps": round(pipeline, 2),
        "bare_fps": round(bare, 2),
        "ratio": round(statistics.median(pipeline / bare for bare, pipeline in rounds), 3),
        "rounds": [{"bare_fps": round(bare, 2), "pipeline_fps": round(pipeline, 2)} for bare, pipeline in rounds],
        **paced,
        "ingest_cpu_s_per_camera_minute": {
            "h264_25_fps": ingest_cpu(options.broker, folder / "h264", clip(CLIP)),
            "mjpeg_25_fps": ingest_cpu(options.broker, folder / "mjpeg", mjpeg(folder / "clip.mkv")),
        },
        "goals": GOALS,
        "clip": f"{CLIP} 640x272",
        "model_threads": 1,
        "cores": os.cpu_count(),
        "broker": options.broker,
    }
    print(json.dumps(result), flush=True)
    return 0


def compare(stack: Stack, pictures: list[bytes], rounds: int) -> list[tuple[float, float]]:
    """Frames per second of the bare loop and of the pipeline, per round; a first round warms both up."""
    cameras = [f"camera-{i}" for i in range(4)]
    # Without tracks, which the bare loop has not either; bench_time.py prints what they cost.
    policies = [demonstration_policy(camera).model_copy(update={"hold": 0.0, "lookahead": 0.0}) for camera in cameras]
    stack.publish(*policies)
    settings = stack.settings
    options = DetectorOptions(threads=1, long_side=settings.detector_long_side, weights_dir=settings.weights_dir)
    ensemble = Ensemble([detectors.make("centerface", options)])
    stack.start("anonymize")
    stack.wait_for_worker()
    found = []
    with BenchReader(settings) as reader, closing(Sender(settings)) as sender:
        for epoch in range(rounds + 1):
            bare = bare_fps(stack, ensemble, pictures)
            pipeline = pipeline_fps(stack, reader, sender, cameras, epoch, pictures)
            say(f"round {epoch}: bare loop {bare:.2f} fps, pipeline {pipeline:.2f} fps")
            found.append((bare, pipeline))
    stack.stop("anonymize")
    return found[1:]


def bare_fps(stack: Stack, ensemble: Ensemble, pictures: list[bytes]) -> float:
    """Decode, detect, mask, encode in one loop, with nothing around it."""
    settings, policy = stack.settings, demonstration_policy("bare")
    started = time.perf_counter()
    for payload in pictures:
        image = images.decode(payload, "image/jpeg", max_pixels=settings.max_pixels)
        (found,) = ensemble.detect([image], [policy])
        masks.apply(image, tuple(d for d in found if d.evidence is not Evidence.WEAK), policy)
        images.encode(image, settings.jpeg_quality)
    return len(pictures) / (time.perf_counter() - started)


class Sender:
    """The cameras' producer, for all rounds: connecting takes librdkafka half a second, at times a whole one."""

    def __init__(self, settings: Any) -> None:
        self._producer = Producer(settings, client_id="bench")

    def send(self, topic: Topic, message: Message) -> None:
        self._producer.send(topic, message, self._refused)

    def close(self) -> None:
        if self._producer.close(60):
            raise SystemExit("bench: the broker did not take the frames")

    def _refused(self, error: KafkaError | None) -> None:
        if error is not None:
            say(f"the broker refused a message: {error}")


def pipeline_fps(
    stack: Stack, reader: BenchReader, sender: Sender, cameras: list[str], epoch: int, pictures: list[bytes]
) -> float:
    """The same frames through Kafka and Faust, from the first one sent to the last one audited."""
    sealer = Sealer(stores.make(stack.settings))
    sent_at = datetime.now(UTC)
    for i, payload in enumerate(pictures):
        id = FrameId(cameras[i % len(cameras)], epoch, i // len(cameras))
        taken_at = sent_at + id.sequence * CADENCE  # where time stands still, no mask is ever let go
        frame = RawFrame(id, taken_at, TimeSource.ARRIVAL, 640, 272, "image/jpeg", payload)
        sender.send(FRAMES_RAW, sealer.seal(frame).to_message())
    for i, camera in enumerate(cameras):
        last = len(range(i, len(pictures), len(cameras))) - 1
        record = EpochRecord(camera=camera, epoch=epoch, state=EpochState.ENDED, at=sent_at, last_sequence=last)
        sender.send(EPOCHS, record.to_message())
    deadline = time.monotonic() + TIMEOUT
    while (camera, epoch) not in reader.account.epochs or not reader.account.epochs[camera, epoch].ended:
        reader.read(0.5)
        if time.monotonic() > deadline:
            raise SystemExit("bench: the broker did not take the frames")
    settle(stack, reader)
    if reader.last_audited_at is None:
        raise SystemExit("bench: nothing was audited")
    return len(pictures) / (reader.last_audited_at - sent_at).total_seconds()


def latency_at(stack: Stack, fps: float) -> dict[str, Any]:
    """One camera that sends ``fps`` frames a second, for a minute; the first seconds, in which the model is compiled
    for its size, are left out of the delays."""
    stack.publish(demonstration_policy("camera"))
    stack.start("anonymize")
    stack.wait_for_worker()
    stack.start("bridge")
    stack.wait_for_bridge()
    table = f'[[camera]]\nid = "camera"\nurl = "{clip(CLIP).as_uri()}"\nloop = true\nfps = {fps}\n'
    (stack.folder / "cameras.toml").write_text(table)
    stack.start("ingest", "--cameras", str(stack.folder / "cameras.toml"), metrics_port=0)
    with BenchReader(stack.settings) as reader:
        read_for(stack, reader, WARM_UP_SECONDS)
        reader.beyond_model_ms.clear()
        read_for(stack, reader, PACED_SECONDS)
        memory = {"broker": stack.broker.resident_bytes()} if stack.broker else {}
        memory |= {verb: stack.resident_bytes(verb) for verb in ("ingest", "anonymize", "bridge")}
        stack.stop("ingest")
        settle(stack, reader)
        delays = statistics.quantiles(reader.beyond_model_ms, n=100, method="inclusive")
        return {
            "e2e_ms": {"p50": round(delays[49], 1), "p99": round(delays[98], 1)},
            "e2e_at_fps": round(fps, 2),
            "unaccounted": reader.account.unaccounted,
            "bytes_in": reader.bytes_in,
            "bytes_out": reader.bytes_out,
            "resident_bytes_after_60_s": memory,
        }


def ingest_cpu(broker: str, folder: Path, source: Path) -> float:
    """CPU seconds the ingestor needs for one camera-minute in real time."""
    with Stack(broker, folder, partitions=1) as stack:
        (folder / "cameras.toml").write_text(f'[[camera]]\nid = "camera"\nurl = "{source.as_uri()}"\nloop = true\n')
        stack.start("ingest", "--cameras", str(folder / "cameras.toml"))
        stack.wait_for("ingest", 30, lambda: stack.metric("sfumato_ingested_frames_total") > 0)
        started, cpu = time.monotonic(), stack.cpu_seconds("ingest")
        while time.monotonic() - started < INGEST_SECONDS:
            stack.check()
            time.sleep(0.5)
        used, elapsed = stack.cpu_seconds("ingest") - cpu, time.monotonic() - started
        return round(used / elapsed * 60, 2)


def read_for(stack: Stack, reader: BenchReader, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stack.check()
        reader.read(0.5)


def settle(stack: Stack, reader: TopicReader) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not reader.settle(1):
        stack.check("ingest")
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: the counts did not settle: {reader.account.report()}")


def mjpeg(path: Path) -> Path:
    """The clip as Motion JPEG, 25 frames per second."""
    first, *rest = decoded(CLIP)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.time_base = "yuvj420p", Fraction(1, 25)
        for number, image in enumerate([first, *rest]):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(name: str) -> Iterator[Any]:
    with av.open(str(clip(name))) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="bgr24")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
