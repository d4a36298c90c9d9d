"""Validity and schedules: midnight, changed clocks, events, and which form of a policy a frame gets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sfumato.models.timetable import Timetable
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Codec, Policy
from sfumato.schemas.schedule import Daily, Schedule
from tests.test_anonymize import POLICY

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def local(text: str, zone: ZoneInfo = AMSTERDAM, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def daily(begins: str, ends: str, zone: str = "Europe/Amsterdam", **fields: object) -> Daily:
    return Daily.model_validate({"begins": begins, "ends": ends, "time_zone": zone, **fields})


def test_hours_of_a_day():
    office = daily("08:00", "18:00", days=["mon", "fri"])
    assert not office.covers(local("2026-06-01T07:59:59"))  # a Monday
    assert office.covers(local("2026-06-01T08:00"))
    assert office.covers(local("2026-06-01T17:59:59"))
    assert not office.covers(local("2026-06-01T18:00"))
    assert not office.covers(local("2026-06-02T12:00"))
    assert office.covers(local("2026-06-05T12:00").astimezone(UTC))


def test_a_night_belongs_to_the_day_on_which_it_begins():
    night = daily("22:00", "06:00", days=["fri"])
    assert night.covers(local("2026-06-05T22:00"))  # a Friday
    assert night.covers(local("2026-06-06T05:59"))
    assert not night.covers(local("2026-06-06T06:00"))
    assert not night.covers(local("2026-06-06T22:00"))
    assert not night.covers(local("2026-06-05T05:59"))


def test_the_same_time_twice_is_a_whole_day():
    always = daily("00:00", "00:00")
    assert all(always.covers(local("2026-10-24T00:00") + timedelta(minutes=7 * i)) for i in range(400))


def test_a_night_with_a_changed_clock_lasts_to_the_same_time():
    night = daily("22:00", "06:00")
    for before in ("2026-03-28", "2026-10-24"):  # the clock is changed in these nights
        after = (datetime.fromisoformat(before) + timedelta(days=1)).date().isoformat()
        assert night.covers(local(f"{before}T22:00"))
        assert not night.covers(local(f"{before}T21:59"))
        assert night.covers(local(f"{after}T05:59"))
        assert not night.covers(local(f"{after}T06:00"))
    lengths = [covered_hours(night, day) for day in ("2026-03-28", "2026-06-01", "2026-10-24")]
    assert lengths == [[7.0], [8.0], [9.0]]


def covered_hours(schedule: Daily, day: str) -> list[float]:
    """Lengths of the spans without a gap within 24 hours from noon, to the minute."""
    start = local(f"{day}T12:00").astimezone(UTC)
    spans, inside = [], False
    for minute in range(24 * 60):
        if schedule.covers(start + timedelta(minutes=minute)):
            spans = [*spans[:-1], spans[-1] + 1] if inside else [*spans, 1]
            inside = True
        else:
            inside = False
    return [span / 60 for span in spans]


@pytest.mark.parametrize(
    ("day", "begins", "ends", "hours"),
    [
        ("2026-10-24", "01:00", "02:30", [2.5]),  # 02:30 comes twice: to the second
        ("2026-10-24", "02:30", "03:00", [1.5]),  # from the first
        ("2026-10-24", "02:15", "02:45", [1.5]),  # no gap between the two
        ("2026-03-28", "01:00", "02:30", [1.5]),  # 02:30 does not come: to 03:30
        ("2026-03-28", "02:30", "04:00", [1.5]),  # from 01:30
        ("2026-03-28", "02:15", "02:45", [1.5]),
    ],
)
def test_where_a_time_comes_twice_or_not_at_all_the_span_is_the_longer_and_whole(day, begins, ends, hours):
    assert covered_hours(daily(begins, ends), day) == hours


def test_a_day_may_begin_with_a_gap():
    """In Beirut the clock goes from 00:00 to 01:00; 00:30 does not come, and the night before is still Saturday."""
    early = daily("00:30", "06:00", zone="Asia/Beirut", days=["sun"])
    beirut = ZoneInfo("Asia/Beirut")
    assert early.covers(local("2026-03-29T01:00", beirut))
    assert early.covers(local("2026-03-28T23:45", beirut))
    assert not early.covers(local("2026-03-28T23:00", beirut))


MINUTES = st.integers(0, 24 * 60 - 1)


@given(
    MINUTES, MINUTES, st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.sets(st.integers(0, 6), min_size=1)
)
def test_without_changed_clocks_it_is_plain_arithmetic(begins, ends, moment, weekdays):
    def clock(minutes):
        return f"{minutes // 60:02}:{minutes % 60:02}"

    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    schedule = daily(clock(begins), clock(ends), zone="UTC", days=[names[day] for day in weekdays])
    minute, today = moment.hour * 60 + moment.minute, moment.weekday()
    if begins < ends:
        expected = begins <= minute < ends and today in weekdays
    else:
        expected = (minute >= begins and today in weekdays) or (minute < ends and (today - 1) % 7 in weekdays)
    assert schedule.covers(moment.replace(tzinfo=UTC)) is expected


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"full_mask": True}, "either daily or event"),
        ({"daily": {"begins": "22:00", "ends": "06:00", "time_zone": "Mars/Olympus"}, "full_mask": True}, "IANA name"),
        ({"daily": {"begins": 22, "ends": "06:00", "time_zone": "UTC"}, "full_mask": True}, "a number"),
        ({"daily": {"begins": "22:00", "ends": "06:00", "time_zone": "../etc"}, "full_mask": True}, "IANA name"),
        ({"daily": {"begins": "22:00", "ends": "06:00", "time_zone": "UTC", "days": []}, "full_mask": True}, "days"),
        (
            {"daily": {"begins": "22:00+02:00", "ends": "06:00", "time_zone": "UTC"}, "full_mask": True},
            "local time alone",
        ),
        ({"event": {"begins": "2026-06-01T10:00:00", "ends": "2026-06-01T11:00:00Z"}, "full_mask": True}, "timezone"),
        ({"event": {"begins": "2026-06-01T12:00:00Z", "ends": "2026-06-01T11:00:00Z"}, "full_mask": True}, "not later"),
        ({"daily": {"begins": "22:00", "ends": "06:00", "time_zone": "UTC"}}, "what changes"),
        (
            {"daily": {"begins": "22:00", "ends": "06:00", "time_zone": "UTC"}, "full_mask": True, "zones": []},
            "what changes",
        ),
    ],
)
def test_schedules_that_say_too_little_or_too_much_are_refused(schedule, said):
    with pytest.raises(ValidationError, match=said):
        Schedule.model_validate_json(json.dumps({"name": "x", **schedule}))


def policy(**fields: object) -> Policy:
    return Policy.model_validate({**json.loads(POLICY.model_dump_json()), **fields})


def test_validity_goes_by_the_clock_whatever_the_frame_says():
    timetable = Timetable(policy(valid_from="2026-06-01T00:00:00Z", valid_until="2026-06-02T00:00:00Z"))
    for captured_at in (NOON - timedelta(days=300), NOON, NOON + timedelta(days=300)):
        assert timetable.at(captured_at, NOON) is timetable.policy
        ended = timetable.at(captured_at, datetime(2026, 6, 2, tzinfo=UTC))
        assert (ended.reason, ended.detail, ended.version) == (Reason.POLICY_EXPIRED, "valid_until: has passed", 3)
        assert timetable.at(captured_at, NOON - timedelta(days=1)).reason is Reason.POLICY_NOT_YET_VALID


SCHEDULES = [
    {
        "name": "fair",
        "event": {"begins": "2026-06-01T11:00:00Z", "ends": "2026-06-01T13:00:00Z"},
        "targets": {"face": {}, "person": {"mask": "solid"}},
    },
    {
        "name": "night",
        "daily": {"begins": "22:00", "ends": "06:00", "time_zone": "Europe/Amsterdam"},
        "full_mask": True,
    },
    {"name": "noon", "daily": {"begins": "12:00", "ends": "16:00", "time_zone": "UTC"}, "zones": []},
]


def test_the_first_schedule_that_covers_the_capture_is_in_force():
    timetable = Timetable(policy(schedules=SCHEDULES, output={"codec": "h264"}))
    fair = timetable.at(NOON, NOON)  # noon would cover it too
    assert (fair.schedule, set(fair.targets), fair.zones) == ("fair", {"face", "person"}, POLICY.zones)
    noon = timetable.at(NOON + timedelta(hours=1), NOON)
    assert (noon.schedule, noon.targets, noon.zones) == ("noon", POLICY.targets, ())
    night = timetable.at(NOON + timedelta(hours=9), NOON)
    assert (night.reason, night.schedule, night.version) == (Reason.SCHEDULED, "night", 3)
    assert night.output.codec is Codec.H264
    plain = timetable.at(NOON + timedelta(hours=5), NOON)
    assert plain is timetable.policy
    assert plain.schedule is None


def test_forms_are_made_once():
    timetable = Timetable(policy(schedules=SCHEDULES))
    assert timetable.at(NOON, NOON) is timetable.at(NOON + timedelta(seconds=1), NOON)


@pytest.mark.parametrize("captured_at", [datetime.min, datetime.max])
def test_a_capture_time_at_the_end_of_the_calendar_is_fully_masked(captured_at):
    found = Timetable(policy(schedules=SCHEDULES[1:])).at(captured_at.replace(tzinfo=UTC), NOON)
    assert found.reason is Reason.INVALID_POLICY


@pytest.mark.parametrize("name", ["night", ""])
def test_names_of_schedules_tell_them_apart(name):
    with pytest.raises(ValidationError, match="schedules"):
        policy(schedules=[{**SCHEDULES[0], "name": name}, SCHEDULES[1]])
