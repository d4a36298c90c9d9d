"""How fast `sfumato verify` reads: audit events per second, and megabytes of frames per second.

The last line is one JSON object. ``peak_megabytes``: of resident memory, of the process that verified the events and
of the one that verified the frames. ``flips``: in a small folder a bit of every Nth byte (``--every N``) was flipped,
one at a time; ``unnoticed``: how many of these changes verify let pass.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from exporting import event, seal, signer, write

from sfumato.agents.evidence.inventory import digests, walk
from sfumato.agents.evidence.verify import verify

EVENTS = 20_000
FRAMES, FRAME_BYTES = 3_000, 300_000
SEGMENT = 1_500
"""Events of a segment: the ledger's default."""
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--every", type=int, default=7, help="flip a bit of every so many bytes; 1: of each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(
            json.dumps(
                {
                    **_events(folder, arguments.events),
                    **_frames(folder, arguments.frames),
                    **_flips(folder, arguments.every),
                }
            )
        )


def _events(folder: Path, number: int) -> dict[str, float]:
    """Without frames: parsing, hashing and counting."""
    key = signer()
    events = [event(n, b"frame", faces=2) for n in range(number)]
    sealed = seal(key, events, [*range(SEGMENT, number, SEGMENT), number])
    write(folder / "events", key, sealed, events, {}, with_frames=False)
    seconds, peak = _apart(folder / "events")
    return {
        "events": number,
        "events_per_second": round(number / seconds),
        "event_bytes": len(events[0].to_message().value),
        "events_peak_megabytes": peak,
    }


def _frames(folder: Path, number: int) -> dict[str, float]:
    """Large frames, of which the operating system has most in memory: hashing alone, and the whole."""
    key = signer()
    frames = {n: os.urandom(FRAME_BYTES) for n in range(number)}
    events = [event(n, frame) for n, frame in frames.items()]
    write(folder / "frames", key, seal(key, events, [number]), events, frames)
    del frames
    hashing = min(_hashed(folder / "frames") for _ in range(ROUNDS))
    whole, peak = _apart(folder / "frames")
    megabytes = number * FRAME_BYTES / 1e6
    return {
        "frames": number,
        "frame_bytes": FRAME_BYTES,
        "hash_megabytes_per_second": round(megabytes / hashing),
        "verify_megabytes_per_second": round(megabytes / whole),
        "frames_peak_megabytes": peak,
    }


def _flips(folder: Path, every: int) -> dict[str, int]:
    key, frames = signer(), {n: f"frame {n}".encode() * 4 for n in range(6)}
    events = [event(n, frame) for n, frame in frames.items()]
    write(folder / "small", key, seal(key, events, [2, 4, 6]), events, frames, skip=1)
    flipped = unnoticed = 0
    for path in sorted(path for path in (folder / "small").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for place in range(0, len(content), every):
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            flipped += 1
            unnoticed += verify(folder / "small", [key.verifier]).passed
        path.write_bytes(content)
    if not verify(folder / "small", [key.verifier]).passed:
        raise SystemExit("bench: the folder does not pass as it was made")
    return {"flips": flipped, "unnoticed": unnoticed}


def _apart(folder: Path) -> tuple[float, int]:
    """Seconds, the best of some rounds, and peak of resident memory in megabytes, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_verified, folder).result()


def _verified(folder: Path) -> tuple[float, int]:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        verdict = verify(folder, [signer().verifier])
        if not verdict.passed:
            raise SystemExit("\n".join(verdict.table()))
        seconds.append(time.perf_counter() - began)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return min(seconds), int(line.split()[1]) // 1024


def _hashed(folder: Path) -> float:
    began = time.perf_counter()
    for found, digest in digests(folder, walk(folder)):
        if digest is None:
            raise SystemExit(f"bench: {found.path} cannot be read")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
