"""An hour of video, as fast as it goes, and the memory of what it went through. ``make endurance`` runs it.

One JSON object is the last line on stdout. Exit status 0 only if every frame is accounted for and neither process
grew by more than a tenth after the first quarter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from bench import say
from clips import clip
from stack import Stack, demonstration_policy

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.reconcile import TopicReader

GROWTH = 1.1
"""Resident memory at the end against that after a quarter, at most."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="kafka", help="embedded (keeps all in memory), kafka, or host:port")
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sfumato-endurance-"))
    say(f"logs: {folder}")
    frames = repeated(clip("carphone"), folder / "long.mkv", options.minutes * 60)
    result = run(options.broker, folder, frames)
    print(json.dumps(result), flush=True)
    grown = any(max(samples[1:]) > GROWTH * samples[0] for samples in result["resident_bytes_by_quarter"].values())
    if grown:
        say("memory grew")
    return 1 if grown or result["unaccounted"] or result["unpublished"] else 0


def run(broker: str, folder: Path, frames: int) -> dict[str, Any]:
    with Stack(broker, folder, partitions=1) as stack, TopicReader(stack.settings) as reader:
        list(fetch_weights(stack.settings))
        stack.publish(demonstration_policy("long"))
        stack.start("anonymize")
        stack.wait_for_worker()
        # All is decoded, one picture per second is looked at: a CPU's hour would otherwise be the detector's.
        table = f"[[camera]]\nid = 'long'\nurl = '{(folder / 'long.mkv').as_uri()}'\npace = 'fast'\nfps = 1\n"
        (folder / "cameras.toml").write_text(table)
        stack.start("ingest", "--cameras", str(folder / "cameras.toml"), metrics_port=0)
        started = time.monotonic()
        samples: dict[str, list[int]] = {"ingest": [], "anonymize": []}
        while stack.running("ingest") or not reader.settle(0.2):
            for verb in samples:
                if stack.running(verb):
                    samples[verb].append(stack.resident_bytes(verb))
            reader.read(0.5)
            stack.check("ingest")
        seconds = time.monotonic() - started
        return {
            **reader.account.report(),
            "frames_in_file": frames,
            "times_real_time": round(frames / 25 / seconds, 1),
            "resident_bytes_by_quarter": {verb: quarters(found) for verb, found in samples.items()},
            "broker": stack.broker_name,
        }


def quarters(samples: list[int]) -> list[int]:
    """The largest of each quarter."""
    step = len(samples) / 4
    return [max(samples[int(n * step) : max(int(n * step) + 1, int((n + 1) * step))]) for n in range(4)]


def repeated(source: Path, target: Path, seconds: float) -> int:
    """A file in which the clip follows itself until it lasts so long; returns its frames, at 25 per second."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        total = 0
        with av.open(str(target), "w") as out:
            copy = out.add_stream_from_template(stream)
            length = max(packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None)
            while total < seconds * 25:
                shift = total // len(packets) * length
                for packet in packets:
                    again = av.Packet(bytes(packet))
                    again.stream, again.time_base, again.is_keyframe = copy, packet.time_base, packet.is_keyframe
                    again.pts, again.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                    out.mux(again)
                total += len(packets)
    return total


if __name__ == "__main__":
    sys.exit(main())
