"""The demonstration: cameras of real video, anonymized live, on one machine. ``make demo`` runs it.

Everything goes to stderr except the last line: one JSON object. Exit status 0 only if every frame is
accounted for (``unaccounted`` 0, each masked frame published, each epoch ended).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from clips import clip
from stack import Stack, StackError, demonstration_policy
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from sfumato.agents import cameras
from sfumato.agents.cameras import CameraError
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.reconcile import TopicReader
from sfumato.agents.settings import Settings
from sfumato.schemas.policy import Codec, Output, Policy

CAMERAS = {"bridge-north": "bikes", "taxi": "carphone", "taxi-low-bitrate": "carphone-low-bitrate"}
"""Camera id and the clip it shows, in a loop."""
FPS = min(10.0, 1.5 * (os.cpu_count() or 1))
"""Frames per second taken from each camera: what the cores can mask without falling behind."""
SETTLE_TIMEOUT = 30.0


class Viewer(threading.Thread):
    """A viewer like the page's: one WebSocket, counting the pictures it was shown."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(name="viewer", daemon=True)
        self.pictures = 0
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._closing = threading.Event()

    def run(self) -> None:
        while not self._closing.is_set():
            try:
                with connect(self._url, origin=None, additional_headers=self._headers, open_timeout=5) as socket:
                    while not self._closing.is_set():
                        try:
                            self.pictures += isinstance(socket.recv(timeout=0.5), bytes)
                        except TimeoutError:
                            continue
            except (OSError, WebSocketException):
                self._closing.wait(0.5)

    def close(self) -> None:
        self._closing.set()
        self.join(5)


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    folder = Path(tempfile.mkdtemp(prefix="sfumato-demo-"))
    say(f"logs: {folder}")
    try:
        result = run(options, folder, ending)
    except StackError as error:
        say(str(error))
        return 1
    print(json.dumps(result), flush=True)
    accounted = result["unaccounted"] == 0 and result["unpublished"] == 0 and result["open_epochs"] == 0
    if not accounted:
        say(f"not every frame is accounted for; logs: {folder}")
    return 0 if accounted and result["frames_in"] > 0 else 1


def run(options: argparse.Namespace, folder: Path, ending: threading.Event) -> dict[str, Any]:
    say("fetching weights and clips")
    list(fetch_weights(Stack("", folder).settings))
    table = cameras_table(options.cameras, options.fps)
    (folder / "cameras.toml").write_text(table["text"])
    try:
        cameras.read_file(folder / "cameras.toml")
    except CameraError as error:
        raise StackError(f"CAMERAS: {error}") from None
    say(f"starting the {options.broker} broker, the anonymizer, the ledger, the bridge and {len(table['ids'])} cameras")
    with Stack(options.broker, folder, bridge_port=options.port) as stack, TopicReader(stack.settings) as reader:
        stack.publish(*demonstration_policies(table["ids"]))
        stack.start("anonymize", "--workers", str(options.workers))
        stack.start("ledger", metrics_port=0, ledger_segment_seconds=5.0)
        key = stack.key  # made before the bridge starts, which else would make one itself
        stack.start("bridge")
        stack.wait_for_worker()
        stack.wait_for_bridge()
        stack.start("ingest", "--cameras", str(folder / "cameras.toml"), metrics_port=0)
        print(beside(stack.settings), file=sys.stderr, flush=True)
        # What stands behind # never leaves the browser; the page signs in with it.
        say(f"watch it at {stack.bridge_url}/#key={key}   (Ctrl-C ends it)")
        live = stack.bridge_url.replace("http", "ws") + "/v1/cameras"
        viewers = [Viewer(f"{live}/{camera}/live?video=h264", key) for camera in table["ids"]]
        peak = watch(stack, reader, viewers, options.seconds, ending)
        return result(stack, reader, viewers, peak)


def watch(
    stack: Stack, reader: TopicReader, viewers: list[Viewer], seconds: float | None, ending: threading.Event
) -> int:
    """Until the time is up, the user ends it, the cameras end or the embedded broker's memory runs out."""
    if seconds is not None:  # a checking viewer per camera; left out where a person watches
        for viewer in viewers:
            viewer.start()
    peak, started = 0, time.monotonic()
    while not ending.is_set() and (seconds is None or time.monotonic() - started < seconds):
        ending.wait(0.2)
        stack.check("ingest")
        if not stack.running("ingest"):
            say("all cameras have ended")
            break
        if getattr(stack.broker, "near_limit", lambda: False)():
            say("the embedded broker's memory limit is near: ending in good order (BROKER=kafka has no such limit)")
            break
        reader.read(0.2)
        peak = max(peak, int(stack.metric("sfumato_bridge_viewers", stack.settings.bridge_port)))
    return peak


