"""Valid inputs of each kind, small: what ``ops/fuzz.py`` makes others from. A canary stands where a value stands."""

from __future__ import annotations

import base64
import functools
import json
import tempfile
import time
from dataclasses import fields as fields_of
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import fuzz_media as media
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fuzz import CANARY
from fuzz_media import AT
from joserfc import jwk, jwt

from sfumato.agents.evidence import inventory
from sfumato.agents.evidence.proof import Proof
from sfumato.agents.footage.sealing import Sealer
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.agents.ledger.stamp import stamp
from sfumato.agents.web import formats, paging
from sfumato.agents.web.paging import After
from sfumato.models import images
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent, DetectorRecord, Origin
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.detection import Detection, DetectorName, Evidence, Target, dump_boxes
from sfumato.schemas.disclosure import Act, Disclosure
from sfumato.schemas.epoch import EpochRecord, EpochState
from sfumato.schemas.find import Find
from sfumato.schemas.frame import AnonymizedFrame, Message, RawFrame, TimeSource
from sfumato.schemas.head import Cover, Head
from sfumato.schemas.job import JobRequest
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.segment import Segment
from sfumato.schemas.subject_request import ApprovalDraft, SubjectKind
from sfumato.schemas.suspension import Suspension, SuspensionState
from sfumato.schemas.unit import H264, AnonymizedUnit

SHA = "ab" * 32
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BOX = Detection(target=Target.FACE, score=0.9, box=(1.0, 2.0, 3.0, 4.0), track=7, evidence=Evidence.TRACKED)


def fields(frame: RawFrame) -> dict[str, Any]:
    return {each.name: getattr(frame, each.name) for each in fields_of(frame)}


def packed(message: Message) -> bytes:
    """As ``fuzz_targets.message`` reads it."""
    pairs = [name.encode() + b"=" + (value if isinstance(value, bytes) else b"") for name, value in message.headers]
    return b"\0".join([message.key, *pairs]) + b"\0\0" + message.value


def raw_frames() -> list[bytes]:
    shared = {"captured_at": AT, "time_source": TimeSource.CAMERA, "width": 16, "height": 16}
    still = RawFrame(FrameId("north", 1, 2), **shared, content_type="image/jpeg", payload=CANARY.encode())
    return [packed(frame.to_message()) for frame in (still, *media.raw_units())]


def anonymized_frames() -> list[bytes]:
    shared: dict[str, Any] = {"captured_at": AT, "time_source": TimeSource.ARRIVAL, "width": 16, "height": 16}
    shared |= {"policy_version": 3, "detections": (BOX,), "policy": "north-*"}
    unit = AnonymizedUnit(10, Fraction(1, 90_000), True, "0123456789abcdef", 0)
    frames = (
        AnonymizedFrame(
            FrameId("north", 1, 2), **shared, content_type="image/jpeg", payload=images.grey(16, 16),
            outcome=Outcome.FULLY_MASKED, reason=Reason.NO_POLICY,
        ),
        AnonymizedFrame(
            FrameId("north", 1, 2), **shared, content_type=H264, payload=media.coded("libx264")[0],
            outcome=Outcome.MASKED, reason=None, unit=unit,
        ),
    )  # fmt: skip
    return [packed(frame.to_message()) for frame in frames]


def boxes() -> list[bytes]:
    return [dump_boxes([BOX, BOX]).encode(), b"[]"]


def policy() -> Policy:
    return Policy.model_validate(_policy())


def _policy() -> dict[str, Any]:
    zone = {"name": "door", "polygon": [[0.1, 0.1], [0.4, 0.1], [0.4, 0.3]], "rule": "never_mask", "spares": ["motion"]}
    daily = {"begins": "22:00", "ends": "06:00", "time_zone": "Europe/Amsterdam", "days": ["fri"]}
    return {
        "camera": "north-*", "version": 2, "controller": CANARY, "purpose": "counts", "lawful_basis": "public_task",
        "dpia": "D-1", "retention_hours": 24, "targets": {"face": {"mask": "mosaic", "cells": 6}, "motion": {}},
        "zones": [zone], "schedules": [{"name": "night", "daily": daily, "full_mask": True}],
        "valid_from": "2026-01-01T00:00:00+01:00",
        "overload": {"rule": "skip", "max_age": 2.0}, "output": {"codec": "h264", "bitrate": 900},
        "metadata": {"keep": {"captured_at": "coarsen"}},
    }  # fmt: skip


