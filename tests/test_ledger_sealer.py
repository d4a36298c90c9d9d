"""What the ledger's agent does with what Faust hands over, on a real broker but without Faust."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from faust.types import TP

from sfumato.agents import exits
from sfumato.agents.ledger import keys, seal
from sfumato.agents.ledger.entries import read_audit
from sfumato.agents.ledger.heads import HeadStore
from sfumato.agents.ledger.seal import Revoked, Sealer, make_book
from sfumato.agents.policies import PolicyStore
from sfumato.agents.produce import Producer
from sfumato.agents.settings import Settings
from sfumato.agents.transport import UNREADABLE
from sfumato.schemas.frame import Message
from sfumato.schemas.head import HeadError
from sfumato.schemas.topics import AUDIT, LEDGER
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
        self.policies = PolicyStore(self.settings)
        book = make_book(self.settings, self.keys, self.policies)
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


def test_a_log_that_is_published_and_has_no_head_is_a_refusal(handing, monkeypatch):
    """Its head and its cover are lost: the topic of heads was made anew, say."""
    place, other = seal.Place(handing.tp.topic, 0), make_book(handing.settings, handing.keys, handing.policies)
    other.open(place, [], [])
    other.take(place, 0, read_audit(*handing.messages[0][:2], 0), 0.0)
    other.due(0.0, everything=True)
    ((sealed,),) = other.sealed()
    handing.producer.send(LEDGER, Message(b"north", sealed.note.encode(), []), lambda error: None)

    async def scenario() -> None:
        handing.sealer.revoke()
        await handing.hand(0)

    def leave(why: str, status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(seal, "TICK", 0.0)
    monkeypatch.setattr(exits, "leave", leave)
    assert handing.producer._producer.flush(10) == 0
    with pytest.raises(HeadError, match="log north: 1 leaves of it are sealed, and its head is gone"):
        asyncio.run(scenario())
    with pytest.raises(SystemExit) as left:  # nobody hands over anything
        asyncio.run(handing.sealer._tick(handing.app))
    assert left.value.code == exits.EXIT_CONFIGURATION


def test_a_partition_that_is_shorter_than_it_was_stops_its_logs(handing):
    """The broker is asked: what Faust heard of the end last may be older than what was read since."""
    place = seal.Place(handing.tp.topic, 0)

    def stopped() -> dict[str, bool]:
        return {log.name: bool(log.stopped) for log in handing.sealer._book.logs.values()}

    async def scenario() -> None:
        await handing.hand(COUNT - 1)
        assert handing.end < handing.sealer._expected(place) == COUNT
        await handing.sealer._look(handing.app)
        assert stopped() == {"north": False}
        handing.sealer._put(place, COUNT, read_audit(*audit(COUNT)[:2], 0), 0.0)  # the broker has no such offset
        handing.end = COUNT + 1
        await handing.sealer._look(handing.app)
        assert stopped() == {"north": False}  # Faust says that it has
        handing.end = COUNT
        await handing.sealer._look(handing.app)
        assert stopped() == {"north": True}
        handing.sealer.revoke()
        await handing.sealer._open(place)
        assert stopped() == {"north": True}

    asyncio.run(scenario())
