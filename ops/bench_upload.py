"""How fast a large upload is, and how much memory it takes: a film of ``--mebibytes`` to a bridge of its own, by one
request and by pieces, beside writing the same bytes into a file. Prints a JSON object."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from sfumato.agents.access.keys import Keys
from sfumato.agents.broker import free_port
from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import Uploads
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.uploading import film

MEBIBYTE = 1024 * 1024
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = 32 * MEBIBYTE


class Memory:
    """The resident memory of a process, looked at every few milliseconds, in megabytes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ending = threading.Event()
        self.before = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> float:
        return self._process.memory_info().rss / 1e6

    def _watch(self) -> None:
        while not self._ending.wait(0.005):
            self.peak = max(self.peak, self._now())

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


def content(size: int) -> Iterator[bytes]:
    """A film of so many bytes: most of them lie in a box that players skip, and cannot be compressed."""
    begin, noise = film(), os.urandom(MEBIBYTE)
    left = size - len(begin)
    yield begin + (1).to_bytes(4, "big") + b"free" + left.to_bytes(8, "big")
    left -= 16
    while left > 0:
        yield noise[:left]
        left -= MEBIBYTE


def plain_write(size: int, folder: Path) -> float:
    """Seconds."""
    began = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for chunk in content(size):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    (folder / "plain").unlink()
    return time.perf_counter() - began


def upload(client: httpx.Client, size: int, piece: int) -> tuple[str, float]:
    """An upload's URL, and the seconds that it took."""
    began = time.perf_counter()
    url = client.post("/v1/uploads", headers={"Upload-Length": str(size)}).raise_for_status().headers["location"]
    source, offset, rest = content(size), 0, b""
    while offset < size:
        wanted = min(piece, size - offset)

        def body(wanted: int = wanted) -> Iterator[bytes]:
            nonlocal rest
            while wanted:
                chunk = rest or next(source)
                yield chunk[:wanted]
                rest = chunk[wanted:]
                wanted -= min(wanted, len(chunk))

        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(wanted),
            "Upload-Offset": str(offset),
        }
        response = client.patch(url, content=body(), headers=headers).raise_for_status()
        offset = int(response.headers["upload-offset"])
    return url, time.perf_counter() - began


def read(uploads: Uploads, id: str) -> float:
    """Seconds to open all of it, as a job does."""
    began = time.perf_counter()
    with uploads.open(id) as file:
        while file.read(MEBIBYTE):
            pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    size = parser.parse_args().mebibytes * MEBIBYTE
    with tempfile.TemporaryDirectory() as name:
        port, folder = free_port(), Path(name)
        settings = Settings(state_dir=folder / "state")
        database = Database(settings)
        database.migrate()
        secret = Keys(database).create("bench", [Scope.UPLOADS_WRITE], purpose="bench").secret
        uploads = Uploads(settings, database, Blobs(settings), MasterKeys(settings))
        environment = {
            **os.environ,
            "SFUMATO_STATE_DIR": str(settings.state_dir),
            "SFUMATO_BRIDGE_PORT": str(port),
            "SFUMATO_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",  # uploads need no Kafka
        }
        command = [sys.executable, "-m", "sfumato.agents.cli", "bridge"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as bridge:
            try:
                print(json.dumps(measure(uploads, bridge.pid, port, secret, size, folder)))
            finally:
                bridge.terminate()
        database.close()


def measure(uploads: Uploads, pid: int, port: int, secret: str, size: int, folder: Path) -> dict[str, object]:
    headers = {**TUS, "Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.options("/v1/uploads").raise_for_status()
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        upload(client, 16 * MEBIBYTE, PIECE)  # what is allocated once
        written = plain_write(size, folder)
        results: dict[str, object] = {
            "mebibytes": size // MEBIBYTE,
            "plain_write_mb_per_s": round(size / 1e6 / written),
        }
        for name, piece in (("one_request", size), ("pieces_of_32_mebibytes", PIECE)):
            memory = Memory(pid)
            url, seconds = upload(client, size, piece)
            memory.end()
            results[name] = {
                "mb_per_s": round(size / 1e6 / seconds),
                "share_of_plain_write": round(written / seconds, 2),
                "bridge_rss_before_mb": round(memory.before),
                "bridge_rss_peak_mb": round(memory.peak),
            }
            if name == "one_request":
                results["opened_mb_per_s"] = round(size / 1e6 / read(uploads, url.rpartition("/")[2]))
            client.delete(url).raise_for_status()
    return results


if __name__ == "__main__":
    main()
