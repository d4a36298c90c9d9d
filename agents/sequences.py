"""Sets of a camera's sequences that stay small while these come nearly in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence


class Sequences:
    """A set of sequences, as the runs that it consists of."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """``runs``: first and last of each, ascending, with something missing between two. Else ValueError."""
        self._runs = [[first, last] for first, last in runs]
        ends = [end for run in self._runs for end in run]
        apart = all(later[0] - run[1] > 1 for run, later in zip(self._runs, self._runs[1:], strict=False))
        if ends != sorted(ends) or not apart or (ends and ends[0] < 0):
            raise ValueError("runs of sequences want to be ascending and apart")

    def add(self, sequence: int) -> bool:
        """Whether it was new."""
        runs = self._runs
        if runs and runs[-1][1] + 1 == sequence:  # as nearly always
            runs[-1][1] = sequence
            return True
        place = bisect_right(runs, sequence, key=lambda run: run[0])
        if place and sequence <= runs[place - 1][1]:
            return False
        joins_left = place > 0 and runs[place - 1][1] + 1 == sequence
        joins_right = place < len(runs) and runs[place][0] == sequence + 1
        if joins_left and joins_right:
            runs[place - 1][1] = runs.pop(place)[1]
        elif joins_left:
            runs[place - 1][1] = sequence
        elif joins_right:
            runs[place][0] = sequence
        else:
            runs.insert(place, [sequence, sequence])
        return True

    def __contains__(self, sequence: int) -> bool:
        place = bisect_right(self._runs, sequence, key=lambda run: run[0])
        return place > 0 and sequence <= self._runs[place - 1][1]

    @property
    def pieces(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._runs)

    @property
    def runs(self) -> list[tuple[int, int]]:
        return [(first, last) for first, last in self._runs]

    @property
    def last(self) -> int:
        """The largest, -1 for an empty set."""
        return self._runs[-1][1] if self._runs else -1

    def touching(self, first: int, last: int) -> list[tuple[int, int]]:
        """The runs that have something of ``first`` to ``last``."""
        begin = bisect_left(self._runs, first, key=lambda run: run[1])
        end = bisect_right(self._runs, last, key=lambda run: run[0])
        return [(first, last) for first, last in self._runs[begin:end]]

    def gaps(self, last: int, first: int = 0) -> list[tuple[int, int]]:
        """The runs of what is not in the set from ``first`` to ``last``; only the runs there are looked at."""
        found, begin = [], first
        for known, end in self.touching(first, last):
            if begin < known:
                found.append((begin, known - 1))
            begin = end + 1
        return [*found, (begin, last)] if begin <= last else found

    def missing(self, last: int) -> int:
        """How many of 0 to ``last`` are not in the set."""
        return sum(end - first + 1 for first, end in self.gaps(last))

    def add_run(self, first: int, last: int) -> None:
        """Add all from ``first`` to ``last``."""
        begin = bisect_left(self._runs, first - 1, key=lambda run: run[1])
        end = bisect_right(self._runs, last + 1, key=lambda run: run[0])
        if begin < end:  # those that it touches become one with it
            first, last = min(first, self._runs[begin][0]), max(last, self._runs[end - 1][1])
        self._runs[begin:end] = [[first, last]]

    def remove(self, other: Sequences) -> None:
        """Take out what is in the other set."""
        self._runs = [[first, last] for first, last in subtract(self.runs, other.runs)]

    def fill_lowest_gap(self) -> tuple[int, int]:
        """Add what is missing between the two lowest runs, and give it; ValueError where there are no two."""
        (first, gap), (end, last) = self._runs[:2]
        self._runs[:2] = [[first, last]]
        return gap + 1, end - 1


def subtract(runs: Iterable[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of ``runs`` is not in ``taken``; both ascending, the runs of each apart. Linear in both."""
    found, place = [], 0
    for first, last in runs:
        while place < len(taken) and taken[place][0] <= last:
            begin, end = taken[place]
            if first < begin:
                found.append((first, begin - 1))
            first = max(first, end + 1)
            if end > last:
                break
            place += 1
        if first <= last:
            found.append((first, last))
    return found
