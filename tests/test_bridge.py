"""The bridge on real brokers: the newest anonymized frame to everyone, and nothing else."""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sfumato.agents.bridge import make_app
from sfumato.agents.live import Live
from sfumato.agents.produce import Producer
from sfumato.agents.reader import HANDED_OVER, Reader
from sfumato.agents.settings import Settings
from sfumato.agents.web.server import Server, config
from sfumato.models import images
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, Message, RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import FRAMES_ANONYMIZED, FRAMES_RAW, Topic
from tests.calling import bearer, secret


def picture(shade: int = 90, size: tuple[int, int] = (64, 36)) -> bytes:
    return images.encode(np.full((size[1], size[0], 3), shade, np.uint8), 80)


def frame(
    camera: str, sequence: int, payload: bytes | None = None, epoch: int = 1, **changes: object
) -> AnonymizedFrame:
    fields = {
        "captured_at": datetime.now(UTC),
        "time_source": TimeSource.ARRIVAL,
        "width": 64,
        "height": 36,
        "content_type": "image/jpeg",
        "outcome": Outcome.MASKED,
        "reason": None,
        "policy_version": 1,
        "detections": (),
        "payload": payload or picture(),
        **changes,
    }
    return AnonymizedFrame(id=FrameId(camera, epoch, sequence), **fields)  # type: ignore[arg-type]


class Bridge:
    """A bridge in a thread of this process, a key that opens all of it, and a producer beside it."""

    def __init__(self, settings: Settings, until: str = "/readyz") -> None:
        self.settings = settings
        self._until = until
        self.key = secret(settings)
        self.app = make_app(settings)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = Server(config(self.app, settings, None), self.app.state.live)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._producer = Producer(settings, client_id="test")
        self._client = httpx.Client(base_url=f"http://{self.address}", timeout=10, headers=bearer(self.key))

    def __enter__(self) -> Bridge:
        self._thread.start()
        self.wait_until(lambda: self.status(self._until) == 200)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._producer.close(5)
        self._client.close()
        assert not self._thread.is_alive()

    def publish(self, *frames: AnonymizedFrame) -> None:
        self.send(FRAMES_ANONYMIZED, *(frame.to_message() for frame in frames))

    def send(self, topic: Topic, *messages: Message) -> None:
        """Send and wait until the broker has all of them."""
        left = threading.Semaphore(0)
        for message in messages:
            self._producer.send(topic, message, lambda error: left.release())
        for _ in messages:
            assert left.acquire(timeout=20)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self._client.get(path, headers=headers)

    def status(self, path: str) -> int:
        try:
            return self.get(path).status_code
        except httpx.TransportError:
            return 0  # not listening yet

    def watch(self, camera: str, query: str = "", **options: object):  # type: ignore[no-untyped-def]
        options = {"additional_headers": bearer(self.key), **options}
        return connect(f"ws://{self.address}/v1/cameras/{camera}/live{query}", **options)

    def sign_in(self, page: Page) -> None:
        """A page of this bridge then holds its session."""
        assert page.request.post(f"http://{self.address}/v1/session", data={"key": self.key}).status == 201

    def wait_until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        waited = threading.Event()
        for _ in range(int(timeout / 0.05)):
            if condition():
                return
            waited.wait(0.05)
        pytest.fail(f"timed out; refused: {metric(self, 'sfumato_bridge_refused_messages_total')}")

    def shown(self) -> dict[str, dict[str, object]]:
        return {camera["id"]: camera for camera in self.get("/v1/cameras").json()["items"]}


@pytest.fixture
def bridge(topics: Settings) -> Iterator[Bridge]:
    with Bridge(topics) as bridge:
        yield bridge


