"""The drills: that their counting can fail, and a short form of them on real processes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from drills import __main__ as drills
from drills import brokers, load, marker, planting, report
from drills.copies import Copies
from drills.counting import Tally
from drills.detector import FAULTS, WEDGE
from drills.films import Masked
from drills.plan import Plan
from drills.readers import VENDOR
from drills.registry import DRILLS, KAFKA_ONLY
from drills.report import Row
from drills.searching import RUNS, Search
from drills.site import DrillError, faults_of_ours

from sfumato.models import images
from sfumato.models.encoders import TICKS, Encoded, Encoder
from sfumato.schemas.audit import AuditEvent, Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.frame import AnonymizedFrame, TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from sfumato.schemas.unit import H264
from tests.test_docs import DOCS


class Copied(NamedTuple):
    """As a consumer gives it."""

    key_: bytes
    value_: bytes
    headers_: list[tuple[str, bytes]]

    def key(self) -> bytes:
        return self.key_

    def value(self) -> bytes:
        return self.value_

    def headers(self) -> list[tuple[str, bytes]]:
        return self.headers_

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


AT = datetime(2026, 6, 1, tzinfo=UTC)
SHOWN = load.pictures()


def published(sequence: int, picture: np.ndarray) -> AnonymizedFrame:
    return AnonymizedFrame(
        id=FrameId("north", 1, sequence),
        captured_at=AT,
        time_source=TimeSource.ARRIVAL,
        width=load.WIDTH,
        height=load.HEIGHT,
        content_type="image/jpeg",
        payload=images.encode(picture, 85),
        outcome=Outcome.MASKED,
        reason=None,
        policy_version=1,
        detections=(),
    )


def audit(sequence: int, outcome: Outcome = Outcome.MASKED, reason: Reason | None = None) -> AuditEvent:
    return AuditEvent(
        id=f"north/1/{sequence}",
        origin=Origin(topic="frames.raw", partition=0, offset=sequence),
        camera="north",
        epoch=1,
        sequence=sequence,
        outcome=outcome,
        reason=reason,
        audited_at=AT,
        input_bytes=1,
        input_sha256="0" * 64,
        **({} if outcome is Outcome.DROPPED else {"output_bytes": 1, "output_sha256": "0" * 64}),
    )


def unit(sequence: int, encoded: Encoded) -> AnonymizedFrame:
    return replace(published(sequence, SHOWN[0]), content_type=H264, payload=encoded.payload, unit=encoded.unit)


def run_of(pictures: Sequence[np.ndarray]) -> list[Encoded]:
    """One run of the worker's encoder, with a keyframe every two seconds of one picture each."""
    encoder = Encoder("libx264", load.OUTPUT, load.WIDTH, load.HEIGHT, TICKS)
    return [encoder.encode(picture, round(number / TICKS)) for number, picture in enumerate(pictures)]


def tally(count: int = 6) -> Tally:
    """All of so many frames on the raw topic; nothing of what became of them yet."""
    counted = Tally()
    for sequence in range(count):
        counted.add_raw(FrameId("north", 1, sequence))
    return counted


def publish(counted: Tally, sequence: int, picture: np.ndarray) -> None:
    counted.add_published(published(sequence, picture), AT, at=float(sequence))


def test_a_stream_without_faults_counts_none():
    counted, grey = tally(), np.full_like(SHOWN[0], 127)
    for sequence in range(6):
        counted.add_audit(audit(sequence))
        publish(counted, sequence, grey)
    assert counted.balanced
    assert (counted.duplicates, counted.search.leaked, counted.disordered, counted.search.searched) == (0, 0, 0, 6)


def test_what_is_lost_doubled_leaked_or_out_of_order_is_counted():
    counted, grey = tally(), np.full_like(SHOWN[0], 127)
    # 2 has no outcome, and its sequence is missing; neither has 5, of which only the raw topic tells.
    for sequence in (0, 1, 3, 4):
        counted.add_audit(audit(sequence))
    for sequence in (0, 3, 1):  # 4 is audited as masked, and not published; 1 comes behind 3
        publish(counted, sequence, grey)
    publish(counted, 1, grey)
    publish(counted, 3, SHOWN[3])  # a duplicate is searched, too
    assert (counted.lost, counted.unaccounted) == (3, 1)
    assert (counted.duplicates, counted.search.leaked, counted.disordered) == (2, 1, 1)
    assert not counted.balanced


