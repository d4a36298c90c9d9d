"""The benchmark of video: what access units cost beside JPEGs, from the camera to the audit. ``make bench`` runs it.

One JSON object is the last line on stdout; all its figures come from this one run. The clips are pictures of the clip
``bikes``, enlarged and encoded as a camera would (25 frames per second, a keyframe every two seconds, no B-frames).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from bench import BenchReader, decoded, read_for, say, settle
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from stack import Stack, demonstration_policy

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.footage import stores
from sfumato.agents.footage.sealing import Opener
from sfumato.models import images
from sfumato.models.decoders import NOTICE, Decoder
from sfumato.models.task import Task
from sfumato.schemas.frame import RawFrame
from sfumato.schemas.topics import FRAMES_RAW

GOALS = {"bytes_ratio": 1.1, "ingest_cores_per_1080p25_camera": 0.02}
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
BITRATES = {"720p h264": 2_000_000, "720p h265": 1_000_000, "1080p h264": 4_000_000, "1080p h265": 2_000_000}
"""Bits per second, in the range that cameras are usually set to at 25 frames per second."""
CODECS = {
    "h264": ("libx264", {"preset": "veryfast", "g": "50", "bf": "0", "tune": "zerolatency"}),
    "h265": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=50:bframes=0:log-level=0"}),
}
HASHED = {"preset": "ultrafast", "x265-params": "keyint=50:bframes=0:log-level=0:hash=1"}
FRAMES = 100
CAMERAS = 10
CPU_SECONDS = 20.0
LATENCY_FPS = 2.0
LATENCY_SECONDS = 30.0
MEMORY_SECONDS = 15.0
FLIPS = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="embedded", help="embedded, kafka, or the host:port of your own")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sfumato-bench-video-"))
    say(f"logs: {folder}")
    clips = {(size, codec): clip_of(folder, size, codec) for size in SIZES for codec in CODECS}
    result = {
        "clips": {
            f"{size} {codec}": compare(options.broker, folder / f"{size}-{codec}", path)
            for (size, codec), path in clips.items()
        },
        "ingest_cores_per_1080p25_camera": {
            "units": ingest_cores(options.broker, folder / "cpu-units", clips["1080p", "h264"], CAMERAS, True),
            "jpeg": ingest_cores(options.broker, folder / "cpu-jpeg", clips["1080p", "h264"], 1, False),
        },
        "latency_beyond_model_ms": {
            kind: latency(options.broker, folder / f"latency-{kind}", clips["720p", "h264"], kind == "units")
            for kind in ("units", "jpeg")
        },
        "worker_bytes_per_1080p_camera": memory_per_camera(options.broker, folder / "memory", clips["1080p", "h264"]),
        "flipped_bits_noticed": {
            "h264": noticed("h264", "libx264", CODECS["h264"][1]),
            "h265": noticed("hevc", "libx265", CODECS["h265"][1]),
            "h265_with_picture_hashes": noticed("hevc", "libx265", HASHED),
        },
        "goals": GOALS,
        "cores": os.cpu_count(),
        "broker": options.broker,
    }
    print(json.dumps(result), flush=True)
    return 0


def clip_of(folder: Path, size: str, codec: str) -> Path:
    """The clip at a size (a key of SIZES) in a codec, as a Matroska file."""
    path = folder / f"{size}-{codec}.mkv"
    name, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=25, options=options)
        stream.width, stream.height = SIZES[size]
        stream.bit_rate = BITRATES[f"{size} {codec}"]
        stream.pix_fmt = "yuv420p"
        for image in islice(cycle(decoded("bikes")), FRAMES):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            container.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
        container.mux(stream.encode(None))
    return path


def compare(broker: str, folder: Path, path: Path) -> dict[str, Any]:
    """Bytes through Kafka against what the source sent, and the worker's decoding, for units and for JPEGs."""
    with av.open(str(path)) as container:
        sent = sum(packet.size for packet in container.demux(video=0))
    units, unit_bytes = ingested(broker, folder / "units", path, True)
    stills, still_bytes = ingested(broker, folder / "jpeg", path, False)
    decode_ms = {"units": decode_units_ms(units), "jpeg": decode_stills_ms(stills)}
    say(f"{folder.name}: {unit_bytes / sent:.3f} times the source's bytes, JPEG {still_bytes / sent:.1f}; {decode_ms}")
    return {
        "bytes_ratio": round(unit_bytes / sent, 3),
        "bytes_ratio_jpeg": round(still_bytes / sent, 1),
        "decode_ms": decode_ms,
        "decode_ratio": round(decode_ms["units"] / decode_ms["jpeg"], 2),
    }


