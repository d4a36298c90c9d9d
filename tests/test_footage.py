"""Key stores and seals of raw footage: what opens, and what never opens again."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sfumato.agents.cli import main
from sfumato.agents.footage import sealing, stores
from sfumato.agents.footage.key_files import KeyFiles
from sfumato.agents.footage.sealing import CACHED_SECONDS, NotSealedError, Opener, SealBrokenError, Sealer
from sfumato.agents.footage.shredding import shred_expired
from sfumato.agents.footage.stores import KeyGoneError, KeyMissingError, KeySettingsError, KeyStore, KeyStoreError
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError, FrameId
from sfumato.schemas.frame import Message, RawFrame, TimeSource
from sfumato.schemas.unit import H264, RawUnit

AT = datetime(2026, 11, 25, 13, 59, 59, 999_999, tzinfo=UTC)
HOUR = datetime(2026, 11, 25, 13, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)
SECRET = base64.b64encode(bytes(range(32))).decode()
UNIT = RawUnit(9000, Fraction(1, 90_000), keyframe=False, dts=6000, discard=True, rotation=90, restart=True)
FRAME = RawFrame(FrameId("north", 1, 7), AT, TimeSource.CAMERA, 64, 48, H264, b"raw pixels", UNIT)


@pytest.fixture(params=[*stores.STORES, "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """``database``: on SQLite; ``postgresql``: the same store on PostgreSQL."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").database()
        return Settings(state_dir=tmp_path, keys_store="database", database_url=url)
    return Settings(state_dir=tmp_path, keys_store=request.param, keys_secret=SECRET)


@pytest.fixture
def store(settings: Settings) -> KeyStore:
    return stores.make(settings)


lasting = pytest.mark.parametrize("settings", ["files", "database", "postgresql"], indirect=True)


@cache
def sealed() -> tuple[KeyStore, Message]:
    """A sealed message that no test changes, and the store that opens it."""
    store = stores.make(Settings(keys_store="environment", keys_secret=SECRET))
    return store, Sealer(store).seal(FRAME).to_message()


def read(message: Message) -> RawFrame:
    return RawFrame.from_message(*message)


# Stores


def test_a_frame_opens_as_it_was_in_another_process_of_the_same_store(settings: Settings) -> None:
    message = Sealer(stores.make(settings)).seal(FRAME).to_message()
    assert FRAME.payload not in message.value
    assert len(message.value) == len(FRAME.payload) + 28
    said = dict(message.headers)
    assert (said["ce_sealing"], said["ce_sealinghour"]) == (b"aes-256-gcm", b"2026-11-25T13Z")
    assert {**dict(FRAME.to_message().headers), **said} == said  # the rest is as in the clear
    assert Opener(stores.make(settings)).open(read(message)) == FRAME


def test_each_camera_and_hour_has_a_key_of_its_own(store: KeyStore) -> None:
    keys = {store.make(camera, hour) for camera in ("north", "south") for hour in (HOUR, NEXT)}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert store.make("north", HOUR) == store.make("north", HOUR) == store.key("north", HOUR)


@lasting
def test_a_shredded_hour_stays_shredded(settings: Settings, store: KeyStore) -> None:
    key = store.make("north", HOUR)
    kept = store.make("north", NEXT)
    store.make("south", HOUR)
    assert store.shred("north", NEXT - timedelta(microseconds=1)) == []  # the hour has not ended by then
    before = datetime.now(UTC)
    assert store.shred("north", NEXT) == [HOUR]
    assert store.shred("north", NEXT) == []
    for ask in (store.key, store.make, stores.make(settings).make):
        with pytest.raises(KeyGoneError, match="north, 2026-11-25T13Z, was shredded at 20") as gone:
            ask("north", HOUR)
        assert before <= gone.value.shredded_at <= datetime.now(UTC)
    assert [(h.hour, h.shredded_at is None) for h in store.hours("north")] == [(HOUR, False), (NEXT, True)]
    assert store.key("north", NEXT) == kept
    assert store.cameras() == ["north", "south"]
    forms = (key, base64.b64encode(key))
    left = [path for path in settings.state_dir.rglob("*") if path.is_file()]
    assert not any(form in path.read_bytes() for form in forms for path in left)


