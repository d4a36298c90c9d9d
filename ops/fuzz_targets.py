"""What parses: one line per target. ``ops/fuzz.py`` runs them, and says what the fields mean."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_media as media
import fuzz_seeds as seeds
from fuzz import Target
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sfumato.agents import cameras, policy_files, reader, shares
from sfumato.agents.access import tokens
from sfumato.agents.access.tokens import TokenError, Tokens
from sfumato.agents.cameras import CameraError
from sfumato.agents.dossier.controller import ControllerError, read_controller
from sfumato.agents.evidence import inventory
from sfumato.agents.evidence.inventory import ExportError
from sfumato.agents.evidence.proof import Proof, verify_proof
from sfumato.agents.evidence.verify import verify
from sfumato.agents.files import sealing
from sfumato.agents.files.sealing import SealError
from sfumato.agents.footage import key_files
from sfumato.agents.footage.sealing import Opener
from sfumato.agents.footage.stores import KeyStoreError, UnopenedError
from sfumato.agents.ledger import keys, note, stamp
from sfumato.agents.ledger.entries import read_audit
from sfumato.agents.ledger.keys import KeyFileError
from sfumato.agents.ledger.note import Checkpoint, NoteError, VerifierKey
from sfumato.agents.policies import Register
from sfumato.agents.policy_files import FloorError, PolicyError
from sfumato.agents.settings import Settings
from sfumato.agents.shares import ShareError
from sfumato.agents.web import formats, paging, receive, tus
from sfumato.agents.web.paging import After
from sfumato.models import bitstream, content, disguise, film_index, film_metadata, images, picture_metadata, xmp
from sfumato.models.bitstream import BitstreamError, ParameterSets
from sfumato.models.content import ContentError
from sfumato.models.decoders import Decoder
from sfumato.models.images import ImageError
from sfumato.models.metadata import Found
from sfumato.models.reading import FilmError, Reader, Source
from sfumato.models.task import NoPolicy, Task
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.detection import load_boxes
from sfumato.schemas.disclosure import Disclosure
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.find import Find
from sfumato.schemas.floor import Floor
from sfumato.schemas.frame import AnonymizedFrame, RawFrame
from sfumato.schemas.head import Cover, Head
from sfumato.schemas.job import JobRequest
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.segment import Segment
from sfumato.schemas.subject_request import ApprovalDraft, SubjectDraft
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.unit import H264, H265

MAX_PIXELS = 1_000_000
FOLDER = Path(tempfile.mkdtemp(prefix="sfumato-fuzz-"))


def text(data: bytes) -> str:
    """Any text, surrogates included, as JSON can bring them."""
    return data.decode("utf-8", "surrogateescape")


def message(data: bytes) -> tuple[bytes, bytes, list[tuple[str, str | bytes | None]]]:
    """A key, headers as name=value, and the value behind an empty one, with NUL bytes between them."""
    key, _, rest = data.partition(b"\0")
    head, _, value = rest.partition(b"\0\0")
    pairs = (part.partition(b"=") for part in head.split(b"\0"))
    return key, value, [(name.decode("latin-1"), given if equals else None) for name, equals, given in pairs]


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def raw_frame(data: bytes) -> object:
    key, value, headers = message(data)
    return RawFrame.from_message(key, value, headers)


def anonymized_frame(data: bytes) -> object:
    key, value, headers = message(data)
    frame = AnonymizedFrame.from_message(key, value, headers)
    reader.check(frame)
    return frame.to_message()


def cloud_event(data: bytes) -> object:
    return CloudEvent.from_headers(message(data)[2]).headers()


def unit(data: bytes) -> object:
    """A flag byte says which codec, and whether the rest is a stream, a container's sample or its configuration."""
    kind, rest = data[:1], data[1:]
    content_type = H265 if kind and kind[0] & 1 else H264
    if kind and kind[0] & 2:
        configuration = bitstream.read_configuration(content_type, rest)
        nals = [*configuration.nals]
    else:
        nals = bitstream.unpack(rest, 4) if kind and kind[0] & 4 else bitstream.split(rest)
    sets = ParameterSets(content_type)
    sets.learn(nals)
    sets.missing_from(nals)
    _ = sets.layers, bitstream.with_sets(nals, nals[:2], content_type)
    return bitstream.read(content_type, nals)


