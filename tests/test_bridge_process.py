"""`sfumato bridge` as users run it: its end, and a broker that comes late or restarts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sfumato.agents import provision
from sfumato.agents.broker import EmbeddedBroker, free_port
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.schemas.frame import AnonymizedFrame
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from tests.calling import bearer, secret
from tests.test_bridge import frame

TIMEOUT = 60.0


class Process:
    """A `sfumato bridge` of its own, ready or not."""

    def __init__(self, bootstrap_servers: str, topic_prefix: str, log: Path, port: int = 0) -> None:
        self.address = f"127.0.0.1:{port or free_port()}"
        self._log = log
        state = log.parent / "state"
        self.key = secret(Settings(state_dir=state))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SFUMATO_")},
            "SFUMATO_BOOTSTRAP_SERVERS": bootstrap_servers,
            "SFUMATO_TOPIC_PREFIX": topic_prefix,
            "SFUMATO_STATE_DIR": str(state),
            "SFUMATO_BRIDGE_PORT": self.address.split(":")[1],
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sfumato.agents.cli", "bridge"], env=environment, stdout=file, stderr=file
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, path: str, status: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        found: object = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(httpx.TransportError):
                found = httpx.get(f"http://{self.address}{path}", timeout=5, headers=bearer(self.key)).status_code
            if found == status:
                return
            time.sleep(0.05)
        pytest.fail(f"{path}: {found} instead of {status}\n{self.log}")

    def watch(self, camera: str) -> ClientConnection:
        return connect(f"ws://{self.address}/v1/cameras/{camera}/live", additional_headers=bearer(self.key))

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def bridge(topics: Settings, tmp_path: Path) -> Iterator[Process]:
    with Process(topics.bootstrap_servers, topics.topic_prefix, tmp_path / "log") as process:
        process.wait_for("/readyz", 200)
        yield process


def publish(settings: Settings, *frames: AnonymizedFrame) -> None:
    producer = Producer(settings, client_id="test")
    errors: list[object] = []
    for each in frames:
        producer.send(FRAMES_ANONYMIZED, each.to_message(), errors.append)
    assert producer.close(30) == 0
    assert errors == [None] * len(frames)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sends_the_viewers_away_and_ends_in_good_order(bridge, topics, number):
    with bridge.watch("north") as viewer, bridge.watch("north") as waiting:
        publish(topics, frame("north", 0))
        assert viewer.recv(TIMEOUT)
        assert waiting.recv(TIMEOUT)
        assert bridge.end(number) == 0, bridge.log
        for each in (viewer, waiting):
            with pytest.raises(ConnectionClosed) as closed:
                each.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
    assert "Traceback" not in bridge.log


def test_what_is_published_right_after_it_says_ready_is_shown(bridge, topics):
    publish(topics, *(frame(f"camera-{i}", 0) for i in range(20)))
    for i in range(20):
        bridge.wait_for(f"/v1/cameras/camera-{i}/snapshot.jpg", 200)


def test_waits_for_the_broker_and_follows_its_restart(tmp_path):
    port = free_port()
    settings = Settings(bootstrap_servers=f"127.0.0.1:{port}", partitions=2)
    with Process(settings.bootstrap_servers, "", tmp_path / "log") as bridge:
        bridge.wait_for("/healthz", 200)
        bridge.wait_for("/readyz", 503)
        for epoch in (1, 2):
            with EmbeddedBroker(port):
                provision.create(settings)
                bridge.wait_for("/readyz", 200)
                with bridge.watch("north") as viewer:
                    publish(settings, *(frame("north", n, epoch=epoch) for n in range(3)))
                    while f'"north/{epoch}/2"'.encode() not in viewer.recv(TIMEOUT):
                        pass
            bridge.wait_for("/readyz", 503)
            bridge.wait_for("/healthz", 200)
        assert "Traceback" not in bridge.log
        assert bridge.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_with_port_0_the_address_it_prints_can_be_opened(topics):
    settings = {"SFUMATO_BRIDGE_PORT": "0", "SFUMATO_BOOTSTRAP_SERVERS": topics.bootstrap_servers}
    settings["SFUMATO_STATE_DIR"] = str(topics.state_dir)
    command = [sys.executable, "-m", "sfumato.agents.cli", "bridge"]
    with subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        (address,) = next(found for line in process.stderr if (found := re.findall(r"viewer: (http://\S+/)", line)))
        assert httpx.get(address, timeout=TIMEOUT).status_code == 200
        process.terminate()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_taken_port_is_named_and_ends_it(bridge, topics, tmp_path):
    taken = {**os.environ, "SFUMATO_BRIDGE_PORT": bridge.address.split(":")[1]}
    taken["SFUMATO_BOOTSTRAP_SERVERS"] = topics.bootstrap_servers
    taken["SFUMATO_STATE_DIR"] = str(topics.state_dir)
    command = [sys.executable, "-m", "sfumato.agents.cli", "bridge"]
    ended = subprocess.run(command, env=taken, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 3  # uvicorn's
    assert "address already in use" in ended.stderr