@lasting
def test_a_key_that_nobody_made_is_missing(store: KeyStore) -> None:
    store.make("north", NEXT)
    for camera, hour in (("north", HOUR), ("south", NEXT)):
        with pytest.raises(KeyMissingError, match=f"no key of {camera}, 2026-11-25T"):
            store.key(camera, hour)


@lasting
def test_who_makes_a_key_at_the_same_time_gets_the_same(settings: Settings) -> None:
    """Each with a store of its own, as processes have; nothing but folder or database is shared."""
    several = [stores.make(settings) for _ in range(6)]
    barrier = threading.Barrier(len(several))

    def make(store: KeyStore) -> list[bytes]:
        barrier.wait()
        return [store.make("north", HOUR + timedelta(hours=n)) for n in range(10)]

    with ThreadPoolExecutor(len(several)) as threads:
        made = list(threads.map(make, several))
    assert made == [made[0]] * len(several)
    assert len(set(made[0])) == 10


def test_derived_keys_are_never_shredded_and_say_why() -> None:
    store = stores.make(Settings(keys_store="environment", keys_secret=SECRET))
    with pytest.raises(KeyStoreError, match="derived from one secret, so that none can be deleted"):
        store.shred("north", NEXT)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"keys_store": "vault"}, "SFUMATO_KEYS_STORE: 'vault' is none of files, database, environment"),
        ({"keys_store": "environment"}, "SFUMATO_KEYS_SECRET: wants 32 random bytes"),
        ({"keys_store": "environment", "keys_secret": "c2hvcnQ="}, "SFUMATO_KEYS_SECRET: wants 32 random bytes"),
    ],
)
def test_settings_that_name_no_store_are_refused(given: dict[str, str], text: str, tmp_path: Path) -> None:
    with pytest.raises(KeySettingsError, match=text) as refused:
        stores.make(Settings(state_dir=tmp_path, **given))
    assert "c2hvcnQ=" not in str(refused.value)


def test_the_secret_is_not_shown() -> None:
    settings = Settings(keys_secret=SECRET)
    assert SECRET not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


def test_keys_must_last_as_long_as_what_they_seal() -> None:
    with pytest.raises(ValueError, match="keys_hours: wants to be as long as raw_retention_minutes"):
        Settings(keys_hours=1, raw_retention_minutes=61)


# Seals


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.data())
@hypothesis_settings(max_examples=300, deadline=None)
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    """Of the value, and of the name and value of every header: the frame is refused, one way or the other."""
    store, message = sealed()
    headers = list(message.headers)
    where = data.draw(st.integers(-1, len(headers) - 1))
    if where < 0:
        bit = data.draw(st.integers(0, len(message.value) * 8 - 1))
        changed = message._replace(value=flipped(message.value, bit))
    else:
        name, text = headers[where]
        assert isinstance(text, bytes)
        bit = data.draw(st.integers(0, (len(name) + len(text)) * 8 - 1))
        both = flipped(name.encode() + text, bit)
        headers[where] = (both[: len(name)].decode("latin-1"), both[len(name) :])
        changed = message._replace(headers=headers)
    with pytest.raises((EnvelopeError, SealBrokenError)):
        Opener(store).open(read(changed))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": FrameId("north", 1, 8)},
        {"id": FrameId("north", 2, 7)},
        {"id": FrameId("south", 1, 7)},
        {"captured_at": AT - timedelta(microseconds=1)},
        {"time_source": TimeSource.ARRIVAL},
        {"width": 65},
        {"height": 49},
        {"unit": replace(UNIT, pts=9001)},
        {"unit": replace(UNIT, keyframe=True)},
        {"unit": replace(UNIT, rotation=180)},
        {"unit": replace(UNIT, restart=False)},
        {"content_type": "image/jpeg", "unit": None},
        {"sealed_under": NEXT},
    ],
)
def test_a_relabelled_frame_is_refused(changes: dict[str, object]) -> None:
    store, message = sealed()
    relabelled = replace(read(message), **changes)
    with pytest.raises(SealBrokenError):
        Opener(store).open(read(relabelled.to_message()))


