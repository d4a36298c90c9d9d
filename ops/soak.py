"""The whole pipeline under a steady load that comes and goes, and what it holds meanwhile. ``make soak`` runs it.

    python ops/soak.py [--minutes 10] [--broker embedded] [--folder FOLDER]

Three cameras are read throughout, a fourth by an ingestor of its own that is stopped and started again, so that epochs
begin and end; viewers connect and leave; the API masks pictures and lists cameras. Each second resident memory, file
descriptors and threads of every process are sampled, and the frames that wait. The plot is FOLDER/soak.svg.

Slopes are those of least squares over the samples after the first third, by the hour. A row is flat where its slope
is less than a tenth of its level an hour, or the line rises by less than :data:`LITTLE` over these samples. One JSON
object is the last line on stdout. Exit status 0 only where every row is flat and every frame is accounted for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from bench import say
from clips import clip
from demo import CAMERAS, Viewer, cameras_table, demonstration_policies, settle
from plot import Row, draw
from stack import Stack

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.reconcile import TopicReader

FPS = 1.0
"""Pictures a second and camera that are looked at: a steady load, not a heavy one."""
GUEST = "guest"
"""The camera that comes and goes."""
LITTLE = {"bytes": 4_000_000, "descriptors": 3, "threads": 3, "lag": 250}
STEEP = 0.1
"""Of the level, an hour."""
SETTLED = 1 / 3
"""Of the samples, before caches and pools are full."""
VISIT, STAY = 20.0, 10.0
"""Seconds between two arrivals of a guest and its viewers, and for which they stay."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="embedded", help="embedded (keeps all in memory), kafka, or host:port")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="for the logs and the plot; default: a new one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sfumato-soak-"))
    say(f"logs: {folder}")
    result = run(options.broker, folder, options.minutes * 60)
    print(json.dumps(result), flush=True)
    return 0 if result["flat"] and not result["unaccounted"] and not result["unpublished"] else 1


def run(broker: str, folder: Path, seconds: float) -> dict[str, Any]:
    with Stack(broker, folder, partitions=4, bridge_port=0) as stack, TopicReader(stack.settings) as reader:
        list(fetch_weights(stack.settings))
        stack.publish(*demonstration_policies([*CAMERAS]))
        stack.start("anonymize")
        _ = stack.key
        stack.start("bridge")
        stack.wait_for_worker()
        stack.wait_for_bridge()
        table = cameras_table("", FPS)
        (folder / "cameras.toml").write_text(table["text"])
        stack.start("ingest", "--cameras", str(folder / "cameras.toml"), metrics_port=0)
        rows, guests = [], Guests(stack)
        with guests:
            for samples in sampled(stack, seconds, reader):
                rows.append(samples)
                stack.check(GUEST)
        for verb in ("ingest", GUEST):
            if verb in stack.verbs:
                stack.stop(verb)
        settle(reader)
        report = judged(rows)
        draw(folder / "soak.svg", report["plotted"], "seconds")
        return {
            **reader.account.report(),
            "minutes": round(seconds / 60, 1),
            "samples": len(rows),
            "visits": guests.visits,
            "calls": guests.calls,
            "viewer_pictures": guests.pictures,
            "flat": all(row["flat"] for row in report["rows"].values()),
            "rows": report["rows"],
            "plot": str(folder / "soak.svg"),
            "broker": stack.broker_name,
        }


def sampled(stack: Stack, seconds: float, reader: TopicReader) -> Iterator[dict[str, float]]:
    """One a second: ``PROCESS.WHAT``, and ``at``."""
    started = time.monotonic()
    while (at := time.monotonic() - started) < seconds:
        row: dict[str, float] = {"at": at, "anonymize.lag": stack.metric("sfumato_consumer_lag_frames")}
        for verb in ("anonymize", "ingest", "bridge"):
            row |= {f"{verb}.{what}": value for what, value in stack.use(verb).items()}
        yield row
        while time.monotonic() - started < at + 1:
            reader.read(0.2)


class Guests(threading.Thread):
    """A context manager: a camera, viewers and callers that come every :data:`VISIT` seconds and leave again."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="guests", daemon=True)
        self.visits = self.calls = self.pictures = 0
        self._stack = stack
        self._ending = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Guests:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(120)
        if self._failed is not None:
            raise self._failed

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                self._visit()
                self._ending.wait(VISIT - STAY)
        except BaseException as error:  # noqa: BLE001 - raised where the thread is waited for
            self._failed = error

    def _visit(self) -> None:
        stack = self._stack
        url = clip("carphone").as_uri()
        table = f"[[camera]]\nid = '{GUEST}'\nurl = '{url}'\nloop = true\nfps = {FPS}\n"
        (stack.folder / "guest.toml").write_text(table)
        stack.start("ingest", "--cameras", str(stack.folder / "guest.toml"), name=GUEST, metrics_port=0)
        live = stack.bridge_url.replace("http", "ws") + "/v1/cameras"
        watched = [f"{live}/{camera}/live{form}" for camera in (*CAMERAS, GUEST) for form in ("", "?video=h264")]
        viewers = [Viewer(url, stack.key) for url in watched]
        for viewer in viewers:
            viewer.start()
        ending = time.monotonic() + STAY
        with httpx.Client(base_url=stack.bridge_url, headers={"Authorization": f"Bearer {stack.key}"}) as client:
            while time.monotonic() < ending and not self._ending.is_set():
                self._call(client)
                self._ending.wait(0.5)
        for viewer in viewers:
            viewer.close()
            self.pictures += viewer.pictures
        stack.stop(GUEST)
        self.visits += 1

    def _call(self, client: httpx.Client) -> None:
        client.get("/v1/cameras").raise_for_status()
        picture = client.get(f"/v1/cameras/{next(iter(CAMERAS))}/snapshot.jpg", timeout=30)
        if picture.status_code == 200:
            kind = {"Content-Type": "image/jpeg"}
            client.post("/v1/images:anonymize", content=picture.content, headers=kind, timeout=60)
        self.calls += 3


def judged(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Of each row its level, its slope an hour, and whether it is flat."""
    late = samples[int(len(samples) * SETTLED) :]
    rows, plotted = {}, []
    for name in [name for name in samples[0] if name != "at"]:
        level, slope = line([row["at"] for row in late], [row[name] for row in late])
        rise = slope * (late[-1]["at"] - late[0]["at"])
        flat = slope * 3600 < STEEP * level or rise < LITTLE[name.partition(".")[2]]
        rows[name] = {"level": round(level, 1), "slope_per_hour": round(slope * 3600, 1), "flat": flat}
        plotted.append(Row(name, [(row["at"], row[name]) for row in samples]))
    return {"rows": rows, "plotted": plotted}


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """The mean of y, and the slope of the line of least squares."""
    middle, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle) ** 2 for a in x)
    slope = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
    return level, slope


if __name__ == "__main__":
    sys.exit(main())