def decoder(data: bytes) -> object:
    """Two units through a camera's decoder, which never raises for what they hold."""
    frames = media.raw_units()[: 2 if data[:1] != b"5" else 4][-2:]
    decoding, half = Decoder(MAX_PIXELS), len(data) // 2
    settled = []
    for frame, payload in zip(frames, (data[1:half], data[half:]), strict=True):
        task = Task(RawFrame(**{**seeds.fields(frame), "payload": payload}), NoPolicy(Reason.NO_POLICY))
        settled += decoding.feed(task)
    settled += decoding.close()
    assert len(settled) == 2, "a unit has no outcome"
    return settled


def picture(data: bytes) -> object:
    kind = images.sniff(data)
    images.inspect(data, kind, max_pixels=MAX_PIXELS)
    disguise.refuse(data, kind)
    image = images.decode_file(data, kind, max_pixels=MAX_PIXELS)
    assert image.shape[2] == 3
    return images.decode(data, kind, max_pixels=MAX_PIXELS)


def metadata_of_picture(data: bytes) -> object:
    kind = images.sniff(data)
    found, bare = picture_metadata.read(data, kind)
    again, _ = picture_metadata.read(bare, kind)
    assert bare == data or not again.values, "metadata is left in the bare file"
    return found


def upload(data: bytes) -> object:
    return content.recognise(io.BytesIO(data), len(data), max_pixels=MAX_PIXELS, max_seconds=3600)


def film(data: bytes) -> object:
    """As a job reads it: its form, its metadata and three pictures. The last byte says as which kind."""
    kinds = ("video/mp4", "video/x-matroska", "video/webm", "video/quicktime")
    source = Source(lambda: io.BytesIO(data[:-1]), kinds[data[-1] % 4] if data else kinds[0])
    check = film_index.check_matroska if source.media_type in kinds[1:3] else film_index.check_mp4
    check(source.open(), len(data) - 1)
    film_metadata.read(source)
    shots = Reader(source, MAX_PIXELS).shots()
    return [shot for shot, _ in zip(shots, range(3), strict=False)]


def policy_register(data: bytes) -> object:
    """What comes on the topic never raises."""
    key, _, value = data.partition(b"\0")
    register = Register(Floor(), keep_history=True)
    register.take(key, value, datetime.now(UTC))
    times = (datetime.now(UTC), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    return [register.get("north-1", captured_at, datetime.now(UTC)) for captured_at in times]


def disclosure(data: bytes) -> object:
    key, _, value = data.partition(b"\0")
    return Disclosure.from_message(key, value).to_message()


def suspension(data: bytes) -> object:
    key, _, value = data.partition(b"\0")
    return Suspension.from_message(key, value).to_message()


def find(data: bytes) -> object:
    key, _, value = data.partition(b"\0")
    return Find.from_message(key, value).to_message()


def audit_event(data: bytes) -> object:
    return AuditEvent.from_message(data).to_message()


def ledger_entry(data: bytes) -> object:
    """The ledger reads some fields only: which frame an event is of has to be what the whole text says as JSON."""
    read = read_audit(b"north", data, 0)
    try:
        found = from_json(data)
    except ValueError:
        found = None
    event = found if isinstance(found, dict) else {}
    frame = (event.get("epoch"), event.get("sequence"))
    named = event.get("camera") == "north" and all(type(each) is int and 0 <= each < 2**63 for each in frame)
    if named != (read.log == "north") or (named and read.identity != frame):
        raise AssertionError("the ledger reads another frame")
    return read.log, read.identity


def epoch_record(data: bytes) -> object:
    return EpochRecord.from_message(data).to_message()


def floor_file(data: bytes) -> object:
    settings = Settings(policy_floor=written("floor.toml", data))
    return policy_files.read_floor(settings).problems(seeds.policy())


def signed_note(data: bytes) -> object:
    return Checkpoint.parse(note.open_note(text(data), seeds.signer().verifier))


def checkpoint(data: bytes) -> object:
    found = Checkpoint.parse(text(data))
    assert found.text() == text(data)
    return found


def verifier_key(data: bytes) -> object:
    found = VerifierKey.parse(text(data))
    assert str(found) == text(data).strip()
    return found


def tus_headers(data: bytes) -> object:
    names = (b"upload-checksum", b"upload-metadata", b"upload-length", b"upload-offset", b"upload-defer-length")
    given = [(name, value) for name, value in zip(names, data.split(b"\n"), strict=False) if value]
    request = Request({"type": "http", "headers": given})
    tus.checksum(request)
    tus.metadata(request.headers.get("upload-metadata", ""))
    return [tus.number(request, header) for header in ("upload-length", "upload-offset")]


def form(data: bytes) -> object:
    """A Content-Type, a newline, and a body."""
    kind, _, body = data.partition(b"\n")

    async def arrives() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "headers": [(b"content-type", kind)]}, arrives)
    return asyncio.run(receive.receive(request, 1_000_000, "options"))