@pytest.mark.parametrize(
    "more",
    [
        ("ce_extra", b"1"),
        ("ce_sealing", b"none"),
        ("ce_sealinghour", b"2026-11-25T13:00Z"),
        ("ce_time", b"2026-11-25T14:59:59.999999+01:00"),
    ],
)
def test_a_sealed_frame_is_written_in_one_way_only(more: tuple[str, bytes]) -> None:
    _, message = sealed()
    headers = [pair for pair in message.headers if pair[0] != more[0]]
    with pytest.raises(EnvelopeError):
        read(message._replace(headers=[*headers, more]))
    assert read(message._replace(headers=[*message.headers, ("traceparent", b"00-1-2-3")])) == read(message)


def test_half_a_seal_is_none() -> None:
    store, message = sealed()
    for gone in ("ce_sealing", "ce_sealinghour"):
        with pytest.raises(EnvelopeError, match=r"ce_sealing(hour)?: missing"):
            read(message._replace(headers=[pair for pair in message.headers if pair[0] != gone]))
    for value in (b"", message.value[:27]):
        with pytest.raises(SealBrokenError, match="shorter than a seal"):
            Opener(store).open(read(message._replace(value=value)))


def test_what_came_in_the_clear_is_refused_unless_that_is_allowed() -> None:
    store, _ = sealed()
    with pytest.raises(NotSealedError):
        Opener(store).open(FRAME)
    assert Opener(store, required=False).open(FRAME) == FRAME


def test_nonces_do_not_repeat_over_restarts() -> None:
    store, _ = sealed()
    nonces: Counter[bytes] = Counter()
    for _ in range(20):
        sealer = Sealer(store)  # a new process has no other state than this
        nonces.update(sealer.seal(FRAME).payload[: sealing.NONCE] for _ in range(500))
    assert len(nonces) == 20 * 500


def test_a_shredded_key_is_used_for_a_bounded_time(tmp_path: Path) -> None:
    now = 0.0
    store = KeyFiles(tmp_path / "keys")
    sealer, opener = Sealer(store, lambda: now), Opener(store, clock=lambda: now)
    frame = sealer.seal(FRAME)
    assert opener.open(frame) == FRAME
    store.shred("north", NEXT)
    now = CACHED_SECONDS - 0.001
    assert opener.open(frame) == FRAME  # the price of not asking for each frame
    now = CACHED_SECONDS
    for use in (lambda: opener.open(frame), lambda: sealer.seal(FRAME)):
        with pytest.raises(KeyGoneError):
            use()


def test_keys_that_are_not_asked_for_again_are_let_go(tmp_path: Path) -> None:
    now, store = 0.0, stores.make(Settings(state_dir=tmp_path))
    earlier = HOUR - timedelta(hours=1)
    for hour in (earlier, HOUR):
        store.make("north", hour)
    ciphers = sealing.Ciphers(store.key, lambda: now)
    ciphers.get("north", earlier)
    now = CACHED_SECONDS
    ciphers.get("north", HOUR)
    assert list(ciphers._known) == [("north", HOUR)]
    store.shred("north", HOUR + timedelta(hours=1))
    now = 2 * CACHED_SECONDS
    with pytest.raises(KeyGoneError):
        ciphers.get("north", HOUR)
    assert not ciphers._known


def test_keys_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CACHED_KEYS", 2)
    asked: list[datetime] = []
    ciphers = sealing.Ciphers(lambda camera, hour: (asked.append(hour), bytes(32))[1])
    hours = [HOUR + timedelta(hours=n) for n in range(3)]
    for hour in (*hours, hours[2], hours[1], hours[0]):
        ciphers.get("north", hour)
    assert asked == [*hours, hours[0]]


# Shredding


