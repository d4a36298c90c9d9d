"""Metadata: nothing stays unless it is allowed, and then only as the policy says; read by ExifTool and ffprobe."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sfumato.agents.pseudonyms import Pseudonyms
from sfumato.agents.settings import Settings
from sfumato.models import containers, metadata, picture_metadata, still, xmp
from sfumato.models.film import Film, Options
from sfumato.schemas.metadata import MEASURES, NAMES, Block, Grain, Grid, Metadata, MetadataField, Treatment
from sfumato.schemas.remedy import remedies
from tests.films import PLANTED, ensemble, policy, scene, write
from tests.tagging import LATITUDE, LONGITUDE, SECRETS, read, tagged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
TEXTS = tuple(field for field in MetadataField if field not in MEASURES)
EVERYTHING = {field: Treatment.EXACT for field in MetadataField}


def masked(payload: bytes, rules: Metadata, pseudonymize: metadata.Pseudonymize | None = None) -> still.Still:
    return still.mask(
        payload, ensemble(), policy(metadata=rules), max_pixels=10**6, quality=90, pseudonymize=pseudonymize
    )


def reverse(field: MetadataField, value: str, rules: Metadata) -> str:
    return f"pseudonym-{field}"


def saved(ending: str, **keys: object) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (48, 40), (90, 100, 110)).save(
        written, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[ending], **keys
    )
    return written.getvalue()


@pytest.mark.parametrize("ending", TYPES)
def test_by_default_nothing_stays(tmp_path, ending):
    source = tagged(tmp_path / f"a{ending}")
    planted = [value for value in SECRETS.values() if value.encode() in source.read_bytes()]
    assert len(planted) > 8
    done = masked(source.read_bytes(), Metadata())
    assert not [value for value in SECRETS.values() if value.encode() in done.payload]
    (tmp_path / f"out{ending}").write_bytes(done.payload)
    groups = {name.split(":")[0] for name in read(tmp_path / f"out{ending}")}
    assert groups <= {"JFIF", "PNG", "RIFF"}
    assert {Block.EXIF, Block.XMP, Block.THUMBNAIL} <= set(done.metadata.removed)
    assert {"make", "serial", "coordinates", "captured_at", "camera_name", "place"} <= set(done.metadata.removed)
    assert not done.metadata.exact
    assert not done.metadata.malformed


@pytest.mark.parametrize("ending", TYPES)
def test_what_is_allowed_stays_where_the_format_has_it_after_its_treatment(tmp_path, ending):
    keep = {"make": "exact", "title": "exact", "serial": "pseudonym", "camera_name": "pseudonym", "place": "pseudonym"}
    keep |= {"captured_at": "coarsen", "coordinates": "coarsen"}
    rules = Metadata(keep=keep, recipient="press", time_zone="Europe/Amsterdam")
    done = masked(tagged(tmp_path / f"a{ending}").read_bytes(), rules, reverse)
    (tmp_path / f"out{ending}").write_bytes(done.payload)
    told = read(tmp_path / f"out{ending}")
    expected = {
        "IFD0:Make": SECRETS["Make"],
        "XMP-dc:Title": SECRETS["XMP-dc:Title"],
        "ExifIFD:SerialNumber": "pseudonym-serial",
        "XMP-xmpDM:CameraLabel": "pseudonym-camera_name",
        "XMP-iptcCore:Location": "pseudonym-place",
        "ExifIFD:DateTimeOriginal": "2026:09:12 08:00:00",
        "ExifIFD:OffsetTimeOriginal": "+02:00",
    }
    assert {name: told[name] for name in expected} == expected
    assert told["GPS:GPSLatitude"] == pytest.approx(52.015)
    assert told["GPS:GPSLongitude"] == pytest.approx(4.355)
    gone = [value for name, value in SECRETS.items() if name not in ("Make", "XMP-dc:Title")]
    assert not [value for value in gone if value.encode() in done.payload]
    assert set(done.metadata.exact) == {"make", "title"}
    assert set(done.metadata.pseudonymized) == {"serial", "camera_name", "place"}
    assert set(done.metadata.coarsened) == {"captured_at", "coordinates"}
    assert "model" in done.metadata.removed


def test_without_a_key_nothing_stays_in_place_of_a_pseudonym(tmp_path):
    source = tagged(tmp_path / "a.jpg").read_bytes()
    done = masked(source, Metadata(keep={"serial": "pseudonym"}, recipient="press"))
    assert "serial" in done.metadata.removed
    assert SECRETS["SerialNumber"].encode() not in done.payload


@st.composite
def rules(draw) -> Metadata:
    keep = {}
    for field in draw(st.sets(st.sampled_from(list(MetadataField)))):
        allowed = [Treatment.EXACT]
        allowed += [Treatment.PSEUDONYM] if field in NAMES else [Treatment.COARSEN] if field in MEASURES else []
        keep[field] = draw(st.sampled_from(allowed))
    return Metadata(keep=keep, recipient="r", grain=draw(st.sampled_from(list(Grain))))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules(), st.sampled_from(list(TYPES)), st.text("abcdefghijkmnopq", min_size=12, max_size=30), st.data())
def test_no_value_is_in_the_output_unless_it_is_allowed_exactly(tmp_path, rules, ending, salt, data):
    present = data.draw(st.sets(st.sampled_from(TEXTS), min_size=1))
    values: metadata.Values = {field: f"{number}{salt}" for number, field in enumerate(TEXTS) if field in present}
    coordinates = data.draw(st.tuples(st.floats(-89.9, 89.9), st.floats(-179.9, 179.9)))
    moment = data.draw(st.datetimes(datetime(1950, 1, 1), datetime(2090, 1, 1), timezones=st.sampled_from([None, UTC])))
    values |= {MetadataField.COORDINATES: coordinates, MetadataField.CAPTURED_AT: moment.replace(microsecond=0)}
    source = picture_metadata.write(saved(ending), TYPES[ending], values)
    pseudonyms = Pseudonyms(Settings(state_dir=tmp_path))
    done = masked(source, rules, pseudonyms.pseudonymize)
    for field in present:
        value = str(values[field]).encode()
        assert value in source
        assert (value in done.payload) == (rules.keep.get(field) is Treatment.EXACT), field
    found, _ = picture_metadata.read(done.payload, TYPES[ending])
    assert found.values.keys() == rules.keep.keys() & values.keys()
    assert not found.malformed
    if MetadataField.COORDINATES in rules.keep:
        places = [coordinates]
        if rules.keep[MetadataField.COORDINATES] is Treatment.COARSEN:
            # Files hold fractions: on the border of two cells, either is right.
            near = ((coordinates[0] + y, coordinates[1] + x) for y in (-1e-6, 0, 1e-6) for x in (-1e-6, 0, 1e-6))
            places = [metadata.snapped(place, rules.grid) for place in near]
        where = found.values[MetadataField.COORDINATES]
        assert any(where == pytest.approx(place, abs=1e-6) for place in places)
    record = done.metadata
    told = {*record.exact, *record.pseudonymized, *record.coarsened, *record.removed}
    assert told >= values.keys()


garbage = st.binary(max_size=400)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(TYPES)), garbage, garbage, st.booleans(), st.data())
def test_malformed_metadata_is_removed_and_fails_nothing(ending, exif, xmp, plausible, data):
    """Random bytes, and EXIF that was right before some of its bytes were changed."""
    if plausible:
        values: metadata.Values = {field: PLANTED for field in TEXTS}
        values |= {MetadataField.COORDINATES: (1.0, 2.0), MetadataField.CAPTURED_AT: datetime(2026, 1, 2, 3, 4, 5)}
        whole, _ = picture_metadata._exif(values), None
        assert whole is not None
        exif = bytearray(whole)
        for place, byte in data.draw(
            st.lists(st.tuples(st.integers(0, len(exif) - 1), st.integers(0, 255)), max_size=30)
        ):
            exif[place] = byte
        exif = bytes(exif)
    source = containers.embed(saved(ending), TYPES[ending], exif + PLANTED.encode(), xmp + PLANTED.encode())
    done = masked(source, Metadata())
    assert not done.account.fully_masked
    assert PLANTED.encode() not in done.payload
    assert {Block.EXIF, Block.XMP} <= set(done.metadata.removed)
    kept = masked(source, Metadata(keep=EVERYTHING))  # what can be read may stay; nothing fails
    assert picture_metadata.read(kept.payload, TYPES[ending])[0].malformed == set()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize(
    "hostile",
    [
        chunk(b"zTXt", b"Title\0\0" + zlib.compress(b"x" * 50_000_000)),
        chunk(b"zTXt", b"Title\0\0not compressed"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0nothing"),
        chunk(b"eXIf", b"MM\0*" + b"\xff" * 40),
        chunk(b"tEXt", b"no keyword"),
    ],
)
def test_hostile_chunks_of_a_png_are_left_out(hostile):
    payload = saved(".png")
    done = masked(payload[:33] + hostile + payload[33:], Metadata(keep=EVERYTHING))
    assert not done.account.fully_masked
    assert done.metadata.malformed or done.metadata.removed


def test_a_jpeg_with_several_pictures_a_maker_note_and_credentials_keeps_none_of_them():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = PLANTED.encode() * 4
    payload = saved(".jpg", exif=exif.tobytes())
    more = b"".join(
        struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body
        for marker, body in ((0xE2, b"MPF\0" + PLANTED.encode()), (0xEB, PLANTED.encode()), (0xFE, PLANTED.encode()))
    )
    done = masked(payload[:2] + more + payload[2:] + saved(".jpg", comment=PLANTED.encode()), Metadata(keep=EVERYTHING))
    assert PLANTED.encode() not in done.payload
    assert {Block.MAKER_NOTE, Block.FURTHER_PICTURES, Block.CREDENTIALS, Block.TEXT} <= set(done.metadata.removed)


@pytest.mark.parametrize("ending", TYPES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_whatever_else_their_metadata_hold(ending, orientation):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:12, :12] = 250  # the corner from which orientations are told
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, PLANTED
    written = io.BytesIO()
    keys = {"lossless": True} if ending == ".webp" else {"quality": 95} if ending == ".jpg" else {}
    Image.fromarray(pixels).save(
        written, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[ending], exif=exif.tobytes(), **keys
    )
    done = masked(written.getvalue(), Metadata())
    with Image.open(io.BytesIO(done.payload)) as shown:
        grey = np.asarray(shown.convert("L")).astype(int)
        assert shown.getexif().get(0x0112) is None
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert grey.shape == ((40, 64) if orientation < 5 else (64, 40))
    row, column = corners[orientation]
    assert grey[row, column] > 200
    assert sum(grey[r, c] > 200 for r in (0, -1) for c in (0, -1)) == 1


grids = st.one_of(st.builds(Grid, degrees=st.floats(0.001, 20)), st.builds(Grid, metres=st.floats(100, 2_000_000)))


@settings(max_examples=500)
@given(st.floats(-90, 90), st.floats(-180, 180), grids, st.floats(-0.499, 0.499), st.floats(-0.499, 0.499))
def test_coordinates_are_never_told_closer_than_the_grid(latitude, longitude, grid, down, right):
    """Wherever in a square as large as the grid around a cell's centre a picture was taken: it tells that centre."""
    centre = metadata.snapped((latitude, longitude), grid)
    assert metadata.snapped(centre, grid) == centre
    if grid.degrees is not None:
        high, wide = grid.degrees, grid.degrees
    else:
        high = grid.metres / 111_700  # the longest degree of latitude there is
        wide = grid.metres / (111_700 * max(math.cos(math.radians(min(abs(centre[0]), 89.9))), 1e-3))
    moved = (centre[0] + down * high, centre[1] + right * min(wide, 360))
    if abs(moved[0]) < 90 and abs(moved[1]) < 180:
        assert metadata.snapped(moved, grid) == centre
    assert abs(centre[0]) <= 90
    assert abs(centre[1]) <= 180