def policies() -> list[bytes]:
    plain = {name: value for name, value in _policy().items() if name not in ("schedules", "metadata", "zones")}
    return [json.dumps(each).encode() for each in (_policy(), plain, {"defaults": plain, "policy": [{"camera": "*"}]})]


def policy_messages() -> list[bytes]:
    first, plain, _ = policies()
    return [b"north-*\0" + first, b"north-*@2\0" + plain, b"north-*@2\0", b"north-*\0"]


def policy_tomls() -> list[bytes]:
    return [
        f'[defaults]\nversion = 1\ncontroller = "{CANARY}"\npurpose = "counts"\nlawful_basis = "public_task"\n'
        'dpia = "D"\nretention_hours = 24\nvalid_from = 2026-01-01T00:00:00Z\ntargets.face = { shape = "ellipse" }\n\n'
        '[[policy]]\ncamera = "*"\n\n[[policy]]\ncamera = "north-*"\n'
        'zones = [{ name = "w", polygon = [[0.0, 0.0], [0.4, 0.0], [0.4, 0.3]] }]\n'.encode()
    ]


def floors() -> list[bytes]:
    return [
        b'targets = ["face"]\nmasks = ["solid", "mosaic"]\ncells = 8\ndilation = 0.1\nhold = 0.5\nnever_mask = false\n'
    ]


def audit_events() -> list[bytes]:
    origin = Origin(topic="frames.raw", partition=1, offset=2)
    masked = AuditEvent(
        id="a", origin=origin, camera="north", epoch=1, sequence=2, outcome=Outcome.MASKED, captured_at=AT,
        audited_at=AT, detectors=(DetectorRecord(name=DetectorName.CENTERFACE, weights_sha256=SHA),), detections=(BOX,),
        input_bytes=3, input_sha256=SHA, output_bytes=3, output_sha256=SHA,
        policy="north-*", policy_version=2, width=9, height=9,
    )  # fmt: skip
    dropped = AuditEvent(
        id="b", origin=origin, outcome=Outcome.DROPPED, reason=Reason.INVALID_ENVELOPE, detail=CANARY, audited_at=AT,
        input_bytes=3, input_sha256=SHA,
    )  # fmt: skip
    return [event.to_message().value for event in (masked, dropped)]


def epoch_records() -> list[bytes]:
    record = EpochRecord(
        camera="north", epoch=1, state=EpochState.ENDED, at=AT, last_sequence=9, dropped={Reason.UNDECODABLE: 2}
    )
    return [record.to_message().value]


def suspensions() -> list[bytes]:
    record = Suspension(camera="north", state=SuspensionState.SUSPENDED, at=AT, by="me", note=CANARY, finds=3)
    message = record.to_message()
    return [message.key + b"\0" + message.value]


def finds() -> list[bytes]:
    record = Find(
        camera="north", epoch=1, sequence=2, index=0, target=Target.FACE, score=0.5, box=(0, 0, 1, 1), covered=0.1,
        width=9, height=9, detector=DetectorRecord(name=DetectorName.MTCNN, weights_sha256=SHA), policy_version=1,
        published_at=AT, found_at=AT,
    )  # fmt: skip
    return [b"north\0" + record.to_message().value]


def segments() -> list[bytes]:
    segment = Segment.model_validate(
        {
            "log": "north", "first": 0, "size": 2, "root": SHA, "previous_root": SHA, "subtrees": [SHA],
            "sealed_at": AT, "source": {"topic": "audit", "partition": 0, "first_offset": 0, "last_offset": 1},
            "outcomes": {"masked": 2}, "reasons": {"no_policy": 1}, "runs": [{"epoch": 1, "first": 0, "last": 1}],
            "missing": [{"epoch": 1, "first": 5, "last": 6}], "ingest_dropped": {"too_large": 1},
            "policies": {CANARY: SHA},
        }
    )  # fmt: skip
    return [segment.model_dump_json().encode()]


