"""What the ledger's agent does with what Faust hands over, on a real broker but without Faust."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from faust.types import TP

from sfumato.agents.ledger import keys, seal
from sfumato.agents.ledger.heads import HeadStore
from sfumato.agents.ledger.seal import Revoked, Sealer, make_book
from sfumato.agents.policies import PolicyStore
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.transport import UNREADABLE
from sfumato.schemas.frame import Message
from sfumato.schemas.topics import AUDIT
from tests.ledgering import Published, assert_sealed_as_read, audit, published

COUNT = 60


class Handing:
    """A sealer, and events as Faust hands them over."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.model_copy(update={"partitions": 1})
        self.keys = keys.load(settings)
        self.committed: list[int] = []
        self.sought: list[int] = []
        self.end = 0
        self.tp = TP(settings.topic(AUDIT), 0)
        consumer = SimpleNamespace(
            assignment=lambda: {self.tp}, highwater=lambda tp: self.end, seek=self.seek, _commit_offsets=self.commit
        )
        self.app = SimpleNamespace(consumer=consumer)
        producer = Producer(settings, client_id="test")
        self.messages = [audit(number) for number in range(COUNT)]
        self.messages[7] = Message(b"north", self.messages[7].value, [("n\xff\xff", b"x"), ("ce_id", b"x")])
        for message in self.messages:
            producer.send(AUDIT, message, lambda error: None, partition=0)
        assert producer.close(10) == 0
        heads = HeadStore(self.settings, self.keys)
        heads.start()
        book = make_book(self.settings, self.keys, PolicyStore(self.settings))
        self.producer = Producer(self.settings, client_id="test")
        self.sealer = Sealer(self.settings, self.keys, book, self.producer, heads)

    async def commit(self, offsets: dict[TP, int]) -> None:
        self.committed.append(offsets[self.tp])

    async def seek(self, tp: TP, offset: int) -> None:
        self.sought.append(offset)

    def event(self, offset: int):  # type: ignore[no-untyped-def]
        key, value, headers = self.messages[offset]
        if offset == 7:
            key, value, headers = None, None, UNREADABLE  # type: ignore[assignment]
        place = {"topic": self.tp.topic, "partition": 0, "offset": offset}
        message = SimpleNamespace(**place, key=key, value=value, headers=list(headers), timestamp=1.8e9 + offset)
        return SimpleNamespace(message=message, value=value)

    async def hand(self, *offsets: int) -> None:
        await self.sealer._take(self.app, [self.event(offset) for offset in offsets])
        await self.sealer._commit(self.app)

    async def seal(self) -> None:
        self.sealer._book.due(time.monotonic(), everything=True)
        await self.sealer._publish()
        await self.sealer._commit(self.app)

    def found(self) -> list[Published]:
        return published(self.settings, self.keys.signer.verifier).get("north", [])


@pytest.fixture
def handing(topics: Settings) -> Iterator[Handing]:
    handing = Handing(topics)
    yield handing
    handing.sealer.close()
    assert handing.producer.close(10) == 0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "COMMIT_INTERVAL", 0.0)


pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


def test_what_is_left_out_is_read_and_what_comes_again_is_not_taken(handing):
    """Offsets that nobody handed over, a record that could not be parsed, and events read before a rebalance."""

    async def scenario() -> None:
        await handing.hand(3)  # 0 to 2 are committed, but in no head
        await handing.hand(3, 4, 5, 6, 7, 8, 30, 31)
        await handing.hand(9, 10, 32)
        assert handing.committed == []
        await handing.seal()
        assert handing.committed == [COUNT]
        await handing.hand(33, COUNT - 1)
        await handing.seal()

    asyncio.run(scenario())
    assert_sealed_as_read(handing.found(), [message.value for message in handing.messages])


def test_one_that_is_far_behind_reads_in_bulk(handing, monkeypatch):
    monkeypatch.setattr(seal, "FAR_BEHIND", 20)
    monkeypatch.setattr(seal, "CHUNK", 15)
    handing.end = COUNT

    async def scenario() -> None:
        await handing.hand(0)
        assert handing.sealer.taken >= COUNT - 20
        assert handing.sought == [handing.sealer.taken]
        await handing.hand(COUNT - 1)
        await handing.seal()

    asyncio.run(scenario())
    assert_sealed_as_read(handing.found(), [message.value for message in handing.messages])


def test_a_ledger_goes_on_from_the_heads_after_a_rebalance(handing):
    async def scenario() -> None:
        await handing.hand(*range(5))
        await handing.seal()
        await handing.hand(*range(5, 7))
        handing.sealer.revoke()  # what is open is somebody else's now
        with pytest.raises(Revoked):
            await handing.sealer._read_until(seal.Place(handing.tp.topic, 0), 30)
        await handing.hand(*range(5, COUNT))
        await handing.seal()

    asyncio.run(scenario())
    found = handing.found()
    assert [(each.segment.first, each.segment.size) for each in found] == [(0, 5), (5, COUNT)]
    assert_sealed_as_read(found, [message.value for message in handing.messages])


def test_partitions_of_others_are_left_to_them(handing):
    async def scenario() -> None:
        handing.tp = TP(handing.tp.topic, 1)
        await handing.sealer._take(handing.app, [handing.event(0)])
        other = SimpleNamespace(consumer=SimpleNamespace(assignment=set, highwater=lambda tp: 0))
        handing.tp = TP(handing.tp.topic, 0)
        await handing.sealer._take(other, [handing.event(0)])

    asyncio.run(scenario())
    assert handing.sealer.taken == 0


def test_the_end_of_an_epoch_waits_as_long_as_raw_frames_are_kept(topics):
    settings = topics.model_copy(update={"raw_retention_minutes": 3})
    book = make_book(settings, keys.load(settings), PolicyStore(settings))
    assert book.rules.raw == 180.0