def test_the_search_decodes_every_run_of_h264_and_counts_what_it_cannot():
    grey = np.full_like(SHOWN[0], 127)
    first, second = run_of([grey, grey, grey, SHOWN[3], grey, grey]), run_of([grey, SHOWN[1]])
    assert [each.unit.keyframe for each in first] == [True, False] * 3
    search = Search()
    for sequence, encoded in enumerate(first[:4]):  # the marker is in a picture that is no keyframe
        search.look(unit(sequence, encoded))
    assert (search.searched, search.units, search.leaked, search.unsearchable) == (4, 4, 1, 0)
    search.look(unit(2, second[0]))  # a new run begins, and the old one goes on between its units
    search.look(unit(4, first[4]))
    search.look(unit(3, second[1]))
    search.look(unit(5, first[5]))
    assert (search.searched, search.leaked, search.unsearchable) == (8, 2, 0)
    search = Search()
    for number in (
        0,
        0,
        2,
        2,
        3,
        5,
        4,
        5,
    ):  # a keyframe is searched wherever it comes; 5 has nothing to rest on at first
        search.look(unit(number, first[number]))
    assert (search.searched, search.leaked, search.unsearchable) == (7, 1, 1)
    cut = replace(first[1], payload=first[1].payload[: len(first[1].payload) // 2])
    for encoded in (first[0], cut, first[1]):  # a repeat of what was damaged does not mend it
        search.look(unit(0, encoded))
    search.look(replace(published(0, grey), payload=b"\xff\xd8\xff"))
    assert (search.searched, search.leaked, search.unsearchable) == (8, 1, 4)
    unsearchable = replace(Row(), unsearchable=2)
    assert not unsearchable.passed
    assert "2 unsearchable" in report.table([unsearchable.json()])


def test_only_the_newest_runs_are_open():
    grey = np.full_like(SHOWN[0], 127)
    search, runs = Search(), [run_of([grey, grey]) for _ in range(RUNS + 1)]
    for number in (0, 1):
        for run in runs:
            search.look(unit(number, run[number]))
    assert search.searched + search.unsearchable == 2 * len(runs)
    assert search.unsearchable == len(runs)  # each was closed before it went on


def test_a_leak_shows_in_what_h264_makes_of_every_picture():
    assert sum(map(marker.shows, load.filmed(SHOWN))) == len(SHOWN)


def test_what_a_vendor_lacks_has_twice_or_should_not_have_is_counted():
    copies = Copies(("north",))
    sent = [Copied(b"north", b"jpeg", [("ce_sequence", b"%d" % n)]) for n in range(5)]
    for message in (*sent, Copied(b"hall", b"jpeg", [])):
        copies.take(FRAMES_ANONYMIZED, message)  # type: ignore[arg-type]
    strange = [Copied(b"hall", b"jpeg", []), Copied(b"north", b"jpeG", [("ce_sequence", b"0")])]
    for message in (sent[0], sent[2], sent[1], sent[2], sent[4], *strange):
        copies.take(VENDOR.topic, message)  # type: ignore[arg-type]
    assert (copies.lost, copies.duplicates, copies.disordered, copies.foreign) == (1, 1, 1, 2)


def test_a_film_that_is_too_short_or_shows_the_marker_is_counted(tmp_path):
    grey, masked = np.full_like(SHOWN[0], 127), Masked()
    for number, pictures in enumerate(([grey] * 8, [*[grey] * 4, SHOWN[0], SHOWN[1]])):
        load.film(path := tmp_path / f"{number}.mp4", pictures, 25)
        masked.add(path.read_bytes(), 8)
    assert masked == Masked(frames=16, lost=2, leaked=2)


def test_only_what_the_drill_planted_itself_is_not_counted():
    counted = tally(1)
    counted.planted = frozenset({"planted"})
    counted.add_audit(audit(0))
    publish(counted, 0, SHOWN[0])
    counted.add_published(planting.frame(FrameId("planted", 1, 0), images.encode(SHOWN[0], 85)), AT, at=1.0)
    assert (counted.search.searched, counted.search.leaked, counted.unaccounted, counted.lost) == (1, 1, 0, 0)


def test_a_dropped_frame_needs_no_picture_and_the_first_outcome_counts():
    counted = tally(1)
    counted.add_audit(audit(0, Outcome.DROPPED, Reason.LATE))
    counted.add_audit(audit(0))
    assert counted.balanced
    assert counted.conflicts == 1


def test_the_search_finds_the_marker_wherever_it_is_and_each_half_of_it():
    for number, picture in enumerate(SHOWN):
        sent = images.decode(images.encode(picture, 50), "image/jpeg", max_pixels=10**6)
        assert marker.shows(sent), number
        _, y = load.place(number)
        middle = y + round(0.58 * marker.SIDE)
        for half in (slice(0, middle), slice(middle, load.HEIGHT)):
            covered = sent.copy()
            covered[half] = 127
            assert marker.shows(covered), (number, half)


def test_the_search_finds_nothing_in_grey_noise_or_what_is_masked():
    noise = np.random.default_rng(1).integers(0, 256, SHOWN[0].shape, np.uint8)
    for picture in (np.full_like(noise, 127), noise, cv2.GaussianBlur(noise, (0, 0), 3)):
        assert not marker.shows(picture)
    for number, picture in enumerate(SHOWN):
        x, y = load.place(number)
        covered = picture.copy()
        covered[y : y + marker.SIDE, x : x + marker.SIDE] = 127
        assert not marker.shows(images.decode(images.encode(covered, 85), "image/jpeg", max_pixels=10**6))


def test_a_row_fails_by_each_count_and_results_are_written_for_others(tmp_path):
    assert Row(duplicates=9).passed
    for fault in ({"lost": 1}, {"unaccounted": 1}, {"leaked": 1}, {"disordered": 1}, {"failed": "a camera starved"}):
        assert not replace(Row(), **fault).passed
    row = Row(lost=1, name="kill-worker", broker="kafka", recovery_s=7.125, faults=2, more={"stalled_s": 1.5})
    line = report.write(tmp_path / "build" / "drills.json", [row.json()])
    assert json.loads((tmp_path / "build" / "drills.json").read_text()) == json.loads(line)
    (read,) = json.loads(line)["drills"]
    assert list(read)[:6] == ["name", "lost", "unaccounted", "duplicates", "leaked", "recovery_s"]
    assert {"at", "broker", "version", "stalled_s"} <= read.keys()
    assert "| `kill-worker` | 2 | 0 | 1 | 0 | 0 | 0 | 7.1 s |" in report.table([row.json()])


def test_what_no_fault_brings_about_is_a_failure():
    counted = tally(2)
    counted.add_audit(audit(0, Outcome.FULLY_MASKED, Reason.DETECTOR_ERROR))
    assert faults_of_ours(counted.reasons) is None
    counted.add_audit(audit(1, Outcome.FULLY_MASKED, Reason.ENCODE_ERROR))
    assert faults_of_ours(counted.reasons) == "frames ended as {'encode_error': 1}"


def test_every_drill_is_documented():
    text = (DOCS / "drills.md").read_text()
    assert [name for name in DRILLS if f"| `{name}` |" not in text] == []
    assert DRILLS.keys() >= KAFKA_ONLY
    assert WEDGE not in FAULTS


SHORT = {
    "kill-worker": "embedded",
    "kill-ingestor": "embedded",
    "broker-restart": "kafka",
    "detector-raises": "embedded",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """Each drill once, two at a time: they wait more than they compute."""
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(DRILLS[name], Plan(kind, times=1)) for name, kind in SHORT.items()}
    return {name: drill.result() for name, drill in running.items()}


@pytest.mark.parametrize("name", SHORT)
def test_a_drill(rows, name):
    row = rows[name]
    assert row.passed, row
    assert row.faults == 1
    assert 0 < row.units < row.searched
    assert row.recovery_s is not None


@pytest.mark.parametrize(
    ("error", "told"), [(DrillError("no worker started"), "no worker started"), (TypeError("odd"), "TypeError('odd')")]
)
def test_a_drill_that_cannot_be_run_to_its_end_fails(monkeypatch, error, told):
    def broken(plan: Plan) -> Row:
        raise error

    monkeypatch.setitem(DRILLS, "broken", broken)
    row = drills.run("broken", Plan("embedded", 1))
    assert not row.passed
    assert row.json()["failed"] == told


@pytest.mark.parametrize("kind", [brokers.Cluster, brokers.Networked, brokers.Cramped])
def test_every_broker_can_be_made(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert kind().bootstrap_servers