def signer() -> Signer:
    return Signer("city.example/sfumato", KEY)


def checkpoints() -> list[bytes]:
    return [Checkpoint("city.example/north", 5, bytes(32), (segments()[0].decode(),)).text().encode()]


def notes() -> list[bytes]:
    other = Signer("witness", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    signed = signer().sign(checkpoints()[0].decode())
    text = signed[: signed.rindex("\n\n") + 1]
    return [
        signed.encode(),
        (signed + other.sign(text)[len(text) + 1 :]).encode(),
        signer().sign("one line\n").encode(),
    ]


def verifier_keys() -> list[bytes]:
    return [str(signer().verifier).encode()]


def cursors() -> list[bytes]:
    return [paging.write(After(after=CANARY)).encode()]


def _request() -> JobRequest:
    return JobRequest.model_validate(
        {
            "files": [{"url": f"https://dam.example/{CANARY}.mp4", "name": "market"}],
            "policy": {"targets": ["face"], "mask": "solid"}, "options": {"quality": 80},
            "destinations": [{"type": "webhook", "url": "https://dam.example/done", "secret": "whsec_" + "A" * 32}],
            "purpose": "press",
        }
    )  # fmt: skip


def requests() -> list[bytes]:
    return [
        json.dumps({"files": [{"upload": "0" * 32}], "purpose": CANARY}).encode(),
        json.dumps(
            {"files": [{"url": "https://a.example/b"}], "policy": {"inline": _policy()}, "purpose": "p"}
        ).encode(),
    ]


def subject_requests() -> list[bytes]:
    draft = {
        "kind": "access", "camera": "north", "epoch": 1, "sequence": 2, "captured_at": AT.isoformat(),
        "since": AT.isoformat(), "until": "2026-11-24T12:00:09Z", "reason": CANARY, "case": "7",
    }  # fmt: skip
    box = {"left": 1, "top": 2, "right": 3, "bottom": 4}
    return [json.dumps({**draft, **chosen}).encode() for chosen in ({"point": {"x": 1, "y": 2}}, {"box": box})]


def subject_approvals() -> list[bytes]:
    return [formats.encode(ApprovalDraft, {"verdict": "approve", "note": CANARY}, formats.XML)]


def disclosures() -> list[bytes]:
    message = Disclosure(
        id="a", request="0" * 32, act=Act.MADE, at=AT, by="me", kind=SubjectKind.ACCESS, camera="north", epoch=1,
        sequence=2, box=(1, 2, 3, 4), since=AT, until=AT, reason=CANARY, case="7", needed=2, sha256=SHA, frames=3,
    ).to_message()  # fmt: skip
    return [message.key + b"\0" + message.value]


def xml_requests() -> list[bytes]:
    document = json.loads(requests()[1])
    return [formats.encode(JobRequest, document, formats.XML)]


def xml_policies() -> list[bytes]:
    return [formats.encode(Policy, json.loads(policy().model_dump_json()), formats.XML)]


def protobuf_policies() -> list[bytes]:
    return [formats.encode(Policy, json.loads(policy().model_dump_json()), formats.PROTOBUF)]


def tus_headers() -> list[bytes]:
    digest = base64.b64encode(bytes(32))
    said = b"filename " + base64.b64encode(CANARY.encode()) + b",kind"
    return [b"\n".join((b"sha256 " + digest, said, b"1000", b"0", b"1")), b"\n" + said + b"\n5"]


def forms() -> list[bytes]:
    picture = images.grey(8, 8)
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\nContent-Type: image/jpeg\r\n\r\n'
        + picture
    )
    options = b'\r\n--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{}\r\n--b--\r\n'
    return [b"multipart/form-data; boundary=b\n" + part + options, b"image/jpeg\n" + picture]


def accepts() -> list[bytes]:
    return [b"application/xml;q=0.9, application/json;q=0.5, */*;q=0.1", b"text/xml, application/protobuf"]


@functools.cache
def token_key() -> jwk.OKPKey:
    return jwk.OKPKey.import_key(KEY, {"kid": "k"})


