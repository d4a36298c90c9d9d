"""aiokafka as mended: no record can stop the consumer, and fetches do not wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record._crc32c import crc
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from sfumato.agents.app import app
from sfumato.agents.settings import Settings
from sfumato.agents.transport import FETCH_MAX_WAIT_MS, TolerantRecords

TP = TopicPartition("frames.raw", 0)
CRC_AT, BODY_AT = 17, 21


def batch(base: int, *names: bytes) -> bytes:
    """A record batch whose records each have one header of that name, UTF-8 or not (five bytes each)."""
    builder = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=100_000
    )
    for number, _ in enumerate(names):
        builder.append(number, timestamp=1, key=b"k", value=b"v", headers=[(f"name{number}", b"x")])
    data = bytearray(builder.build())
    for number, name in enumerate(names):
        data = bytearray(bytes(data).replace(f"name{number}".encode(), name))
    data[0:8] = base.to_bytes(8, "big")
    data[CRC_AT:BODY_AT] = crc(bytes(data[BODY_AT:])).to_bytes(4, "big")
    return bytes(data)


def unpack(data: bytes, fetch_offset: int = 0) -> list[tuple[int, bytes | None]]:
    records = TolerantRecords(TP, MemoryRecords(data), [], fetch_offset, None, None, True, READ_UNCOMMITTED)
    return [(record.offset, record.value) for record in records]


def test_good_batches_come_out_as_they_are():
    assert unpack(batch(0, b"aaaaa", b"bbbbb") + batch(2, b"ccccc")) == [(0, b"v"), (1, b"v"), (2, b"v")]


def test_an_unreadable_record_takes_the_rest_of_its_batch_and_nothing_more():
    data = batch(5, b"aaaaa") + batch(6, b"bbbbb", b"\xff\xfe\xff\xfe\xff", b"ccccc") + batch(9, b"ddddd")
    assert unpack(data, 5) == [(5, b"v"), (6, b"v"), (7, None), (8, None), (9, b"v")]


def test_an_unreadable_batch_at_the_end_moves_the_position_past_it():
    data = batch(0, b"\xff\xfe\xff\xfe\xff", b"aaaaa")
    records = TolerantRecords(TP, MemoryRecords(data), [], 0, None, None, True, READ_UNCOMMITTED)
    assert [(r.offset, r.value) for r in records] == [(0, None), (1, None)]
    assert records.next_fetch_offset == 2


def test_the_app_fetches_promptly():
    async def made() -> int:
        consumer = SimpleNamespace(in_transaction=False)
        thread = SimpleNamespace(app=app, consumer=consumer, _assignor=app.assignor)
        consumer = AIOKafkaConsumerThread._create_worker_consumer(thread, app.transport)
        return int(consumer._fetch_max_wait_ms)

    assert asyncio.run(made()) == FETCH_MAX_WAIT_MS == 20


async def produce_raw(settings: Settings, topic: str, data: bytes) -> None:
    """Hand the broker a record batch as it is: no client library would write such a header."""
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers)
    await client.bootstrap()
    try:
        await client.force_metadata_update()
        node = next(iter(client.cluster.brokers())).nodeId
        request = ProduceRequest(transactional_id=None, required_acks=-1, timeout=10_000, topics=[(topic, [(0, data)])])
        response = await client.send(node, request)
        ((_, ((_, error, *_),)),) = response.topics
        assert error == 0
    finally:
        await client.close()


def test_records_of_several_partitions_come_in_the_order_they_were_written():
    """And each partition's in its own, though a clock went back there."""
    other = TopicPartition("frames.raw", 1)
    fetched = {TP: [(1, "a"), (5, "b"), (4, "c"), (9, "d")], other: [(3, "x"), (6, "y")]}
    records = {tp: [SimpleNamespace(timestamp=at, value=name) for at, name in found] for tp, found in fetched.items()}
    scheduler = app.conf.ConsumerScheduler()
    came = [(tp, record.value) for tp, record in scheduler.iterate(records)]
    assert came == [(TP, "a"), (other, "x"), (TP, "b"), (TP, "c"), (other, "y"), (TP, "d")]
