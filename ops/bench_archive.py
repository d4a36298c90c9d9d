"""Jobs beside the bare engine on the same film: pictures per second, and the workers' resident memory.

    .venv/bin/python ops/bench_archive.py --minutes 10

A clip is enlarged to 1920x1080 and repeated, at 25 frames a second unless ``--rate`` says otherwise, with a keyframe
every two seconds. ``bare`` is ``Film.mask`` in a process of its own: read from a file, written to a file. ``job`` is
the film uploaded, masked in parts by one ``sfumato archive`` worker on the embedded broker and joined; its seconds run
from the job's start to its end. The last line is one JSON object; ``resident_mb`` is the highest seen of the worker and
its supervisor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import httpx
from clips import clip
from stack import Stack

from sfumato.agents.access.keys import Keys
from sfumato.agents.database import Database
from sfumato.agents.fetch import fetch_weights
from sfumato.schemas.scope import Scope

PIECE = 8 * 1024 * 1024
BARE = """
import sys, time
from pathlib import Path
from sfumato.agents import rules
from sfumato.agents.settings import load
from sfumato.models.film import Film, Options
settings = load()
chosen = rules.chosen(settings, None, "face", None)
ensemble = rules.load(settings, chosen.policy)
film = Film(Path(sys.argv[1]), ensemble, chosen.policy, Options(settings.max_pixels, False, settings.batch_size))
began = time.perf_counter()
film.mask(Path(sys.argv[2]), lambda: None)
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--rate", type=int, default=25, help="Frames per second of the film.")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = folder / "film.mp4"
        width, height = map(int, options.size.split("x"))
        frames = make(film, round(options.minutes * 60 * options.rate), options.rate, width, height)
        bare = float(
            subprocess.run(
                [sys.executable, "-c", BARE, film, folder / "bare.mp4"], check=True, capture_output=True, text=True
            ).stdout
        )
        seconds, resident, account = job(film, folder, options.workers)
    told = {
        "frames": frames,
        "seconds": frames / options.rate,
        "masked": account["masked"],
        "bare_fps": round(frames / bare, 2),
        "job_fps": round(frames / seconds, 2),
        "job_by_bare": round(bare / seconds, 3),
        "resident_mb": round(resident / 1e6),
        "workers": options.workers,
    }
    print(json.dumps(told))


def make(path: Path, count: int, rate: int, width: int, height: int) -> int:
    """The clip, over and over."""
    with av.open(str(clip("bikes"))) as source:
        pictures = [frame.reformat(width, height, "yuv420p") for frame in islice(source.decode(video=0), 100)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "g": str(2 * rate)})
        stream.width, stream.height = width, height
        for number, picture in enumerate(islice(cycle(pictures), count)):
            picture.pts, picture.time_base = number, 1 / stream.average_rate
            picture.pict_type = 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return count


def job(film: Path, folder: Path, workers: int) -> tuple[float, float, dict[str, Any]]:
    """Seconds, the highest resident bytes, and the account."""
    with Stack("embedded", folder / "stack", detectors="centerface,clp") as stack:
        list(fetch_weights(stack.settings))
        database = Database(stack.settings)
        database.migrate()
        key = Keys(database).create("bench", tuple(Scope), purpose="benchmark", rate=10_000).secret
        database.close()
        stack.start("bridge")
        stack.start("archive", "--workers", str(workers))
        stack.wait_for_bridge()
        with httpx.Client(base_url=stack.bridge_url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            upload = client.post(
                "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": str(film.stat().st_size)}
            )
            upload.raise_for_status()
            place, offset = upload.headers["location"], 0
            for piece in pieces(film):
                headers = {
                    "Tus-Resumable": "1.0.0",
                    "Upload-Offset": str(offset),
                    "Content-Type": "application/offset+octet-stream",
                }
                client.patch(place, content=piece, headers=headers).raise_for_status()
                offset += len(piece)
            files = [{"upload": place.rpartition("/")[2]}]
            wanted = {"files": files, "policy": {"targets": ["face"]}, "purpose": "bench"}
            made = client.post("/v1/jobs", json=wanted)
            made.raise_for_status()
            return watch(stack, client, f"/v1/jobs/{made.json()['id']}")


def watch(stack: Stack, client: httpx.Client, place: str) -> tuple[float, float, dict[str, Any]]:
    resident, began, waiting = 0.0, None, threading.Event()
    while True:
        stack.check()
        resident = max(resident, stack.resident_bytes("archive"))
        answer = client.get(place)
        if answer.status_code != 200:
            raise SystemExit(f"GET {place}: {answer.status_code} {answer.text}")
        found = answer.json()
        if began is None and found["started_at"] is not None:
            began = time.perf_counter()
        if found["state"] not in ("queued", "running"):
            break
        waiting.wait(0.5)
    if found["state"] != "succeeded" or began is None:
        raise SystemExit(json.dumps(found))
    return time.perf_counter() - began, resident, found["files"][0]["result"]["account"]


def pieces(film: Path) -> Iterator[bytes]:
    with film.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


if __name__ == "__main__":
    main()
