"""Sealed segments and exported folders without Kafka and without a ledger, for tests and benchmarks.

Written apart from the ledger's own code, so that both can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfumato.agents.evidence.bundle import Bundle
from sfumato.agents.ledger.note import Checkpoint, Signer
from sfumato.agents.ledger.tree import Range, leaf_hash
from sfumato.models.weights import WEIGHTS
from sfumato.schemas import export
from sfumato.schemas.audit import AuditEvent, DetectorRecord, Origin
from sfumato.schemas.detection import Detection, DetectorName, Target
from sfumato.schemas.frame import TimeSource
from sfumato.schemas.outcome import Outcome, Reason
from sfumato.schemas.segment import Run, Segment, Source

BEGAN = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
EPOCH = int(BEGAN.timestamp() * 1000)
POLICY = '{"camera":"north","version":3,"purpose":"an example"}'
POLICY_SHA256 = hashlib.sha256(POLICY.encode()).hexdigest()
CENTERFACE = DetectorRecord(name=DetectorName.CENTERFACE, weights_sha256=WEIGHTS["centerface"].sha256)
FACE = Detection(target=Target.FACE, score=0.93, box=(128.4, 73.1, 220.2, 194.4), track=3)


def signer(seed: int = 1) -> Signer:
    """A key that is the same each time: for tests only."""
    return Signer("sfumato.example", Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def event(
    sequence: int,
    frame: bytes | None,
    *,
    camera: str = "north",
    epoch: int = EPOCH,
    reason: Reason | None = None,
    faces: int = 1,
    policy_sha256: str | None = POLICY_SHA256,
) -> AuditEvent:
    """The event of a frame published as these bytes; None: it was dropped."""
    at = BEGAN + timedelta(milliseconds=100 * sequence)
    outcome = Outcome.DROPPED if frame is None else Outcome.FULLY_MASKED if reason else Outcome.MASKED
    return AuditEvent(
        id=f"{camera}/{epoch}/{sequence}",
        origin=Origin(topic="frames.raw", partition=0, offset=sequence),
        camera=camera,
        epoch=epoch,
        sequence=sequence,
        outcome=outcome,
        reason=Reason.UNDECODABLE if frame is None else reason,
        captured_at=at,
        time_source=TimeSource.ARRIVAL,
        audited_at=at,
        policy_version=3,
        policy_sha256=policy_sha256,
        detectors=() if frame is None else (CENTERFACE,),
        detections=(FACE,) * faces,
        width=640,
        height=360,
        input_bytes=1,
        input_sha256=hashlib.sha256(f"raw {sequence}".encode()).hexdigest(),
        output_bytes=None if frame is None else len(frame),
        output_sha256=None if frame is None else hashlib.sha256(frame).hexdigest(),
    )


def seal(
    signed_by: Signer,
    events: Sequence[AuditEvent],
    sizes: Iterable[int],
    *,
    log: str = "north",
    policies: Mapping[str, str] | None = None,
    missing: Sequence[Run] = (),
    partition: int = 0,
    offsets: Sequence[int] = (),
    lag: timedelta = timedelta(seconds=1),
    counted: bool = True,
) -> list[tuple[bytes, Segment]]:
    """A segment for each size, and its checkpoint. ``policies``: SHA-256 by name@version.
    ``offsets``: of the events in the partition of ``audit``, where they are not their numbers.
    ``lag``: how long after its last event a segment was sealed.
    ``counted`` False: a log without frames."""
    offsets = offsets or range(len(events))
    if policies is None and counted:
        policies = {"north@3": POLICY_SHA256}
    tree, sealed, root = Range(), [], Range().root()
    for size in sizes:
        leaves = events[tree.end : size]
        own, first, frontier = Range(tree.end), tree.end, tree.hashes
        for each in leaves:
            own.append(leaf_hash(each.to_message().value))
        tree = tree.joined(own)
        segment = Segment(
            log=log,
            first=first,
            size=size,
            root=tree.root().hex(),
            previous_root=root.hex(),
            frontier=tuple(hash.hex() for hash in frontier),
            subtrees=tuple(hash.hex() for hash in own.hashes),
            sealed_at=leaves[-1].audited_at + lag,
            source=Source(
                topic="audit",
                partition=partition,
                first_offset=offsets[first - 1] + 1 if first else 0,
                last_offset=offsets[size - 1],
            ),
            outcomes=dict(Counter(each.outcome for each in leaves)) if counted else {},
            reasons=dict(Counter(each.reason for each in leaves if each.reason)) if counted else {},
            runs=tuple(_runs(leaves)) if counted else (),
            missing=tuple(missing) if size == len(events) else (),
            policies=dict(policies or {}),
            detectors={"centerface": (CENTERFACE.weights_sha256,)} if counted else {},
        )
        root = tree.root()
        checkpoint = Checkpoint(f"{signed_by.name}/{log}", size, root, (segment.model_dump_json(),))
        sealed.append((signed_by.sign(checkpoint.text()).encode(), segment))
    return sealed


def _runs(events: Sequence[AuditEvent]) -> list[Run]:
    runs: list[list[int]] = []
    for epoch, sequence in sorted((each.epoch or 0, each.sequence or 0) for each in events):
        if runs and runs[-1][0] == epoch and runs[-1][2] == sequence - 1:
            runs[-1][2] = sequence
        else:
            runs.append([epoch, sequence, sequence])
    return [Run(epoch=epoch, first=first, last=last) for epoch, first, last in runs]


def write(
    folder: Path,
    signed_by: Signer,
    sealed: Sequence[tuple[bytes, Segment]],
    events: Sequence[AuditEvent],
    frames: Mapping[int, bytes],
    *,
    skip: int = 0,
    with_frames: bool = True,
) -> None:
    """An export of the segments after the first ``skip``; ``frames`` by sequence."""
    first = sealed[skip - 1][1].size if skip else 0
    size = sealed[-1][1].size
    with Bundle(folder) as bundle:
        for note, segment in sealed[skip:]:
            bundle.put(export.checkpoint_path(segment.size), note)
        with bundle.lines(export.AUDIT) as lines:
            for each in events[first:size]:
                lines.put(export.leaf_line(each.to_message().value))
        for each in events[first:size]:
            if with_frames and each.frame is not None and each.output_sha256 is not None:
                bundle.put(export.frame_path(each.frame, ".jpg"), frames[each.frame.sequence])
        with bundle.lines(export.POLICIES) as lines:
            for key in sorted({key for _, segment in sealed[skip:] for key in segment.policies}):
                lines.put(export.dump(export.PolicyVersion(key=key, value=POLICY)))
        weight = export.Weight(detector="centerface", sha256=CENTERFACE.weights_sha256, name="centerface")
        bundle.put_record(export.WEIGHTS, export.Weights(weights=(weight,)))
        bundle.put(export.KEY, f"{signed_by.verifier}\n".encode())
        end = sealed[-1][1].sealed_at
        searched = export.Searched(begin=BEGAN, end=end, partitions=1, messages=len(frames))
        bundle.put(export.COPIES, export.dump(searched) + b"\n" if with_frames else b"")
        bundle.finish(export.Scope(log=sealed[0][1].log, first=first, size=size, frames=with_frames))


def relist(folder: Path, **scope: object) -> None:
    """Write the manifest anew for what lies in the folder, as somebody would who changed something."""
    from sfumato.agents.evidence.inventory import digests, walk, write_manifest

    old = json.loads((folder / export.MANIFEST).read_text())
    del old["files"]
    listed = [
        export.File(path=found.path, size=found.size, sha256=digest or "0" * 64)
        for found, digest in digests(folder, walk(folder))
    ]
    write_manifest(folder, export.Scope.model_validate({**old, **scope}), listed)