def accept(data: bytes) -> object:
    return formats.choose(data.decode("latin-1"), formats.RESOURCE)


def body(data: bytes, model: type[Any], kind: str) -> object:
    document = formats.decode(model, data, kind)
    if formats._crowded(document):
        return None
    try:
        return model.model_validate(document, strict=False)
    except ValidationError:
        return None  # FastAPI answers 422 with what errors() says, without the input


@cache
def verifier() -> Tokens:
    """Knows one key, and asks nobody."""
    made = Tokens(Settings(oidc_issuer="https://id.example", oidc_audience="sfumato"))
    made._keys._keys = {"k": seeds.token_key()}
    made._keys._fetched = made._keys._tried = float("inf")
    return made


def token(data: bytes) -> object:
    claims = asyncio.run(verifier().verify(text(data)))
    return tokens.scopes(claims), tokens.cameras(claims)


def claims(data: bytes) -> object:
    """Claims that the provider has signed, whatever they are."""
    signed = base64.urlsafe_b64encode(b'{"alg":"EdDSA","kid":"k"}').rstrip(b"=") + b"."
    signed += base64.urlsafe_b64encode(data).rstrip(b"=")
    signature = seeds.token_key().private_key.sign(signed)
    return token(signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"="))


def key_set(data: bytes) -> object:
    """As the provider's answer: what may be raised is caught where it is fetched."""
    return tokens._public_keys(json.loads(data))


def moment(data: bytes) -> object:
    xmp.moment(text(data))
    return film_metadata._coordinates(text(data))


def sealed_frame(data: bytes) -> object:
    """What was sealed opens to the same; anything else stays closed."""
    key, value, headers = message(data)
    frame = RawFrame.from_message(key, value, headers)
    opened = Opener(seeds.OneKey()).open(frame)  # type: ignore[arg-type]
    assert opened.payload == seeds.CANARY.encode() * 3 or opened.payload == media.raw_units()[0].payload
    return opened


def footage_key(data: bytes) -> object:
    return key_files._read(written("2026-11-24T12Z", data))


def proof(data: bytes) -> object:
    """Read, and looked at with the key that has signed."""
    key = seeds.signer().verifier
    verify_proof(written("frame.proof", data), [key])
    return Proof.parse(text(data))


def manifest(data: bytes) -> object:
    """The list of an export's files, and all that is checked of a folder that holds nothing else."""
    folder = FOLDER / "export"
    folder.mkdir(exist_ok=True)
    (folder / export.MANIFEST).write_bytes(data)
    (folder / export.KEY).write_bytes(seeds.verifier_keys()[0])
    assert not verify(folder).passed
    return list(inventory.read_manifest(folder)[1])


def export_line(data: bytes) -> object:
    """A line is spelt in one way alone."""
    found = None
    for type_ in (export.Consistency, export.File, export.Scope):
        try:
            found = export.parse(type_, data)
        except EnvelopeError as error:
            found = found or error
    if data.startswith(b'"'):
        assert export.leaf_line(export.leaf(data)) == data
    elif isinstance(found, EnvelopeError):
        raise found
    return found


def stamped(data: bytes) -> object:
    return stamp.unstamp(b"north", data, [seeds.signer().verifier])


def head(data: bytes) -> object:
    try:
        return Head.from_message(data).to_message()
    except EnvelopeError:
        return Cover.from_message(data).to_message()


REFUSED = (HTTPException,)
FETCHED = (ValueError, KeyError, TypeError, AttributeError, tokens.JoseError, RecursionError)