def result(stack: Stack, reader: TopicReader, viewers: list[Viewer], peak: int) -> dict[str, Any]:
    """Stop the cameras, wait until every frame has its outcome, stop the rest."""
    say("stopping the cameras and waiting for the last frames")
    status = stack.stop("ingest")
    if status:
        say(f"ingest ended with status {status}:\n{stack.tail('ingest')}")
    if status and not reader.account.epochs:
        raise StackError("no camera was read")
    settled = settle(reader)
    for viewer in viewers:
        if viewer.is_alive():
            viewer.close()
    stack.stop("bridge")
    stack.stop("anonymize")
    stack.stop("ledger")
    if not settled:
        say(f"nothing came for {SETTLE_TIMEOUT:g} s, but not every frame has its outcome:\n{stack.tail('anonymize')}")
    account = reader.account
    return {
        **account.report(),
        "fps": round(account.fps, 2),
        "latency_ms": {"p50": account.delay_ms(0.50), "p99": account.delay_ms(0.99)},
        "viewers": peak,
        "viewer_pictures": sum(viewer.pictures for viewer in viewers),
        "broker": stack.broker_name,
        "model": stack.settings.detectors,
    }


def demonstration_policies(cameras: list[str]) -> list[Policy]:
    """One for every camera, and one for the first, which comes out as H.264."""
    first = demonstration_policy(cameras[0])
    return [demonstration_policy("*"), first.model_copy(update={"output": Output(codec=Codec.H264)})]


def settle(reader: TopicReader) -> bool:
    """Until every frame has its outcome; False once nothing has come for :data:`SETTLE_TIMEOUT` seconds."""
    left, since = reader.account.unaccounted, time.monotonic()
    while not reader.settle(2):
        if reader.account.unaccounted != left:
            left, since = reader.account.unaccounted, time.monotonic()
            say(f"{left} frames on their way")
        elif time.monotonic() - since > SETTLE_TIMEOUT:
            return False
    return True


def cameras_table(given: str, fps: float) -> dict[str, Any]:
    """cameras.toml for the clips, or for what the user gave as ``name=url name=url``."""
    if given:
        pairs = dict(pair.split("=", 1) for pair in given.split() if "=" in pair)
        if len(pairs) != len(given.split()):
            raise SystemExit('CAMERAS: give "name=url name=url", each name once')
        rows = [{"id": camera, "url": url} for camera, url in pairs.items()]
    else:
        rows = [{"id": camera, "url": clip(name).as_uri(), "loop": True} for camera, name in CAMERAS.items()]
    # A JSON string or number is a TOML one, too.
    text = "\n".join(
        "\n".join(["[[camera]]", *(f"{key} = {json.dumps(value)}" for key, value in {**row, "fps": fps}.items())])
        for row in rows
    )
    return {"ids": [row["id"] for row in rows], "text": text + "\n"}


def beside(settings: Settings) -> str:
    """A line for a shell, in which ``sfumato archive`` and the others then find this demonstration."""
    given = {
        "BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TOPIC_PREFIX": settings.topic_prefix,
        "GROUP_ID": settings.group_id,
        "STATE_DIR": str(settings.state_dir),
    }
    return " ".join(["export", *(f"SFUMATO_{name}={text and shlex.quote(text)}" for name, text in given.items())])


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="end after this many seconds; default: at Ctrl-C")
    parser.add_argument("--broker", default="embedded", help="embedded, kafka, or the host:port of your own")
    cameras = os.environ.get("CAMERAS", "")  # a URL may hold a password, and a command line is public
    parser.add_argument("--cameras", default=cameras, help='"name=url name=url"; default: CAMERAS, else clips')
    parser.add_argument("--fps", type=float, default=FPS, help="frames per second taken from each camera")
    parser.add_argument("--workers", type=int, default=1, help="anonymizer processes")
    parser.add_argument("--port", type=int, default=8080, help="the viewer's port; 0: a free one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
