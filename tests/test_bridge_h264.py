"""The bridge and H.264: units as they are for those who can decode them, JPEG for the rest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from sfumato.agents import live, stills
from sfumato.agents.decoding import UnitDecoder
from sfumato.agents.live import Live
from sfumato.models import images
from sfumato.schemas.frame import Message
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from tests.filming import BEGAN, Encoder, shade
from tests.test_bridge import Bridge, bridge, frame, metric, picture, unpack  # noqa: F401

H264 = "?video=h264"


def brightness(jpeg: bytes) -> float:
    return float(images.decode(jpeg, "image/jpeg", max_pixels=10**6).mean())


def wait_for(bridge: Bridge, name: str) -> None:  # noqa: F811
    """Until the bridge shows the frame."""
    camera = name.split("/")[0]
    bridge.wait_until(lambda: bridge.shown().get(camera, {}).get("frame") == name)


def test_units_go_out_as_they_are_from_the_current_keyframe_on(bridge):  # noqa: F811
    units = Encoder("north", interval=5).film(*range(9))
    bridge.publish(*units[:7])
    wait_for(bridge, "north/1/6")
    with bridge.watch("north", H264) as viewer:
        bridge.publish(*units[7:])
        for sent in units[5:]:
            header, payload = unpack(viewer.recv(10))
            assert payload == sent.payload
            assert (header["frame"], header["unit"], header["keyframe"]) == (
                str(sent.id),
                sent.unit.number,
                sent.unit.keyframe,
            )
            assert header["stream"] == sent.unit.stream
            assert header["content_type"] == sent.content_type
            assert header["pts_us"] == sent.id.sequence * 40_000


def test_who_says_nothing_gets_jpeg_made_only_while_somebody_asks(bridge, monkeypatch):  # noqa: F811
    opened = []
    monkeypatch.setattr("sfumato.agents.stills.UnitDecoder", lambda: opened.append(1) or UnitDecoder())
    units = Encoder("north", interval=5).film(*range(12))
    bridge.publish(*units[:7])
    wait_for(bridge, "north/1/6")
    assert opened == []
    snapshot = bridge.get("/v1/cameras/north/snapshot.jpg")
    assert snapshot.headers["x-sfumato-frame"] == "north/1/6"
    assert brightness(snapshot.content) == pytest.approx(shade(6), abs=4)
    with bridge.watch("north") as viewer:
        for sequence in range(6, 12):
            bridge.publish(units[sequence])
            header, payload = unpack(viewer.recv(10))
            assert (header["frame"], header["content_type"]) == (f"north/1/{sequence}", "image/jpeg")
            assert "unit" not in header
            assert brightness(payload) == pytest.approx(shade(sequence), abs=4)
    assert opened == [1]


def test_a_run_that_repeats_what_was_seen_is_decoded_but_shown_once(bridge):  # noqa: F811
    """A worker was killed after 7 pictures; its successor begins again at the third."""
    first = Encoder("north", interval=5).film(*range(8))
    second = Encoder("north", interval=4).film(*range(3, 12))
    with bridge.watch("north", H264) as watching, bridge.watch("north") as looking:
        seen = []
        for sent in [*first[:7], second[0], first[7], *second[1:]]:  # for a moment the two runs interleave
            bridge.publish(sent)
            if sent is not first[7]:  # the run that was left
                header, payload = unpack(watching.recv(10))
                assert (payload, header["stream"]) == (sent.payload, sent.unit.stream)
        while seen[-1:] != ["north/1/11"]:
            header, payload = unpack(looking.recv(10))
            seen.append(header["frame"])
            sequence = int(header["frame"].rsplit("/", 1)[1])
            assert brightness(payload) == pytest.approx(shade(sequence), abs=4)
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, key=lambda name: int(name.rsplit("/", 1)[1]))


def test_after_a_missing_unit_nothing_is_shown_before_the_next_keyframe(bridge):  # noqa: F811
    units = Encoder("north", interval=5).film(*range(12))
    bridge.publish(*units[:2], *units[3:5])
    bridge.publish(frame("last", 0))
    wait_for(bridge, "last/1/0")
    assert bridge.shown()["north"]["frame"] == "north/1/1"
    bridge.publish(*units[5:7])
    wait_for(bridge, "north/1/6")
    snapshot = bridge.get("/v1/cameras/north/snapshot.jpg")
    assert brightness(snapshot.content) == pytest.approx(shade(6), abs=4)


def test_a_camera_may_change_between_jpeg_and_h264(bridge):  # noqa: F811
    one, two = Encoder("north").film(*range(1, 3)), Encoder("north", (64, 36)).film(*range(4, 6))
    sent = [frame("north", 0), *one, frame("north", 3, picture(200)), *two]
    with bridge.watch("north", H264) as viewer, bridge.watch("north") as looking:
        for each in sent:
            bridge.publish(each)
            header, payload = unpack(viewer.recv(10))
            assert (header["frame"], payload) == (str(each.id), each.payload)
            header, payload = unpack(looking.recv(10))
            assert header["frame"] == str(each.id)
            width, height = images.inspect(payload, "image/jpeg", max_pixels=10**6)
            assert (width, height) == (each.width, each.height) == (header["width"], header["height"])


def test_a_fully_masked_unit_says_why(bridge):  # noqa: F811
    masked = {"outcome": Outcome.FULLY_MASKED, "reason": Reason.DAMAGED}
    bridge.publish(*Encoder("north").film(0), *Encoder("north").film(1, **masked))
    wait_for(bridge, "north/1/1")
    assert bridge.shown()["north"]["reason"] == "damaged"


def test_a_slow_viewer_skips_to_a_keyframe_and_holds_up_nobody(bridge):  # noqa: F811
    noise = np.random.default_rng(0)
    encoder = Encoder("north", (640, 360), interval=3)
    count = 90  # of some 400 KB: far more than any buffer between the two holds
    options = {"max_size": None}
    with (
        bridge.watch("north", H264, max_queue=1, **options) as slow,
        bridge.watch("north", H264, **options) as quick,
    ):
        bridge.wait_until(lambda: metric(bridge, "sfumato_bridge_viewers") >= 2)
        for sequence in range(count):
            image = noise.integers(0, 256, (360, 640, 3), dtype=np.uint8)
            bridge.publish(encoder.unit(image, sequence, 1, BEGAN))
            assert unpack(quick.recv(20))[0]["unit"] == sequence
        seen = []
        while not seen or seen[-1]["unit"] != count - 1:
            seen.append(unpack(slow.recv(20))[0])
    for before, after in pairwise(seen):
        assert after["keyframe"] or after["unit"] == before["unit"] + 1
    assert len(seen) < count * 0.8


def test_h264_that_breaks_the_contract_is_counted_and_not_shown(bridge):  # noqa: F811
    keyframe, unit = Encoder("north").film(0, 1)
    slices = keyframe.payload[keyframe.payload.index(b"\x00\x00\x01\x65") - 1 :]
    lying = replace(unit.unit, keyframe=True)
    before = metric(bridge, "sfumato_bridge_refused_messages_total")
    bad = [
        replace(keyframe, payload=b"\x00\x00\x00\x30" + keyframe.payload[4:]),  # lengths instead of start codes
        replace(keyframe, payload=slices),  # no parameter sets
        replace(keyframe, payload=keyframe.payload[: keyframe.payload.index(b"\x00\x00\x01\x65") - 1]),  # no picture
        replace(keyframe, payload=unit.payload),
        replace(unit, unit=lying),
        replace(keyframe, payload=picture()),
        replace(keyframe, content_type="image/jpeg", unit=None),
        replace(keyframe, content_type="video/h265; stream-format=byte-stream; alignment=au", unit=None),
    ]
    bridge.publish(*bad)
    key, value, headers = keyframe.to_message()
    bridge.send(FRAMES_ANONYMIZED, Message(key, value, [pair for pair in headers if pair[0] != "ce_stream"]))
    bridge.publish(frame("last", 0))
    wait_for(bridge, "last/1/0")
    assert metric(bridge, "sfumato_bridge_refused_messages_total") - before == len(bad) + 1
    assert set(bridge.shown()) == {"last"}


def test_an_undecodable_picture_is_an_error_and_not_a_picture(bridge):  # noqa: F811
    (keyframe,) = Encoder("north").film(0)
    end = keyframe.payload.index(b"\x00\x00\x01\x65") + 6
    bridge.publish(replace(keyframe, payload=keyframe.payload[:end] + bytes([0x55] * 20)))
    wait_for(bridge, "north/1/0")
    assert bridge.get("/v1/cameras/north/snapshot.jpg").status_code == 503


def test_an_unknown_video_is_refused_by_name(bridge):  # noqa: F811
    for query in ("?video=h265", "?video="):
        with pytest.raises(InvalidStatus) as refused, bridge.watch("north", query):
            pass
        response = refused.value.response
        assert response.status_code == 400
        assert "h264" in json.loads(response.body)["detail"]


def test_a_group_of_pictures_is_bounded(monkeypatch):
    """Without a broker: what does not fit is left out until the next keyframe."""
    units = Encoder("north", interval=20).film(*range(25))
    monkeypatch.setattr(live, "GROUP_BYTES", sum(len(unit.payload) for unit in units[:10]))
    held = Live()
    for unit in units:
        held.put(unit)
    (current, after) = held.cameras["north"].groups
    assert [arrival.frame for arrival in current.arrivals] == units[:10]
    assert [arrival.frame for arrival in after.arrivals] == units[20:]
    assert not after.continues


def test_a_decoder_is_shared_survives_who_leaves_and_is_closed_when_nobody_asks(monkeypatch):
    """Without a broker."""
    monkeypatch.setattr(stills, "IDLE", 0.2)
    units = Encoder("north", interval=20).film(*range(10))

    async def ask() -> None:
        held, made = Live(), stills.Stills(85)
        for unit in units[:5]:
            held.put(unit)
        camera = held.cameras["north"]
        leaving = asyncio.create_task(made.newest(camera))
        await asyncio.sleep(0)
        leaving.cancel()
        found = await asyncio.gather(*(made.newest(camera) for _ in range(5)))
        assert {still.arrival for still in found if still} == {camera.newest}
        held.put(units[5])
        still = await made.newest(camera)
        assert still is not None
        assert brightness(still.jpeg) == pytest.approx(shade(5), abs=4)
        async with asyncio.timeout(10):
            while made._open:
                await asyncio.sleep(0.01)
        made.close()

    asyncio.run(ask())
