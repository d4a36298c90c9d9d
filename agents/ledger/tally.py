"""Counts events anew, apart from the ledger's own code, to compare them with what a segment says."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.segment import Run, Segment


class Sequences:
    """A set of frames of one camera, as runs of sequences: small, as long as few are missing."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: defaultdict[int, list[list[int]]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: (run.epoch, run.first)):
            own = self._runs[run.epoch]
            if own and run.first <= own[-1][1] + 1:
                own[-1][1] = max(own[-1][1], run.last)
            else:
                own.append([run.first, run.last])

    def add(self, epoch: int, sequence: int) -> bool:
        """Whether the frame was not there before."""
        runs = self._runs[epoch]
        place = bisect_right(runs, sequence, key=lambda run: run[0])
        before = runs[place - 1] if place else None
        if before is not None and sequence <= before[1]:
            return False
        joins_before = before is not None and sequence == before[1] + 1
        joins_after = place < len(runs) and sequence == runs[place][0] - 1
        if before is not None and joins_before:
            before[1] = runs.pop(place)[1] if joins_after else sequence
        elif joins_after:
            runs[place][0] = sequence
        else:
            runs.insert(place, [sequence, sequence])
        return True

    def has(self, epoch: int, sequence: int) -> bool:
        runs = self._runs.get(epoch, [])
        place = bisect_right(runs, sequence, key=lambda run: run[0])
        return place > 0 and sequence <= runs[place - 1][1]

    def between(self, epoch: int, sequence: int) -> bool:
        """Whether it lies between frames of its epoch that are there, or is one."""
        runs = self._runs.get(epoch)
        return runs is not None and runs[0][0] <= sequence <= runs[-1][1]

    def runs(self) -> list[tuple[int, int, int]]:
        """Epoch, first and last sequence, in order; runs that touch are one."""
        return [(epoch, first, last) for epoch, runs in sorted(self._runs.items()) for first, last in runs]

    def absent(self, run: Run) -> Iterator[Run]:
        """What of the run is not there."""
        first = run.first
        for begin, end in self._runs.get(run.epoch, []):
            if end >= first and begin <= run.last:
                if begin > first:
                    yield Run(epoch=run.epoch, first=first, last=begin - 1)
                first = end + 1
        if first <= run.last:
            yield Run(epoch=run.epoch, first=first, last=run.last)

    def gaps(self) -> Iterator[Run]:
        """What lies between the runs of an epoch."""
        for epoch, runs in sorted(self._runs.items()):
            for before, after in pairwise(runs):
                yield Run(epoch=epoch, first=before[1] + 1, last=after[0] - 1)


class Tally:
    """What the events of one segment come to."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._sequences = Sequences()
        self._policies: dict[str, str] = {}
        self._detectors: dict[tuple[str, str], str] = {}

    def add(self, event: AuditEvent) -> None:
        self._outcomes[event.outcome] += 1
        if event.reason is not None:
            self._reasons[event.reason] += 1
        if event.epoch is not None and event.sequence is not None:
            self._sequences.add(event.epoch, event.sequence)
        if event.policy_version is not None:
            self._policies.setdefault(f"{event.policy or event.camera}@{event.policy_version}", event.id)
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
        if Sequences(segment.runs).runs() != self._sequences.runs():
            yield "counts", where, "the segment's runs are not those of its events"
        for key, frame in self._policies.items():
            if key not in segment.policies:
                yield "policies", frame, f"masked by {key}, which its segment does not name"
        for (name, weights), frame in self._detectors.items():
            if weights not in segment.detectors.get(name, ()):
                yield "weights", frame, f"{name} with weights {weights}, which its segment does not name"