def ingested(broker: str, folder: Path, path: Path, remux: bool) -> tuple[list[RawFrame], int]:
    """What the ingestor made of a clip, and the bytes of its messages: values, keys and headers."""
    with Stack(broker, folder, partitions=1) as stack:
        stack.start("ingest", "--cameras", cameras(folder, path, 1, f"pace = 'fast'\nremux = {str(remux).lower()}"))
        stack.wait_until_ended("ingest", 120)
        consumer = Consumer({"bootstrap.servers": stack.settings.bootstrap_servers, "group.id": "bench"})
        consumer.assign([TopicPartition(stack.settings.topic(FRAMES_RAW), 0, OFFSET_BEGINNING)])
        frames, size, opener = [], 0, Opener(stores.make(stack.settings))
        while len(frames) < FRAMES:
            message = consumer.poll(30)
            if message is None or message.error():
                raise SystemExit(f"bench: the ingestor sent {len(frames)} of {FRAMES} frames:\n{stack.tail('ingest')}")
            headers: Any = message.headers()
            size += len(message.value()) + len(message.key()) + sum(len(name) + len(value) for name, value in headers)
            frames.append(opener.open(RawFrame.from_message(message.key(), message.value(), headers)))
        consumer.close()
    return frames, size


def decode_units_ms(frames: list[RawFrame]) -> float:
    """CPU milliseconds per picture, to BGR pixels."""
    decoder, policy = Decoder(max_pixels=40_000_000), demonstration_policy("bench")
    started, got = time.process_time(), 0
    for frame in frames:
        got += sum(task.image is not None for task in decoder.feed(Task(frame, policy)))
    if got != len(frames):
        raise SystemExit(f"bench: {got} of {len(frames)} units were decoded")
    return round((time.process_time() - started) * 1000 / len(frames), 2)


def decode_stills_ms(frames: list[RawFrame]) -> float:
    started = time.process_time()
    for frame in frames:
        images.decode(frame.payload, frame.content_type, max_pixels=40_000_000)
    return round((time.process_time() - started) * 1000 / len(frames), 2)


def ingest_cores(broker: str, folder: Path, path: Path, count: int, remux: bool) -> float:
    """Cores that the ingestor needs per camera in real time."""
    with Stack(broker, folder, partitions=1) as stack:
        table = cameras(folder, path, count, f"loop = true\nremux = {str(remux).lower()}")
        stack.start("ingest", "--cameras", table)
        stack.wait_for("ingest", 60, lambda: stack.metric("sfumato_ingested_frames_total") > 25 * count)
        started, cpu = time.monotonic(), stack.cpu_seconds("ingest")
        frames = stack.metric("sfumato_ingested_frames_total")
        while time.monotonic() - started < CPU_SECONDS:
            stack.check()
            time.sleep(0.5)
        used, elapsed = stack.cpu_seconds("ingest") - cpu, time.monotonic() - started
        rate = (stack.metric("sfumato_ingested_frames_total") - frames) / elapsed
        if rate < 20 * count:
            raise SystemExit(f"bench: {rate:.0f} frames/s of {count} cameras came through, not 25 of each")
        say(f"ingest, {count} cameras, {'units' if remux else 'jpeg'}: {used / elapsed / count:.4f} cores each")
        return round(used / elapsed / count, 4)