@pytest.mark.parametrize(
    ("moment", "grain", "zone", "expected"),
    [
        ("2026-09-12T08:31:05+02:00", "hour", "UTC", "2026-09-12T06:00:00+00:00"),
        ("2026-09-12T00:31:05+02:00", "day", "UTC", "2026-09-11T00:00:00+00:00"),
        ("2026-09-12T00:31:05+02:00", "day", "Europe/Amsterdam", "2026-09-12T00:00:00+02:00"),
        ("2026-10-25T02:31:05+01:00", "hour", "Europe/Amsterdam", "2026-10-25T02:00:00+01:00"),  # the second 2 o'clock
        ("2026-09-12T08:31:05", "hour", "Europe/Amsterdam", "2026-09-12T08:00:00"),
        ("2026-09-12T08:31:05+02:00", "minute", "UTC", "2026-09-12T06:31:00+00:00"),
        ("2026-09-12T08:31:05+02:00", "month", "UTC", "2026-09-01T00:00:00+00:00"),
        ("2026-09-12T08:31:05+02:00", "year", "UTC", "2026-01-01T00:00:00+00:00"),
        ("0001-01-01T00:00:00+14:00", "hour", "UTC", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_times_are_moved_to_the_beginning_of_their_grain(moment, grain, zone, expected):
    assert metadata.truncated(datetime.fromisoformat(moment), Grain(grain), zone).isoformat() == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": {"gps": "exact"}}, "one of 'make', 'model'"),
        ({"keep": {"make": "blur"}}, "one of 'exact', 'pseudonym', 'coarsen'"),
        ({"keep": {"make": "pseudonym"}, "recipient": "x"}, "only camera_name, place, serial have one"),
        ({"keep": {"serial": "coarsen"}}, "only captured_at, coordinates can"),
        ({"keep": {"serial": "pseudonym"}}, "recipient: missing"),
        ({"grid": {"degrees": 1, "metres": 100}}, "either degrees or metres"),
        ({"time_zone": "Mars/Olympus"}, "no such time zone"),
        ({"thumbnail": True}, "unknown key"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(given, said):
    with pytest.raises(ValidationError) as refused:
        Metadata.model_validate(given)
    assert said in remedies(refused.value)


def test_exact_values_that_reveal_people_are_warned_of():
    warnings = list(policy(metadata=Metadata(keep={"serial": "exact", "make": "exact"})).warnings())
    assert [warning.split(":")[0] for warning in warnings] == ["metadata.keep.serial"]


SAID = {
    "make": "Cameramaker-51a",
    "model": "Modelname-52b",
    "title": PLANTED,
    "comment": PLANTED,
    "location": f"{LATITUDE:+09.5f}{LONGITUDE:+010.5f}/",
    "creation_time": "2026-09-12T06:31:05Z",
    "com.apple.quicktime.camera.identifier": "north-gate-57g",
    "camera_name": "north-gate-57g",
    "serial_number": "SN-0053-c",
    "recording_location": "Delft-61k",
    "unheard_of": PLANTED,
}


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_films_keep_what_is_allowed_and_nothing_else(tmp_path, ending):
    def adorn(container):
        container.metadata.update(SAID)
        return lambda: None

    plain = write(tmp_path / f"plain{ending}", [scene(n) for n in range(6)])
    source = tmp_path / f"a{ending}"
    tags = [part for name, value in SAID.items() for part in ("-metadata", f"{name}={value}")]
    flags = ["-movflags", "use_metadata_tags"] if ending in (".mp4", ".mov") else []
    command = ["ffmpeg", "-loglevel", "error", "-i", str(plain), "-c", "copy", *tags, *flags, str(source)]
    subprocess.run(command, check=True, timeout=60)
    assert source.read_bytes().count(PLANTED.encode()) >= 3
    keep = {"make": "exact", "serial": "pseudonym", "camera_name": "pseudonym", "place": "pseudonym"}
    keep |= {"captured_at": "coarsen", "coordinates": "coarsen"}
    rules = Metadata(keep=keep, recipient="press")
    film = Film(source, ensemble(), policy(metadata=rules), Options(pseudonymize=reverse))
    film.mask(tmp_path / f"out{ending}", lambda: None)
    written = (tmp_path / f"out{ending}").read_bytes()
    for value in (PLANTED, "Modelname", "SN-0053", "north-gate", "Delft", "52.0116", "31:05"):
        assert value.encode() not in written, value
    told = probed(tmp_path / f"out{ending}")
    values = set(told.values())
    assert {"Cameramaker-51a", "pseudonym-serial", "pseudonym-camera_name", "pseudonym-place"} <= values
    assert "+52.015000+004.355000/" in values
    assert datetime.fromisoformat(told["creation_time"]) == datetime(2026, 9, 12, 6, tzinfo=UTC)
    if ending in (".mp4", ".mov"):
        seen = read(tmp_path / f"out{ending}")
        assert seen["Keys:Make"] == "Cameramaker-51a"
        assert seen["Keys:GPSCoordinates"] == "52.015 4.355"
        assert seen["Keys:LocationName"] == "pseudonym-place"
    assert set(film.metadata.coarsened) == {"captured_at", "coordinates"}
    assert {"model", "title", "tags"} <= set(film.metadata.removed)


def probed(path: Path) -> dict[str, str]:
    command = ["ffprobe", "-loglevel", "error", "-print_format", "json", "-show_format", str(path)]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    return {name.lower(): value for name, value in shown["format"]["tags"].items()}


def test_a_film_tells_nothing_by_default(tmp_path):
    def adorn(container):
        container.metadata.update(SAID)
        return lambda: None

    source = write(tmp_path / "a.mp4", [scene(n) for n in range(6)], adorn=adorn)
    film = Film(source, ensemble(), policy(), Options())
    film.mask(tmp_path / "out.mp4", lambda: None)
    assert set(probed(tmp_path / "out.mp4")) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}
    assert not film.metadata.exact


def test_a_picture_of_a_thousand_texts_unpacks_few(monkeypatch):
    """Each unpacks to 4 MB at most: eight thousand fit into a picture that is taken, and would fill the memory."""
    unpacked: list[bytes] = []
    unpack = containers.png_text

    def counted(piece: containers.Piece) -> tuple[bytes, str]:
        unpacked.append(piece.body[:10])
        return unpack(piece)

    monkeypatch.setattr(containers, "png_text", counted)
    packed = zlib.compress(b"x" * 100_000)
    kinds = (b"Title\0\0" + packed, b"Unknown\0\0" + packed)
    texts = b"".join(chunk(b"zTXt", kind) for kind in kinds for _ in range(500))
    empty = b"".join(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0nothing") for _ in range(500))
    plain = saved(".png")
    found, _ = picture_metadata.read(plain[:33] + texts + empty + plain[33:], "image/png")
    assert Block.TEXT in found.blocks
    assert len(unpacked) == 2  # Title and XMP, the first of each


def test_xmp_takes_time_by_its_length():
    """Descriptions that lie in one another were gone through once for each, and there was no limit."""
    ns = 'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    within = "<r:Description><dc:title><r:Alt><r:li>Deep</r:li></r:Alt></dc:title></r:Description>"
    found = metadata.Found()
    xmp.read(f"<r:Description {ns}><dc:creator>{within}</dc:creator></r:Description>".encode(), found)
    assert "Deep" in str(found.values)
    assert MetadataField.CREATOR not in found.values
    with pytest.raises(ValueError, match="too many bytes"):
        xmp.read(f"<r:Description {ns}>{' ' * 10**6}</r:Description>".encode(), metadata.Found())
