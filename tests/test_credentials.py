"""Content credentials: signed, read by C2PA's reader, broken by a change of what is shown, silent on the original."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import c2pa
import pytest
from click.testing import CliRunner
from PIL import Image

from sfumato.agents import credentials as signing
from sfumato.agents.cli import main
from sfumato.agents.credentials import ACTIONS, Credentials, CredentialsError
from sfumato.agents.fetch import fetch
from sfumato.agents.settings import Settings, load
from sfumato.models.weights import WEIGHTS
from sfumato.schemas.audit import DetectorRecord
from sfumato.schemas.credential import LABEL, Statement
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.report import Account
from tests.films import policy, scene, write
from tests.tagging import SECRETS, tagged

PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
ACCOUNT = Account(frames=1, masked=1, fully_masked=0, dropped=0, looked_at=1, boxes={"face": 3})
DETECTORS = (DetectorRecord(name="centerface", weights_sha256="0" * 64),)


def statement(**keys: object) -> Statement:
    return Statement.of(policy(), ACCOUNT, DETECTORS, MetadataRecord(exact=("make",)), **keys)  # type: ignore[arg-type]


def picture(content_type: str) -> bytes:
    written = io.BytesIO()
    Image.effect_noise((160, 120), 40).convert("RGB").save(written, PICTURES[content_type])
    return written.getvalue()


def reader(content_type: str, payload: bytes, root: bytes | None = None) -> c2pa.Reader:
    offline = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if root is not None:
        offline["trust"] = {"trust_anchors": root.decode()}
    return c2pa.Reader(content_type, io.BytesIO(payload), context=c2pa.Context.from_dict(offline))


def codes(read: c2pa.Reader) -> set[str]:
    results = read.get_validation_results() or {}
    return {problem["code"] for problem in results["activeManifest"]["failure"]}


def root_of(chain: bytes) -> bytes:
    mark = b"-----BEGIN CERTIFICATE-----"
    return mark + chain.rpartition(mark)[2]


@pytest.fixture
def credentials(tmp_path) -> Credentials:
    return Credentials(Settings(state_dir=tmp_path / "state"))


@pytest.mark.parametrize("content_type", PICTURES)
def test_a_signed_picture_says_what_was_done_and_nothing_of_the_original(credentials, content_type):
    payload = picture(content_type)
    signed = credentials.sign(content_type, payload, statement(policy_sha256="1" * 64))
    assert reader(content_type, signed, root_of(credentials.chain)).get_validation_state() == "Trusted"
    read = reader(content_type, signed)
    assert read.get_validation_state() == "Valid"
    assert codes(read) == {"signingCredential.untrusted"}
    manifest = read.get_active_manifest()
    assert manifest is not None
    assert {"thumbnail", "ingredients", "title"} & manifest.keys() == set()
    assert manifest["signature_info"]["alg"] == "Es256"
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    assert assertions.keys() == {ACTIONS, LABEL}
    told = Statement.model_validate(assertions[LABEL])
    assert told == statement(policy_sha256="1" * 64)
    assert (told.policy, told.version, told.masked["face"].boxes, told.metadata) == ("files", 3, 3, {"make": "exact"})
    actions = assertions[ACTIONS]["actions"]
    assert [action["action"] for action in actions] == ["c2pa.created", "c2pa.edited", "c2pa.edited.metadata"]
    assert {action["softwareAgent"]["name"] for action in actions} == {"sfumato"}
    assert actions[0]["digitalSourceType"].endswith("/algorithmicallyEnhanced")
    with Image.open(io.BytesIO(signed)) as shown, Image.open(io.BytesIO(payload)) as before:
        assert shown.tobytes() == before.tobytes()


@pytest.mark.parametrize("content_type", PICTURES)
def test_a_changed_byte_of_the_pixels_breaks_it(credentials, content_type):
    payload = picture(content_type)
    signed = bytearray(credentials.sign(content_type, payload, statement()))
    middle = payload[len(payload) // 2 : len(payload) // 2 + 64]
    place = bytes(signed).index(middle)
    signed[place] ^= 1
    read = reader(content_type, bytes(signed), root_of(credentials.chain))
    assert read.get_validation_state() == "Invalid"
    assert "assertion.dataHash.mismatch" in codes(read)


@pytest.mark.parametrize(("ending", "content_type"), [(".mp4", "video/mp4"), (".mov", "video/quicktime")])
def test_a_signed_film_plays_and_a_changed_byte_breaks_it(credentials, tmp_path, ending, content_type):
    source = write(tmp_path / f"a{ending}", [scene(n) for n in range(20)], options={"movflags": "faststart"})
    target = tmp_path / f"signed{ending}"
    credentials.sign_file(content_type, source, target, statement())
    read = reader(content_type, target.read_bytes(), root_of(credentials.chain))
    assert read.get_validation_state() == "Trusted"
    with av.open(str(target)) as after, av.open(str(source)) as before:
        shown = [frame.to_ndarray() for frame in after.decode(video=0)]
        assert len(shown) == 20
        assert all((a == b.to_ndarray()).all() for a, b in zip(shown, before.decode(video=0), strict=True))
    changed = bytearray(target.read_bytes())
    changed[-400] ^= 1  # the pictures are the last box
    broken = reader(content_type, bytes(changed), root_of(credentials.chain))
    assert broken.get_validation_state() == "Invalid"
    assert "assertion.bmffHash.mismatch" in codes(broken)


def test_formats_without_a_place_for_it_are_named(credentials):
    assert not credentials.supports("video/webm")
    with pytest.raises(CredentialsError, match="video/webm: cannot carry a manifest"):
        credentials.sign("video/webm", b"", statement())
    with pytest.raises(CredentialsError, match="could not be made"):
        credentials.sign("image/jpeg", b"no picture", statement())


def test_many_threads_sign_at_once(credentials):
    payload = picture("image/jpeg")
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: credentials.sign("image/jpeg", payload, statement()), range(64)))
    root = root_of(credentials.chain)
    assert {reader("image/jpeg", file, root).get_validation_state() for file in signed} == {"Trusted"}


def test_the_self_made_chain_stays_is_for_its_owner_alone_and_is_renewed(tmp_path, monkeypatch):
    settings, barrier, found = Settings(state_dir=tmp_path), threading.Barrier(4), []

    def make() -> None:
        barrier.wait()
        found.append(Credentials(settings).chain)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    soon = datetime.now(UTC) + signing.VALID - signing.MARGIN + timedelta(hours=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return soon

    monkeypatch.setattr(signing, "datetime", Later)
    assert Credentials(settings).chain != found[0]


def test_a_certificate_of_ones_own_is_used(tmp_path):
    chain, key = signing._self_made(tmp_path / "made.pem")
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    own = {"c2pa_certificate": tmp_path / "chain.pem", "c2pa_key": tmp_path / "key.pem"}
    credentials = Credentials(Settings(state_dir=tmp_path / "state", **own))
    signed = credentials.sign("image/jpeg", picture("image/jpeg"), statement())
    assert reader("image/jpeg", signed, root_of(chain)).get_validation_state() == "Trusted"
    assert not (tmp_path / "state").exists()
    for wrong, said in (
        ({"c2pa_key": None}, "go together"),
        ({"c2pa_key": tmp_path / "absent.pem"}, "SFUMATO_C2PA_CERTIFICATE or _KEY"),
        ({"c2pa_key": tmp_path / "chain.pem"}, "SFUMATO_C2PA_CERTIFICATE, _KEY or _ALGORITHM"),
    ):
        with pytest.raises(CredentialsError, match=said):
            Credentials(Settings(state_dir=tmp_path / "state", **(own | wrong))).sign(
                "image/jpeg", picture("image/jpeg"), statement()
            )


def test_sfumato_mask_signs_and_says_where_it_could_not(tmp_path, monkeypatch):
    fetch(WEIGHTS["centerface"], load().weights_dir)
    monkeypatch.setenv("SFUMATO_STATE_DIR", str(tmp_path / "state"))
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    tagged(source / "a.jpg")
    original = (source / "a.jpg").read_bytes()
    for ending in (".mp4", ".webm"):
        write(source / f"b{ending}", [scene(n) for n in range(6)])
    arguments = ["mask", str(source), "--out", str(out), "--targets", "face", "--credentials"]
    done = CliRunner().invoke(main, [*arguments, "--keep-metadata", "make,serial", "--recipient", "press"])
    assert done.exit_code == 0, done.output
    files = {Path(file["input"]).name: file for file in json.loads((out / "report.json").read_text())["files"]}
    assert {name: file["credentials"] for name, file in files.items()} == {
        "a.jpg": True,
        "b.mp4": True,
        "b.webm": False,
    }
    assert files["a.jpg"]["metadata"]["pseudonymized"] == ["serial"]
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.mp4", "b.webm", "report.json"]
    chain = Credentials(load()).chain
    for name, content_type in (("a.jpg", "image/jpeg"), ("b.mp4", "video/mp4")):
        read = reader(content_type, (out / name).read_bytes(), root_of(chain))
        assert read.get_validation_state() == "Trusted"
        manifest = read.get_active_manifest()
        assert manifest is not None
        data = next(assertion["data"] for assertion in manifest["assertions"] if assertion["label"] == LABEL)
        assert Statement.model_validate(data).policy is None  # nobody named one
    written = (out / "a.jpg").read_bytes()
    assert not [value for name, value in SECRETS.items() if name != "Make" and value.encode() in written]
    assert not any(digest.encode() in written for digest in (files["a.jpg"]["input_sha256"],))
    assert bytes.fromhex(files["a.jpg"]["input_sha256"]) not in written
    assert original != written


MEMORY = """
import sys
from pathlib import Path
from sfumato.agents.credentials import Credentials
from sfumato.agents.settings import Settings
from tests.test_credentials import statement
credentials = Credentials(Settings(state_dir=Path(sys.argv[1]) / "state"))
peaks = []
for name in ("small.mp4", "large.mp4"):
    credentials.sign_file("video/mp4", Path(sys.argv[1]) / name, Path(sys.argv[1]) / f"signed-{name}", statement())
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    peaks.append(int(line.split()[1]) // 1024)
print(*peaks)
"""


def test_films_are_signed_in_constant_memory(tmp_path):
    noise = ["-f", "lavfi", "-i", "color=gray:size=640x360:rate=25,noise=alls=90:allf=t", "-t", "0.4"]
    for name, options in (
        ("small.mp4", [*noise, "-preset", "ultrafast", "-qp", "4"]),
        ("large.mp4", ["-stream_loop", "39", "-i", tmp_path / "small.mp4", "-c", "copy"]),
    ):
        command = ["ffmpeg", "-loglevel", "error", *options, "-movflags", "faststart", tmp_path / name]
        subprocess.run(list(map(str, command)), check=True, timeout=120)
    assert (tmp_path / "large.mp4").stat().st_size > 150_000_000
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    before, after = map(int, done.stdout.split())
    assert after - before < 50


def test_a_film_whose_hash_the_library_gets_wrong_is_refused(credentials, tmp_path):
    """One with two boxes of pictures, which no writer here makes."""
    small = write(tmp_path / "small.mp4", [scene(n) for n in range(20)])
    (tmp_path / "odd.mp4").write_bytes(small.read_bytes() + (3008).to_bytes(4, "big") + b"mdat" + bytes(3000))
    with pytest.raises(CredentialsError, match="several boxes of pictures"):
        credentials.sign_file("video/mp4", tmp_path / "odd.mp4", tmp_path / "signed.mp4", statement())


def test_a_manifest_that_its_own_reader_refuses_is_no_signature(credentials, monkeypatch):
    monkeypatch.setattr(c2pa.Reader, "get_validation_state", lambda _: "Invalid")
    with pytest.raises(CredentialsError, match="is not valid"):
        credentials.sign("image/jpeg", picture("image/jpeg"), statement())