def latency(broker: str, folder: Path, path: Path, remux: bool) -> dict[str, float]:
    """Capture to audit without the detection, in milliseconds; one camera, a few frames per second looked at."""
    with Stack(broker, folder, partitions=1, detector_threads=1) as stack:
        list(fetch_weights(stack.settings))
        stack.publish(demonstration_policy("camera-0"))
        stack.start("anonymize")
        stack.wait_for_worker()
        table = cameras(folder, path, 1, f"loop = true\nfps = {LATENCY_FPS}\nremux = {str(remux).lower()}")
        stack.start("ingest", "--cameras", table, metrics_port=0)
        with BenchReader(stack.settings) as reader:
            read_for(stack, reader, 5.0)
            reader.beyond_model_ms.clear()
            read_for(stack, reader, LATENCY_SECONDS)
            stack.stop("ingest")
            settle(stack, reader)
            delays = statistics.quantiles(reader.beyond_model_ms, n=100, method="inclusive")
    return {"p50": round(delays[49], 1), "p99": round(delays[98], 1)}


def memory_per_camera(broker: str, folder: Path, path: Path) -> int:
    """What each further camera adds to the worker's resident memory, in bytes."""
    resident = {count: worker_memory(broker, folder / str(count), path, count) for count in (1, CAMERAS)}
    return round((resident[CAMERAS] - resident[1]) / (CAMERAS - 1))


def worker_memory(broker: str, folder: Path, path: Path, count: int) -> int:
    with Stack(broker, folder, partitions=1, detector_threads=1) as stack:
        list(fetch_weights(stack.settings))
        stack.publish(*(demonstration_policy(f"camera-{n}") for n in range(count)))
        stack.start("anonymize")
        stack.wait_for_worker()
        # Every unit is decoded, few pictures are looked at: the decoders are what is weighed.
        stack.start("ingest", "--cameras", cameras(folder, path, count, "loop = true\nfps = 0.2"), metrics_port=0)
        with BenchReader(stack.settings) as reader:
            read_for(stack, reader, MEMORY_SECONDS)
            return stack.resident_bytes("anonymize")


def noticed(codec: str, encoder: str, options: dict[str, str]) -> float:
    """The share of units with one flipped bit in which the decoder notices it, of those whose pictures change."""
    payloads = encoded(encoder, options)
    sound = pictures_of(codec, payloads)[0]
    draw, changed, found = random.Random(1), 0, 0
    for _ in range(FLIPS):
        number = draw.randrange(1, len(payloads))
        damaged = bytearray(payloads[number])
        damaged[draw.randrange(8, len(damaged))] ^= 1 << draw.randrange(8)
        pictures, told = pictures_of(codec, [*payloads[:number], bytes(damaged), *payloads[number + 1 :]])
        if told or any(not np.array_equal(pictures.get(n), picture) for n, picture in sound.items()):
            changed += 1
            found += told
    return round(found / changed, 2)


def encoded(encoder: str, options: dict[str, str]) -> list[bytes]:
    context: Any = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 320, 136, "yuv420p", Fraction(1, 25)
    context.options = options
    packets = []
    for number, image in enumerate(islice(decoded("bikes"), 30)):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(320, 136, "yuv420p")
        frame.pts, frame.time_base = number, context.time_base
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]


def pictures_of(codec: str, payloads: list[bytes]) -> tuple[dict[int, Any], bool]:
    """The pictures by number, and whether the decoder complained."""
    context: Any = av.CodecContext.create(codec, "r")
    context.thread_count, context.options = 1, {"err_detect": NOTICE[codec]}
    pictures, told = {}, False
    for number, payload in enumerate([*payloads, None]):
        packet = None if payload is None else av.Packet(payload)
        if packet is not None:
            packet.pts = number
        try:
            for frame in context.decode(packet):
                pictures[frame.pts] = frame.to_ndarray(format="gray")
                told |= frame.is_corrupt
        except FFmpegError:
            told = True
    return pictures, told


def cameras(folder: Path, path: Path, count: int, keys: str) -> str:
    """A cameras.toml of ``count`` cameras that show the clip."""
    rows = [f"[[camera]]\nid = 'camera-{n}'\nurl = '{path.as_uri()}'\n{keys}\n" for n in range(count)]
    (folder / "cameras.toml").write_text("\n".join(rows))
    return str(folder / "cameras.toml")


if __name__ == "__main__":
    sys.exit(main())