def unpack(message: bytes) -> tuple[dict[str, object], bytes]:
    (length,) = struct.unpack_from(">I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def test_a_caller_has_so_many_connections_and_gets_them_back(topics):
    other = bearer(secret(topics))
    with Bridge(topics.model_copy(update={"caller_connections": 2})) as bridge:
        with bridge.watch("north"), bridge.watch("north"):
            with pytest.raises(InvalidStatus) as refused:
                bridge.watch("south")
            assert refused.value.response.status_code == 429
            assert "Retry-After" in refused.value.response.headers
            assert bridge.get("/v1/session").status_code == 429
            assert bridge.get("/v1/session", **other).status_code == 200
        bridge.wait_until(lambda: not bridge.app.state.underway._open)
        assert bridge.get("/v1/session").status_code == 200


def test_cameras_snapshots_and_live_frames(bridge):
    assert bridge.get("/v1/cameras").json() == {"items": [], "next": None}
    masked = frame("north", 0, picture(40))
    refused = frame("south", 5, outcome=Outcome.FULLY_MASKED, reason=Reason.NO_POLICY, policy_version=None)
    bridge.publish(masked, refused)
    bridge.wait_until(lambda: len(bridge.shown()) == 2)
    shown = bridge.shown()
    assert shown["north"]["state"] == "live"
    assert shown["north"]["frame"] == "north/1/0"
    assert (shown["south"]["outcome"], shown["south"]["reason"]) == ("fully_masked", "no_policy")
    snapshot = bridge.get("/v1/cameras/north/snapshot.jpg")
    assert (snapshot.content, snapshot.headers["content-type"]) == (masked.payload, "image/jpeg")
    assert snapshot.headers["cache-control"] == "no-store"
    with bridge.watch("north") as viewer:
        header, payload = unpack(viewer.recv(10))
        assert (header["frame"], payload) == ("north/1/0", masked.payload)
        bridge.wait_until(lambda: bridge.shown()["north"]["viewers"] == 1)
        newer = frame("north", 1, picture(200))
        bridge.publish(newer)
        header, payload = unpack(viewer.recv(10))
        assert (header["frame"], payload) == ("north/1/1", newer.payload)
    bridge.wait_until(lambda: bridge.shown()["north"]["viewers"] == 0)


def test_a_viewer_may_come_before_its_camera(bridge):
    with bridge.watch("early") as viewer:
        bridge.publish(frame("early", 0))
        assert unpack(viewer.recv(10))[0]["frame"] == "early/1/0"


def test_frames_of_older_epochs_and_duplicates_are_not_shown_again(bridge):
    """Within an epoch sequences may go back: that of a camera with B-frames is the order of decoding."""
    with bridge.watch("north") as viewer:
        ids = [(1, 3), (1, 3), (1, 2), (2, 0), (1, 9), (2, 1)]
        for epoch, sequence in ids:
            bridge.publish(frame("north", sequence, epoch=epoch))
        seen = []
        while seen[-1:] != ["north/2/1"]:
            seen.append(unpack(viewer.recv(10))[0]["frame"])
    assert [name for name in ("north/1/3", "north/1/2", "north/2/0", "north/2/1") if name in seen] == seen


def test_only_anonymized_frames_are_read(bridge):
    """Raw frames lie in the same broker; the bridge has no way to them."""
    secret = picture(251)
    raw = RawFrame(FrameId("north", 1, 0), datetime.now(UTC), TimeSource.ARRIVAL, 64, 36, "image/jpeg", secret)
    bridge.send(FRAMES_RAW, raw.to_message())
    bridge.publish(frame("south", 0))
    bridge.wait_until(lambda: "south" in bridge.shown())
    assert set(bridge.shown()) == {"south"}
    assert bridge.get("/v1/cameras/north/snapshot.jpg").status_code == 404
    read = {partition.topic for partition in bridge.app.state.reader.assigned}
    assert read == {bridge.settings.topic(FRAMES_ANONYMIZED)}


def test_messages_that_break_the_contract_are_counted_and_not_shown(bridge):
    key, value, headers = frame("north", 0).to_message()
    raw = RawFrame(FrameId("north", 1, 1), datetime.now(UTC), TimeSource.ARRIVAL, 64, 36, "image/jpeg", picture())
    before = metric(bridge, "sfumato_bridge_refused_messages_total")
    bridge.send(
        FRAMES_ANONYMIZED,
        Message(key, b"no jpeg", headers),
        Message(key, value, []),
        Message(b"south", value, headers),
        Message(key, b"", headers),
        frame("north", 2, b"<svg/>", content_type="image/svg+xml").to_message(),
        raw.to_message(),  # a raw frame on the wrong topic
    )
    bridge.publish(frame("last", 0))
    bridge.wait_until(lambda: metric(bridge, "sfumato_bridge_refused_messages_total") - before == 6)
    bridge.wait_until(lambda: "last" in bridge.shown())
    assert set(bridge.shown()) == {"last"}


def test_a_slow_viewer_skips_to_the_newest_and_holds_up_nobody(bridge):
    payload = images.encode(np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8), 95)
    count = 120  # 120 frames of a megabyte: far more than any buffer between the two holds
    with bridge.watch("north", max_queue=1, max_size=None) as slow, bridge.watch("north", max_size=None) as quick:
        bridge.wait_until(lambda: metric(bridge, "sfumato_bridge_viewers") >= 2)
        for sequence in range(count):
            bridge.publish(frame("north", sequence, payload))
            while unpack(quick.recv(20))[0]["frame"] != f"north/1/{sequence}":
                pass
        seen = []
        while seen[-1:] != [f"north/1/{count - 1}"]:
            seen.append(unpack(slow.recv(20))[0]["frame"])
    assert len(seen) < count / 2


