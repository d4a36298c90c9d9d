"""Counts events anew, apart from the ledger's own code, to compare them with what a segment says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sfumato.agents.sequences import Sequences
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.export import has_place
from sfumato.schemas.segment import Run, Segment


class Frames:
    """A set of frames of one camera: small, as long as few are missing."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._epochs: defaultdict[int, Sequences] = defaultdict(Sequences)
        joined: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: run.first):
            own, first, last = joined[run.epoch], run.first, run.last
            while own and first <= own[-1][1] + 1:
                first, last = own[-1][0], max(own.pop()[1], last)
            own.append((first, last))
        for epoch, own in joined.items():
            self._epochs[epoch] = Sequences(own)

    def add(self, epoch: int, sequence: int) -> bool:
        """Whether the frame was not there before."""
        return self._epochs[epoch].add(sequence)

    def has(self, epoch: int, sequence: int) -> bool:
        return epoch in self._epochs and sequence in self._epochs[epoch]

    def runs(self) -> list[Run]:
        """In order; runs that touch are one."""
        epochs = sorted(self._epochs.items())
        return [Run(epoch=epoch, first=first, last=last) for epoch, runs in epochs for first, last in runs.runs]

    def gaps(self) -> Iterator[Run]:
        """What lies between the runs of an epoch."""
        for before, after in pairwise(self.runs()):
            if before.epoch == after.epoch:
                yield Run(epoch=before.epoch, first=before.last + 1, last=after.first - 1)

    def before(self) -> Iterator[Run]:
        """What lies before the first run of an epoch, whose sequences begin with 0."""
        before = -1
        for run in self.runs():
            if run.epoch != before and run.first:
                yield Run(epoch=run.epoch, first=0, last=run.first - 1)
            before = run.epoch

    def absent(self, run: Run) -> Iterator[Run]:
        """What of the run is not there."""
        known = self._epochs.get(run.epoch, Sequences())
        for first, last in known.gaps(run.last, run.first):
            yield Run(epoch=run.epoch, first=first, last=last)


class Tally:
    """What the events of one segment come to."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._frames = Frames()
        self.policies: dict[tuple[str, str | None], str] = {}
        """By name@version and SHA-256, None where the event does not say, the first event of each."""
        self._detectors: dict[tuple[str, str], str] = {}

    def add(self, event: AuditEvent) -> None:
        self._outcomes[event.outcome] += 1
        if event.reason is not None:
            self._reasons[event.reason] += 1
        if event.epoch is not None and event.sequence is not None and has_place(event.epoch, event.sequence):
            self._frames.add(event.epoch, event.sequence)
        if event.policy_version is not None:
            key = f"{event.policy or event.camera}@{event.policy_version}"
            self.policies.setdefault((key, event.policy_sha256), event.id)
        for detector in event.detectors:
            self._detectors.setdefault((detector.name, detector.weights_sha256), event.id)

    def differences(self, segment: Segment) -> Iterator[tuple[str, str, str]]:
        """What the segment says otherwise: the check, the frame or segment, and the problem."""
        where = f"leaves {segment.first} to {segment.size - 1}"
        for what, counted, sealed in (
            ("outcomes", self._outcomes, segment.outcomes),
            ("reasons", self._reasons, segment.reasons),
        ):
            said = {str(name): number for name, number in sealed.items() if number}
            if said != {str(name): number for name, number in counted.items()}:
                yield "counts", where, f"{what}: the segment says {said}, its events come to {dict(counted)}"
        if Frames(segment.runs).runs() != self._frames.runs():
            yield "counts", where, "the segment's runs are not those of its events"
        for (key, applied), frame in self.policies.items():
            named = segment.policies.get(key)
            if applied is None and named is None:
                yield "policies", frame, f"masked by {key}, which its segment does not name"
            elif applied is not None and named not in (None, applied):
                yield (
                    "policies",
                    frame,
                    f"masked by {key} with SHA-256 {applied}; its segment names another text, {named}",
                )
        for (name, weights), frame in self._detectors.items():
            if weights not in segment.detectors.get(name, ()):
                yield "weights", frame, f"{name} with weights {weights}, which its segment does not name"