@lasting
def test_keys_expire(store: KeyStore) -> None:
    for camera in ("north", "south"):
        store.make(camera, HOUR)
        store.make(camera, NEXT)
    assert list(shred_expired(store, 24, NEXT + timedelta(hours=23.9))) == []
    assert list(shred_expired(store, 24, NEXT + timedelta(hours=24))) == [("north", HOUR), ("south", HOUR)]
    assert list(shred_expired(store, 24, NEXT + timedelta(hours=24))) == []


def test_a_key_that_cannot_be_shredded_keeps_no_other_from_it(tmp_path: Path) -> None:
    store = stores.make(Settings(state_dir=tmp_path))
    for camera in ("north", "south"):
        store.make(camera, HOUR)
        store.make(camera, NEXT)
    bad = tmp_path / "keys" / "north" / stores.named(HOUR)
    bad.chmod(0o640)
    expired, shredded = shred_expired(store, 0, NEXT + timedelta(hours=1)), []
    with pytest.raises(KeyStoreError, match="others may read"):
        shredded.extend(expired)  # which keeps what came before the error
    assert shredded == [("north", NEXT), ("south", HOUR), ("south", NEXT)]
    assert [hour.shredded_at is None for hour in store.hours("south")] == [False, False]
    later = NEXT + timedelta(hours=1)
    store.make("north", later)
    by_hand = ("shred", "--camera", "north", "--before", (later + timedelta(hours=1)).isoformat(), "--yes")
    status, said = run(tmp_path, *by_hand)
    assert (status, stores.named(later) in said, "others may read" in said) == (1, True, True)
    bad.chmod(0o600)
    assert run(tmp_path, *by_hand)[0] == 0


def run(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    given = {"SFUMATO_STATE_DIR": str(tmp_path), **environment}
    result = CliRunner().invoke(main, ["keys", *arguments], env=given)
    return result.exit_code, result.output


def test_the_commands_list_and_shred(tmp_path: Path) -> None:
    store = stores.make(Settings(state_dir=tmp_path))
    now = stores.hour_of(datetime.now(UTC))
    for camera, hour in (("north", HOUR), ("north", now), ("south", HOUR)):
        store.make(camera, hour)
    hour, current = (
        '{"camera": "north", "hour": "2026-11-25T13Z"',
        f'{{"camera": "north", "hour": "{stores.named(now)}"',
    )
    assert run(tmp_path, "list", "--camera", "north") == (0, f"{hour}}}\n{current}}}\n")
    shred = ("shred", "--camera", "north", "--before", "2026-11-25T15:00:00+01:00")
    status, asked = run(tmp_path, *shred)  # nobody answers
    assert status == 1
    assert "1 hours of north, 2026-11-25T13Z to 2026-11-25T13Z: nobody will ever read them again" in asked
    assert run(tmp_path, *shred, "--yes") == (0, f"{hour}}}\n")
    assert run(tmp_path, *shred, "--yes") == run(tmp_path, *shred) == (0, "")
    status, listed = run(tmp_path, "list")
    assert status == 0
    assert [line.split(', "shredded_at": "20')[0].rstrip("}") for line in listed.splitlines()] == [
        hour,
        current,
        hour.replace("north", "south"),
    ]
    assert run(tmp_path, "shred", "--expired", SFUMATO_KEYS_HOURS="0.5") == (0, f"{hour.replace('north', 'south')}}}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--camera", "north"), "give --camera and --before, or --expired alone"),
        (("--expired", "--camera", "north"), "give --camera and --before, or --expired alone"),
        (("--camera", "north", "--before", "yesterday"), "not an RFC 3339 time"),
        (("--camera", "north", "--before", "2026-11-25T13:00:00"), "has no time zone"),
        (("--camera", "north", "--before", "9000-01-01T00:00:00Z"), "lies in the future"),
        (("--camera", "../x", "--before", "2026-11-25T13:00:00Z"), "camera: an id matches"),
    ],
)
def test_the_command_refuses_what_is_unclear(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    status, said = run(tmp_path, "shred", *arguments)
    assert status != 0
    assert text in said
    assert "Traceback" not in said
