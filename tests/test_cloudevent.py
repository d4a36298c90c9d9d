"""Hostile envelopes: always a named EnvelopeError, never another exception; honest ones survive the round trip."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cloudevents.kafka import KafkaMessage, from_binary
from hypothesis import given
from hypothesis import strategies as st

from sfumato.schemas.cloudevent import MAX_HEADER_BYTES, EnvelopeError, FrameId
from sfumato.schemas.detection import Detection, Target
from sfumato.schemas.frame import AnonymizedFrame, RawFrame, TimeSource
from sfumato.schemas.outcome import Outcome

FRAME = RawFrame(
    FrameId("north", 1_700_000_000_000, 7),
    datetime(2026, 11, 23, 10, 0, 0, 250_000, tzinfo=UTC),
    TimeSource.CAMERA,
    640,
    360,
    "image/jpeg",
    b"pixels",
)
ANONYMIZED = AnonymizedFrame(
    FRAME.id,
    FRAME.captured_at,
    FRAME.time_source,
    640,
    360,
    "image/jpeg",
    b"masked",
    Outcome.MASKED,
    None,
    3,
    (Detection(target=Target.FACE, score=0.9, box=(1.0, 2.0, 30.5, 40.0)),),
)


def headers(**changes: bytes | None) -> list[tuple[str, bytes | None]]:
    """The good frame's headers with some replaced; ``b"-"`` removes one."""
    good = dict(FRAME.to_message().headers)
    merged = {**good, **{name.replace("__", "-"): value for name, value in changes.items()}}
    return [(name, value) for name, value in merged.items() if value != b"-"]


def test_frames_survive_the_round_trip():
    assert RawFrame.from_message(*FRAME.to_message()) == FRAME
    assert AnonymizedFrame.from_message(*ANONYMIZED.to_message()) == ANONYMIZED


def test_messages_are_cloudevents_to_another_implementation():
    key, value, pairs = ANONYMIZED.to_message()
    event = from_binary(KafkaMessage(dict(pairs), key, value), data_unmarshaller=lambda data: data)
    assert event["id"] == "north/1700000000000/7"
    assert event["type"] == "sfumato.frame.anonymized.v1"
    assert event["time"] == "2026-11-23T10:00:00.250000Z"
    assert event["datacontenttype"] == "image/jpeg"
    assert event.data == b"masked"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ce_specversion": b"-"}, "ce_specversion"),
        ({"ce_specversion": b"0.3"}, "ce_specversion"),
        ({"ce_id": b"south/1/1"}, "ce_id"),
        ({"ce_id": b""}, "ce_id"),
        ({"ce_type": b"other"}, "ce_type"),
        ({"ce_time": b"yesterday"}, "ce_time"),
        ({"ce_time": b"2026-11-23T10:00:00"}, "ce_time"),
        ({"ce_time": b"0001-01-01T00:00:00+23:59"}, "ce_time"),
        ({"ce_camera": b"../etc/passwd"}, "ce_camera"),
        ({"ce_camera": b"south"}, "key"),
        ({"ce_epoch": b"-1"}, "ce_epoch"),
        ({"ce_sequence": b"9" * 5000}, "ce_sequence"),
        ({"ce_sequence": "٣".encode()}, "ce_sequence"),
        ({"ce_width": b"70000"}, "ce_width"),
        ({"ce_height": b"3.5"}, "ce_height"),
        ({"ce_timesource": b"sundial"}, "ce_timesource"),
        ({"ce_source": b"\xff\xfe"}, "ce_source"),
        ({"ce_camera": None}, "ce_camera"),
        ({"ce_source": b"x" * (MAX_HEADER_BYTES + 1)}, "ce_source"),
        ({"content__type": b"-"}, "content-type"),
    ],
)
def test_a_broken_header_is_named(changes, field):
    with pytest.raises(EnvelopeError) as caught:
        RawFrame.from_message(b"north", b"pixels", headers(**changes))
    assert caught.value.field == field


def test_a_doubled_header_and_too_many_are_refused():
    with pytest.raises(EnvelopeError, match="ce_id: given twice"):
        RawFrame.from_message(b"north", b"", [*headers(), ("ce_id", b"other")])
    with pytest.raises(EnvelopeError, match="headers: more than 64"):
        RawFrame.from_message(b"north", b"", [*headers(), *[(f"x{i}", b"") for i in range(64)]])


def test_errors_never_quote_values():
    with pytest.raises(EnvelopeError) as caught:
        RawFrame.from_message(b"north", b"", headers(ce_time=b"secret-value"))
    assert "secret-value" not in str(caught.value)


@given(
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=40),
    st.lists(
        st.tuples(
            st.sampled_from([name for name, _ in FRAME.to_message().headers]) | st.text(max_size=20),
            st.none() | st.binary(max_size=40) | st.sampled_from([v for _, v in FRAME.to_message().headers]),
        ),
        max_size=70,
    ),
)
def test_anything_at_all_is_a_frame_or_an_envelope_error(key, value, pairs):
    for contract in (RawFrame, AnonymizedFrame):
        with suppress(EnvelopeError):
            contract.from_message(key, value, pairs)