def _claims() -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "https://id.example", "aud": ["sfumato"], "sub": CANARY, "exp": now + 80_000, "iat": now, "nbf": now,
        "scope": "cameras:read", "scp": ["jobs:read"], "roles": ["dpo"], "cameras": ["north-*"],
        "resource_access": {"sfumato": {"roles": ["vendor"]}},
    }  # fmt: skip


def tokens() -> list[bytes]:
    header = {"alg": "EdDSA", "kid": "k", "typ": "at+jwt"}
    signed = jwt.encode(header, _claims(), token_key(), algorithms=["EdDSA"]).encode()
    deep = base64.urlsafe_b64encode(b'{"alg":"EdDSA","kid":"k"}').rstrip(b"=")
    return [signed, deep + b".e30.AAAA", f"sfu_{CANARY}".encode()]


def claims() -> list[bytes]:
    return [json.dumps(_claims()).encode()]


def key_sets() -> list[bytes]:
    public = token_key().as_dict(private=False)
    return [
        json.dumps(
            {"keys": [{**public, "use": "sig", "alg": "EdDSA"}, {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}]}
        ).encode()
    ]


def camera_files() -> list[bytes]:
    url = f"rtsp://user:{CANARY}@10.0.0.7/stream"
    return [
        f"[[camera]]\nid = 'north'\nurl = '{url}'\nfps = 5\n\n[[camera]]\nid = 'b'\nurl = 'file:///a.mp4'\n".encode()
    ]


def camera_pairs() -> list[bytes]:
    return [f"north=rtsp://user:{CANARY}@10.0.0.7/stream".encode(), b"hall=file:///clips/hall.mp4"]


def sealing_keys() -> list[bytes]:
    return [b"# keys\nab12 " + base64.b64encode(bytes(32)) + b"\nold " + base64.b64encode(bytes(32)) + b"\n"]


class OneKey:
    """A key store with one key, as ``agents/footage/stores.py`` wants it of those that open."""

    def key(self, camera: str, hour: datetime) -> bytes:
        return bytes(range(32))

    make = key


def sealed_frames() -> list[bytes]:
    still = RawFrame(FrameId("north", 1, 2), AT, TimeSource.CAMERA, 16, 16, "image/jpeg", CANARY.encode() * 3)
    return [packed(Sealer(OneKey()).seal(frame).to_message()) for frame in (still, media.raw_units()[0])]  # type: ignore[arg-type]


def footage_keys() -> list[bytes]:
    return [b"key " + base64.b64encode(bytes(32)) + b"\n", b"shredded 2026-11-24T12:00:00.000000Z\n"]


def proofs() -> list[bytes]:
    return [Proof(audit_events()[0], 3, (bytes(32), bytes(range(32))), notes()[0].decode()).text().encode()]


def manifests() -> list[bytes]:
    scope = export.Scope(log="north", first=0, size=2, frames=False)
    files = (export.File(path=name, size=5, sha256=SHA) for name in (export.AUDIT, export.WEIGHTS))
    with tempfile.TemporaryDirectory() as folder:
        inventory.write_manifest(Path(folder), scope, files)
        return [(Path(folder) / export.MANIFEST).read_bytes()]


def export_lines() -> list[bytes]:
    return [export.dump(export.Consistency(first=1, second=2, path=(SHA,))), export.leaf_line(b"a\nb")]


def heads() -> list[bytes]:
    shared: dict[str, Any] = {"origin": "city.example", "topic": "audit", "partition": 0}
    head = Head(log="north", at=AT, note=notes()[0].decode(), next_offset=3, **shared)
    cover = Cover(offset=3, sizes={"north": 2}, **shared)
    return [record.to_message().value for record in (head, cover)]


def stamps() -> list[bytes]:
    return [stamp(Message(b"north", value, []), signer()).value for value in heads()]


def signing_keys() -> list[bytes]:
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return [pem, pem + pem]


def vendor_files() -> list[bytes]:
    return [b"[[vendor]]\nname = 'acme'\ncameras = ['north-*', 'hall']\n"]


def controllers() -> list[bytes]:
    party = '[controller]\nname = "City"\ncontact = "dpo@city.example"\n'
    return [f'personal_data = ["{CANARY}"]\ntransfers = []\n{party}'.encode()]