TARGETS = {
    "raw_frame": Target(raw_frame, (EnvelopeError,), seeds.raw_frames),
    "anonymized_frame": Target(anonymized_frame, (EnvelopeError,), seeds.anonymized_frames),
    "cloud_event": Target(cloud_event, (EnvelopeError,), seeds.raw_frames),
    "boxes": Target(lambda data: load_boxes(text(data)), (EnvelopeError,), seeds.boxes),
    "unit": Target(unit, (BitstreamError,), media.units, binary=True),
    "decoder": Target(decoder, (), media.unit_pairs, 256, binary=True),
    "picture": Target(picture, (ImageError,), media.pictures, 256, binary=True),
    "picture_metadata": Target(metadata_of_picture, (ImageError,), media.pictures, 128, binary=True),
    "xmp": Target(
        lambda data: picture_metadata._guarded(Found(), "xmp", lambda: xmp.read(data, Found())), (), media.xmp
    ),
    "moment": Target(moment, (), media.moments),
    "upload": Target(upload, (ContentError,), media.files, 256, binary=True),
    "film": Target(film, (FilmError,), media.films, 256, binary=True),
    "policy": Target(Policy.from_value, (EnvelopeError,), seeds.policies),
    "policy_topic": Target(policy_register, (), seeds.policy_messages),
    "policy_toml": Target(
        lambda data: policy_files.read_file(written("p.toml", data)), (PolicyError,), seeds.policy_tomls
    ),
    "policy_json": Target(lambda data: policy_files.read_file(written("p.json", data)), (PolicyError,), seeds.policies),
    "policy_floor": Target(floor_file, (FloorError,), seeds.floors),
    "audit_event": Target(audit_event, (EnvelopeError,), seeds.audit_events),
    "ledger_entry": Target(ledger_entry, (), seeds.audit_events),
    "epoch_record": Target(epoch_record, (EnvelopeError,), seeds.epoch_records),
    "suspension": Target(suspension, (EnvelopeError,), seeds.suspensions),
    "find": Target(find, (EnvelopeError,), seeds.finds),
    "segment": Target(lambda data: Segment.parse(text(data)), (EnvelopeError,), seeds.segments),
    "note": Target(signed_note, (NoteError,), seeds.notes),
    "checkpoint": Target(checkpoint, (NoteError,), seeds.checkpoints),
    "verifier_key": Target(verifier_key, (NoteError,), seeds.verifier_keys),
    "cursor": Target(lambda data: paging.read(text(data), After), REFUSED, seeds.cursors),
    "json_body": Target(lambda data: body(data, JobRequest, formats.JSON), REFUSED, seeds.requests),
    "subject_request": Target(lambda data: body(data, SubjectDraft, formats.JSON), REFUSED, seeds.subject_requests),
    "subject_approval": Target(lambda data: body(data, ApprovalDraft, formats.XML), REFUSED, seeds.subject_approvals),
    "disclosure": Target(disclosure, (EnvelopeError,), seeds.disclosures),
    "xml_body": Target(lambda data: body(data, JobRequest, formats.XML), REFUSED, seeds.xml_requests),
    "xml_policy": Target(lambda data: body(data, Policy, formats.XML), REFUSED, seeds.xml_policies),
    "protobuf_body": Target(
        lambda data: body(data, Policy, formats.PROTOBUF), REFUSED, seeds.protobuf_policies, binary=True
    ),
    "tus_headers": Target(tus_headers, REFUSED, seeds.tus_headers),
    "form": Target(form, REFUSED, seeds.forms, 128),
    "accept": Target(accept, (), seeds.accepts),
    "token": Target(token, (TokenError,), seeds.tokens),
    "claims": Target(claims, (TokenError,), seeds.claims),
    "key_set": Target(key_set, FETCHED, seeds.key_sets),
    "cameras_toml": Target(
        lambda data: cameras.read_file(written("cameras.toml", data)), (CameraError,), seeds.camera_files
    ),
    "camera_pair": Target(lambda data: cameras.read_pairs([text(data)]), (CameraError,), seeds.camera_pairs),
    "sealing_keys": Target(lambda data: sealing._read(written("sealing.key", data)), (SealError,), seeds.sealing_keys),
    "sealed_frame": Target(sealed_frame, (EnvelopeError, UnopenedError), seeds.sealed_frames),
    "footage_key": Target(footage_key, (KeyStoreError,), seeds.footage_keys),
    "proof": Target(proof, (NoteError,), seeds.proofs),
    "manifest": Target(manifest, (ExportError,), seeds.manifests),
    "export_line": Target(export_line, (EnvelopeError,), seeds.export_lines),
    "ledger_head": Target(head, (EnvelopeError,), seeds.heads),
    "ledger_stamp": Target(stamped, (NoteError,), seeds.stamps),
    "signing_key": Target(lambda data: keys._read(written("ledger.key", data)), (KeyFileError,), seeds.signing_keys),
    "vendors_toml": Target(lambda data: shares.read_file(written("v.toml", data)), (ShareError,), seeds.vendor_files),
    "controller": Target(lambda data: read_controller(written("c.toml", data)), (ControllerError,), seeds.controllers),
}
"""By name; the folder of ``tests/corpus`` with its regressions is called the same."""
