"""A topic per vendor: what gets into it, in which order, and what a refused copy or a restart does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from sfumato.agents import metrics, provision, share, shares
from sfumato.agents.connection import client_config
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.shares import ShareError, Vendor
from sfumato.schemas.frame import Message
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from tests.ingesting import read_topic
from tests.test_bridge import frame

ACME, OTHER = Vendor(name="acme", cameras=("north-*",)), Vendor(name="other", cameras=("south", "north-1"))
TIMEOUT = 60.0


def publish(settings: Settings, messages: Iterable[Message]) -> None:
    producer, errors = Producer(settings, client_id="test"), []
    for message in messages:
        producer.send(FRAMES_ANONYMIZED, message, errors.append)
    assert producer.close(30) == 0
    assert set(errors) <= {None}


def contents(settings: Settings, vendor: Vendor) -> list[tuple[Any, Any, Any]]:
    return [(m.key(), m.value(), m.headers()) for m in read_topic(settings, vendor.topic)]


class Sharing:
    """``share`` in a thread; a context manager that ends it, and :attr:`failure`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failure: Exception | None = None

    def _run(self) -> None:
        try:
            share.share(self._settings, [ACME, OTHER], self._stopping)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def until(self, counts: dict[Vendor, int]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while any(len(contents(self._settings, vendor)) < count for vendor, count in counts.items()):
            assert self.failure is None
            assert time.monotonic() < deadline

    def until_failed(self) -> None:
        self._thread.join(TIMEOUT)
        assert self.failure is not None

    def __enter__(self) -> Sharing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT)


@pytest.fixture
def shared(topics: Settings) -> Settings:
    provision.create(topics, (ACME.topic, OTHER.topic))
    return topics


CAMERAS = ("north-1", "north-2", "south", "west")


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_vendors_get_their_cameras_byte_for_byte_and_in_order(shared, monkeypatch):
    lags: list[float] = []
    copy = share._copy

    def noted(*arguments: Any) -> bool:
        lags.append(metrics.SHARE_LAG._value.get())
        return copy(*arguments)

    monkeypatch.setattr(share, "_copy", noted)
    monkeypatch.setattr(share, "BATCH", 8)
    refused = metrics.SHARE_REFUSED._value.get()
    sent = [frame(camera, number).to_message() for number in range(20) for camera in CAMERAS]
    raw = Message(b"north-1", b"\xff\xd8\xff raw", [("ce_id", b"north-1/1/99")])
    publish(shared, [*sent[:40], raw])
    with Sharing(shared) as sharing:
        sharing.until({ACME: 20, OTHER: 20})
    publish(shared, sent[40:])
    with Sharing(shared) as sharing:
        sharing.until({ACME: 40, OTHER: 40})
    assert sharing.failure is None
    for vendor, cameras in ((ACME, ("north-1", "north-2")), (OTHER, ("north-1", "south"))):
        found = contents(shared, vendor)
        assert len(found) == 40  # it went on where it had ended
        for camera in cameras:
            wanted = [tuple(message) for message in sent if message.key == camera.encode()]
            assert [each for each in found if each[0] == camera.encode()] == wanted
    assert metrics.SHARE_REFUSED._value.get() == refused + 1
    assert max(lags) > lags[-1]  # 41 waited, of which 8 are copied at a time
    assert 0 < lags[-1] <= 8  # before the last of them nothing else waited
    assert metrics.SHARE_ASSIGNED._value.get() == 2


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
def test_what_a_vendors_topic_refuses_ends_the_process_and_is_copied_later(shared):
    sent = [frame("north-1", number).to_message() for number in range(3)]
    publish(shared, sent[:1])
    with Sharing(shared) as sharing:
        sharing.until({ACME: 1})
        limit(shared, ACME, "100")
        publish(shared, sent[1:])
        sharing.until_failed()
    assert isinstance(sharing.failure, share.UnsharedError)
    assert "shared.acme" in str(sharing.failure)
    limit(shared, ACME, "8388608")
    with Sharing(shared) as sharing:
        sharing.until({ACME: 3})
    assert contents(shared, ACME) == [tuple(message) for message in sent]


def limit(settings: Settings, vendor: Vendor, size: str) -> None:
    entry = ConfigEntry("max.message.bytes", size, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(vendor.topic), incremental_configs=[entry])
    admin = AdminClient(client_config(settings))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[vendor]]\nname = "acme"\ncameras = ["*"]\nuntil = 2030\n', ", line 1: vendor 1: until: Extra inputs"),
        ('[[vendor]]\nname = "acme"\ncameras = []\n', "vendor 1: cameras"),
        ('[[vendor]]\nname = "../raw"\ncameras = ["*"]\n', "vendor 1: name"),
        ('[[vendor]]\nname = "acme"\ncameras = ["[a-z]"]\n', "vendor 1: cameras.0"),
        ('[[vendor]]\nname = "acme"\ncameras = ["*"]\nprincipal = "User:*"\n', "vendor 1: principal"),
        ('[[vendor]]\nname = "a"\ncameras = ["*"]\n' * 2, "vendor 2: name: 'a' is given twice"),
        ('[[vendors]]\nname = "a"\n', "unknown key vendors"),
        ("", "holds no"),
    ],
)
def test_a_table_with_a_mistake_is_refused(tmp_path, text, said):
    (tmp_path / "shares.toml").write_text(text)
    with pytest.raises(ShareError, match=r"shares\.toml[:,] ") as error:
        shares.read_file(tmp_path / "shares.toml")
    assert said in str(error.value)
