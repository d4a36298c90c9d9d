"""What came of checking: a line for each check, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CHECKS = {
    "key": "whose key",
    "signatures": "checkpoints signed",
    "heads": "heads recomputed",
    "since": "nothing rewritten since",
    "events": "events well-formed",
    "counts": "counts as sealed",
    "missing": "frames missing",
    "policies": "policies known",
    "weights": "models known",
    "frames": "frames as audited",
    "copies": "other copies",
    "manifest": "files as listed",
    "proof": "event in the log",
}
"""The checks in the order of the table, and what a person reads."""
NAMED = 1000
"""Failures that are named one by one; the rest are only counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """``where``: a frame (camera/epoch/sequence), a leaf or a file."""

    check: str
    where: str
    problem: str


@dataclass(slots=True)
class Check:
    detail: str = ""
    notes: list[str] = field(default_factory=list)
    failed: int = 0

    @property
    def status(self) -> str:
        return "failed" if self.failed else "note" if self.notes else "ok"


@dataclass(slots=True)
class Verdict:
    """``facts``: what was checked, for the JSON document."""

    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    _checks: dict[str, Check] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self._checks) and not any(check.failed for check in self._checks.values())

    def check(self, name: str) -> Check:
        """The check of this name, from now on part of the verdict."""
        if name not in CHECKS:
            raise ValueError(f"unknown check {name!r}")
        return self._checks.setdefault(name, Check())

    def say(self, name: str, detail: str) -> None:
        self.check(name).detail = detail

    def note(self, name: str, text: str) -> None:
        """What does not fail the check, and must be read all the same."""
        self.check(name).notes.append(text)

    def fail(self, name: str, where: str, problem: str) -> None:
        self.check(name).failed += 1
        if len(self.failures) < NAMED:
            self.failures.append(Failure(name, printable(where), printable(problem)))

    def document(self) -> dict[str, Any]:
        """The verdict as JSON; ``failed`` counts all failures, ``failures`` names the first :data:`NAMED`."""
        return {
            "verdict": "passed" if self.passed else "failed",
            **self.facts,
            "checks": {
                name: {"status": check.status, "detail": check.detail, "notes": check.notes, "failed": check.failed}
                for name, check in self._ordered()
            },
            "failed": sum(check.failed for check in self._checks.values()),
            "failures": [{"check": f.check, "where": f.where, "problem": f.problem} for f in self.failures],
        }

    def table(self) -> Iterator[str]:
        """The verdict for people, line by line."""
        for name, check in self._ordered():
            status = "FAILED" if check.failed else check.status
            counted = f"{check.failed} problem{'s' * (check.failed != 1)}" if check.failed else check.detail
            yield f"{status:<7} {CHECKS[name]:<24} {printable(counted, 5000)}".rstrip()
            yield from (f"{'':8}{printable(note, 5000)}" for note in check.notes)
            named = [failure for failure in self.failures if failure.check == name]
            yield from (f"{'':8}{failure.where}: {failure.problem}" for failure in named)
            if len(named) < check.failed:
                yield f"{'':8}and {check.failed - len(named)} more"
        yield f"verdict: {'passed' if self.passed else 'FAILED'}"

    def _ordered(self) -> Iterator[tuple[str, Check]]:
        return ((name, self._checks[name]) for name in CHECKS if name in self._checks)


def printable(text: str, most: int = 500) -> str:
    """Without what a terminal would take for a command: names of files come from outside."""
    short = text if len(text) <= most else text[:most] + "…"
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in short)
