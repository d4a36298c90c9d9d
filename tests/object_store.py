"""A real S3 service for the tests: moto's server, in a virtual environment of its own (``make .cache/moto/.done``)."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfumato.agents.broker import free_port

SERVER = Path(__file__).parents[1] / ".cache" / "moto" / "bin" / "moto_server"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@contextmanager
def object_store(bucket: str) -> Iterator[str]:
    """Its URL; the bucket exists."""
    assert SERVER.exists(), "make .cache/moto/.done installs the S3 service of the tests"
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(SERVER), "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _create(f"{url}/{bucket}", process)
            yield url
        finally:
            process.kill()


def _create(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "moto_server ended"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10):
                return
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "moto_server does not answer"
            time.sleep(0.1)
