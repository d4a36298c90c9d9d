"""The headers of access units: they survive the round trip, and a hostile one is named."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.frame import AnonymizedFrame, RawFrame
from sfumato.schemas.unit import H264, H265, AnonymizedUnit, RawUnit
from tests.test_cloudevent import ANONYMIZED, FRAME

INT64 = st.integers(-(2**63), 2**63 - 1)
TIME_BASES = st.builds(Fraction, st.integers(1, 10**6), st.integers(1, 10**9))
RAW = replace(FRAME, content_type=H264, unit=RawUnit(90_000, Fraction(1, 90_000), True, 86_400, True, 90))
MASKED = replace(
    ANONYMIZED, content_type=H264, unit=AnonymizedUnit(90_000, Fraction(1, 90_000), False, "0123456789abcdef", 4)
)


@given(INT64, TIME_BASES, st.booleans(), st.none() | INT64, st.booleans(), st.sampled_from([0, 90, 180, 270]))
def test_raw_units_survive_the_round_trip(pts, time_base, keyframe, dts, discard, rotation):
    frame = replace(RAW, content_type=H265, unit=RawUnit(pts, time_base, keyframe, dts, discard, rotation))
    assert RawFrame.from_message(*frame.to_message()) == frame


@given(INT64, TIME_BASES, st.booleans(), st.integers(0, 2**63 - 1))
def test_anonymized_units_survive_the_round_trip(pts, time_base, keyframe, number):
    frame = replace(MASKED, unit=AnonymizedUnit(pts, time_base, keyframe, "feedfacefeedface", number))
    assert AnonymizedFrame.from_message(*frame.to_message()) == frame


def test_a_still_has_no_unit_whatever_its_headers_say():
    key, value, headers = RAW.to_message()
    still = [(name, b"image/jpeg" if name == "content-type" else text) for name, text in headers]
    assert RawFrame.from_message(key, value, still).unit is None


@pytest.mark.parametrize(
    ("frame", "header", "value"),
    [
        (RAW, "ce_pts", b"1.5"),
        (RAW, "ce_pts", b"-"),
        (RAW, "ce_pts", b"--1"),
        (RAW, "ce_pts", b"9223372036854775808"),
        (RAW, "ce_pts", None),
        (RAW, "ce_dts", b""),
        (RAW, "ce_timebase", b"0/1"),
        (RAW, "ce_timebase", b"1/0"),
        (RAW, "ce_timebase", b"0.04"),
        (RAW, "ce_keyframe", b"yes"),
        (RAW, "ce_keyframe", None),
        (RAW, "ce_discard", b"1"),
        (RAW, "ce_rotation", b"45"),
        (RAW, "ce_rotation", b"360"),
        (MASKED, "ce_stream", b"../../etc"),
        (MASKED, "ce_stream", None),
        (MASKED, "ce_unit", b"-1"),
    ],
)
def test_a_header_that_breaks_the_contract_is_named(frame, header, value):
    key, payload, headers = frame.to_message()
    changed = [(name, text) for name, text in headers if name != header] + [(header, value)] * (value is not None)
    with pytest.raises(EnvelopeError, match=f"^{header}: "):
        type(frame).from_message(key, payload, changed)
