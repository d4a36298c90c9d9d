"""The proof that one frame's audit event is in a log, without any other event: C2SP's tlog-proof, one text file.

Source: https://c2sp.org/tlog-proof. Its ``extra`` line holds the event, byte for byte. The checkpoint is a sealed
segment, so that the proof also says what the segment counts.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.agents.evidence.inventory import MAX_LINE_BYTES, ExportError, open_file, read_file
from sfumato.agents.evidence.replay import open_checkpoint
from sfumato.agents.evidence.verdict import Verdict
from sfumato.agents.ledger.note import MAX_NOTE_BYTES, NoteError, VerifierKey
from sfumato.agents.ledger.tree import HASH_BYTES, included, leaf_hash
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.export import LONGEST_PATH
from sfumato.schemas.outcome import Outcome

MAGIC = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES = 2 * MAX_LINE_BYTES + MAX_NOTE_BYTES
_TEXT = re.compile(
    rf"{re.escape(MAGIC)}\nextra (?P<extra>[A-Za-z0-9+/]+=*)\nindex (?P<index>0|[1-9][0-9]{{0,18}})\n"
    r"(?P<path>(?:[A-Za-z0-9+/]{43}=\n)*)\n(?P<checkpoint>(?s:.+))"
)


class ProofError(NoteError):
    """A proof that is not well-formed. Says what is wrong."""


@dataclass(frozen=True, slots=True)
class Proof:
    """``event``: the leaf of this ``index``; ``path``: its inclusion proof (RFC 9162, 2.1.3) under the head that the
    ``checkpoint``, a signed note, states."""

    event: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        lines = [MAGIC, f"extra {_base64(self.event)}", f"index {self.index}", *map(_base64, self.path)]
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Read a proof; :class:`ProofError` where it is none, or spelt in another way than :meth:`text` does."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ProofError("proof: not a C2SP tlog-proof with the audit event as its extra data")
        try:
            path = tuple(base64.b64decode(line, validate=True) for line in found["path"].split("\n")[:-1])
            event = base64.b64decode(found["extra"], validate=True)
        except ValueError:
            raise ProofError("proof: not Base64") from None
        proof = cls(event, int(found["index"]), path, found["checkpoint"])
        if len(path) > LONGEST_PATH or any(len(hash) != HASH_BYTES for hash in path) or proof.text() != text:
            raise ProofError("proof: a hash that is not 32 bytes in Base64, or too many of them")
        return proof


def verify_proof(file: Path, keys: Sequence[VerifierKey], frame: Path | None = None) -> Verdict:
    """Check a proof against the keys, and the frame's file, where one is given, against the event in it."""
    verdict = Verdict()
    verdict.say("key", ", ".join(map(str, keys)))
    try:
        proof = Proof.parse(read_file(file, file.name, MAX_PROOF_BYTES).decode())
        checkpoint, segment, key = open_checkpoint(proof.checkpoint.encode(), keys)
    except UnicodeDecodeError:
        verdict.fail("proof", file.name, "not UTF-8")
        return verdict
    except (ExportError, NoteError) as error:
        verdict.fail("proof", file.name, str(error))
        return verdict
    verdict.say("signatures", f"1 by {key.name}+{key.id.hex()}")
    verdict.facts.update(log=segment.log, index=proof.index, size=checkpoint.size, root=checkpoint.root.hex())
    if not included(leaf_hash(proof.event), proof.index, checkpoint.size, proof.path, checkpoint.root):
        verdict.fail("proof", file.name, f"leaf {proof.index} under the checkpoint's head is another event")
    verdict.say("proof", f"leaf {proof.index} of {checkpoint.size}, sealed {segment.sealed_at:%Y-%m-%d %H:%M:%S} UTC")
    _look_at(verdict, proof, segment.log, file.name, frame)
    return verdict


def _look_at(verdict: Verdict, proof: Proof, log: str, name: str, frame: Path | None) -> None:
    try:
        event = AuditEvent.from_message(proof.event)
    except EnvelopeError as error:
        verdict.fail("events", name, str(error))
        return
    if event.frame is None or event.camera != log or event.id != str(event.frame):
        verdict.fail("events", name, f"is not of a frame of {log}")
    reason = f" ({event.reason})" if event.reason else ""
    verdict.say("events", f"{event.id}: {event.outcome}{reason}, audited {event.audited_at:%Y-%m-%d %H:%M:%S} UTC")
    verdict.facts.update(event=event.model_dump(mode="json", by_alias=True))
    if frame is None:
        return
    verdict.say("frames", f"{frame.name} is the published frame")
    if event.outcome is Outcome.DROPPED:
        verdict.fail("frames", event.id, "was dropped: nothing was published")
        return
    try:
        with open_file(frame, frame.name) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except (ExportError, OSError) as error:
        verdict.fail("frames", frame.name, str(error))
        return
    if digest != event.output_sha256:
        verdict.fail("frames", event.id, f"{frame.name} is not what its event names by its SHA-256")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