@pytest.mark.parametrize("path", ["/v1/cameras/nobody/snapshot.jpg", "/v1/nothing"])
def test_errors_are_problem_json(bridge, path):
    response = bridge.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404
    assert response.json()["detail"]


def test_foreign_hosts_and_origins_are_refused(bridge):
    assert bridge.get("/v1/cameras", Host="evil.example").status_code == 400
    with pytest.raises(InvalidStatus), bridge.watch("north", origin="http://evil.example"):
        pass
    with bridge.watch("north", origin=f"http://{bridge.address}"):
        pass


def test_pages_carry_a_strict_policy_and_load_nothing_from_outside(bridge):
    for path in ("/", "/viewer/viewer.js", "/viewer/viewer.css"):
        response = bridge.get(path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "https://" not in response.text
        assert "http://" not in response.text
    assert bridge.status("/docs") == 404
    assert bridge.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_not_ready_without_a_topic(settings):
    with Bridge(settings, until="/healthz") as bridge:  # the topics were not created
        response = bridge.get("/readyz")
        assert response.status_code == 503
        assert response.json()["detail"]


def test_a_busy_loop_is_handed_a_bounded_number_of_frames():
    """Without a broker: the reader stops taking messages until the loop has taken the frames before."""
    handed: queue.Queue[Callable[[], None]] = queue.Queue()
    loop = SimpleNamespace(call_soon_threadsafe=lambda call, *arguments: handed.put(partial(call, *arguments)))
    reader = Reader(Settings(bootstrap_servers="127.0.0.1:1"), Live(), loop)  # type: ignore[arg-type]

    def take() -> None:
        for sequence in range(HANDED_OVER + 2):
            reader._take(arrived(*frame("north", sequence).to_message()))

    taking = threading.Thread(target=take)
    taking.start()
    first, *_ = [handed.get(timeout=20) for _ in range(HANDED_OVER)]
    with pytest.raises(queue.Empty):
        handed.get(timeout=0.5)
    first()
    handed.get(timeout=20)()
    handed.get(timeout=20)
    taking.join(20)
    assert not taking.is_alive()


def arrived(key, value, headers):  # type: ignore[no-untyped-def]
    """A message as confluent-kafka gives it."""
    return SimpleNamespace(error=lambda: None, key=lambda: key, value=lambda: value, headers=lambda: headers)


def metric(bridge: Bridge, name: str) -> float:
    lines = bridge.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)
