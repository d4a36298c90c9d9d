"""Made-up input for everything that parses what others wrote. ``make fuzz [CASES=100000]`` runs it.

    python ops/fuzz.py [--cases 100000] [--seed 1] [--only NAME,NAME] [--keep FOLDER]

First each input of ``tests/corpus/NAME`` and each seed of ``ops/fuzz_targets.py``, then as many made from these, guided
by coverage (atheris, where it has a wheel; else without). Each target runs in a child process with little address
space, so that a crash of a native library is a finding, too. A finding is whatever is not the target's own error: other
exceptions, a crash, a hang, more memory or time than stated, and an error whose text quotes the input. ``--keep``
writes the inputs of findings there. The last line on stdout is one JSON object; exit status 1 where there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):  # no wheel for this machine
    import atheris

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "corpus"
LONGEST = 16_384
"""Bytes of a case, at most."""
CPU_SECONDS = 3.0
"""That a case may take."""
PATIENCE = 60.0
"""Seconds without a new case after which the child hangs."""
ADDRESS_SPACE = 2 << 30
"""Bytes that a child may map beyond what it was born with; what wants more gets a MemoryError."""
LONGEST_TEXT = 4096
"""Characters of an error's text, and besides them twice the input: it goes into logs and answers."""
MOST_FINDINGS = 3
"""Of a target; then the next one's turn comes."""
CANARY = "Px1eLsOfAfAcE"
"""Stands in the seeds where a value stands that no error may quote."""
FOUND = 77
HOSTILE = (
    b"",
    b"[" * 6000,
    b'{"a":' * 3000,
    b"a=" + b"[" * 6000,
    b"9" * 5000,
    b"<a>" * 5000,
    b"\xff" * 64,
    b"\xed\xa0\x80",
)
"""Tried on every target: nested deeply, numbers of thousands of digits, what is no text."""


@dataclass(frozen=True)
class Target:
    """``parse``: gets the bytes. ``refuses``: the errors that it may raise. ``megabytes``: resident memory that it may
    take. ``binary``: its errors hold no run of twelve bytes of the input; else not the canary, unless that became the
    name of a field."""

    parse: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...] = ()
    seeds: Callable[[], list[bytes]] = list
    megabytes: int = 64
    binary: bool = False


@dataclass
class Result:
    cases: int = 0
    peak_megabytes: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)


class Blackboard:
    """Memory that a child shares with its parent: how many cases there were, the present one, and what was found."""

    HEAD = struct.Struct("<QQII")

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, self.HEAD.size + LONGEST + 2048)

    def begin(self, data: bytes) -> None:
        cases, peak, _, _ = self.HEAD.unpack_from(self._map)
        self.HEAD.pack_into(self._map, 0, cases + 1, peak, len(data), 0)
        self._map[self.HEAD.size : self.HEAD.size + len(data)] = data

    def end(self, peak: int) -> None:
        cases, _, _, text = self.HEAD.unpack_from(self._map)
        self.HEAD.pack_into(self._map, 0, cases, peak, 0, text)

    def report(self, text: str) -> None:
        written = text.encode(errors="replace")[:2048]
        cases, peak, length, _ = self.HEAD.unpack_from(self._map)
        self.HEAD.pack_into(self._map, 0, cases, peak, length, len(written))
        self._map[self.HEAD.size + LONGEST : self.HEAD.size + LONGEST + len(written)] = written

    @property
    def cases(self) -> int:
        return int(self.HEAD.unpack_from(self._map)[0])

    @property
    def peak(self) -> int:
        return int(self.HEAD.unpack_from(self._map)[1])

    @property
    def data(self) -> bytes:
        return self._map[self.HEAD.size : self.HEAD.size + self.HEAD.unpack_from(self._map)[2]]

    @property
    def text(self) -> str:
        begin = self.HEAD.size + LONGEST
        return self._map[begin : begin + self.HEAD.unpack_from(self._map)[3]].decode()


def fuzz(name: str, target: Target, cases: int, seed: int) -> Result:
    """The corpus, the seeds, and so many cases made from them."""
    known, result = [*corpus(name), *target.seeds(), *HOSTILE], Result()
    left = known
    while left and len(result.findings) < MOST_FINDINGS:
        left = left[_in_child(result, name, target, lambda one, left=left: [one(data) for data in left]) :]
    faulty = {finding["input"] for finding in result.findings}
    known = [data for data in known if data.hex() not in faulty]
    made = 0
    while made < cases and len(result.findings) < MOST_FINDINGS:
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(known):
                (Path(folder) / str(number)).write_bytes(data)
            wanted, start = cases - made, seed + made
            made += _in_child(
                result, name, target, lambda one, w=wanted, s=start, f=folder: invent(one, known, f, w, s)
            )
    return result


def replay(name: str, target: Target, *cases: bytes) -> Result:
    """These cases alone, in a child."""
    result = Result()
    _in_child(result, name, target, lambda one: [one(data) for data in cases])
    return result


def corpus(name: str) -> list[bytes]:
    """The inputs that were faults once."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def invent(one: Callable[[bytes], object], known: list[bytes], folder: str, cases: int, seed: int) -> None:
    """Cases made from what is known: guided by coverage, or blindly."""
    if "atheris" not in sys.modules:
        chance = random.Random(seed)
        for _ in range(cases):
            one(mutated(known, chance))
        return
    options = [f"-runs={cases + len(known) + 1}", f"-seed={seed}", f"-max_len={LONGEST}", "-rss_limit_mb=0"]
    options += ["-timeout=3600", "-detect_leaks=0", "-close_fd_mask=0", f"-artifact_prefix={folder}/"]
    atheris.Setup(["fuzz", *options, folder], one)
    atheris.Fuzz()


def mutated(known: list[bytes], chance: random.Random) -> bytes:
    """One of them with some bytes changed, left out, doubled or taken from another."""
    data = bytearray(chance.choice(known or [b""]))
    for _ in range(chance.randint(1, 5)):
        at, other = chance.randint(0, len(data)), chance.choice(known or [b""])
        length = chance.choice((1, 2, 4, 16, 256))
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * chance.choice((1, 8))
            case 3:
                begin = chance.randint(0, len(other))
                data[at:at] = other[begin : begin + length]
    return bytes(data[:LONGEST])


def _in_child(result: Result, name: str, target: Target, cases: Callable[[Any], object]) -> int:
    """Run cases in a child process; returns how many it began. The last one is the finding, if it made one."""
    board, said = Blackboard(), os.memfd_create("said")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(said, 1)  # libFuzzer and FFmpeg talk
            os.dup2(said, 2)
            _confine()
            cases(_judge(target, board))
            status = 0
        except BaseException:  # noqa: BLE001 - of this program itself
            board.report(traceback.format_exc())
        finally:
            os._exit(status)
    why = _wait(child, board)
    if why.startswith("crash"):
        why += _last_words(said)
    os.close(said)
    result.cases += board.cases
    result.peak_megabytes = max(result.peak_megabytes, board.peak >> 20)
    if why:
        result.findings.append({"target": name, "what": board.text or why, "input": board.data.hex()})
    return board.cases


def _last_words(said: int) -> str:
    """What a crashed child, or libFuzzer in it, has said at the end."""
    os.lseek(said, max(0, os.lseek(said, 0, os.SEEK_END) - 65_536), os.SEEK_SET)
    lines = os.read(said, 65_536).decode(errors="replace").splitlines()
    begin = max(0, len(lines) - 15)
    return "".join(f"\n{line[:200]}" for line in lines[begin:])


def _wait(child: int, board: Blackboard) -> str:
    """Until the child has ended; how it went wrong, empty where it did not."""
    seen, at = 0, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"crash ({signal.Signals(-code).name if code < 0 else f'status {code}'})"
        if board.cases != seen:
            seen, at = board.cases, time.monotonic()
        elif time.monotonic() - at > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.01)


def _confine() -> None:
    logging.disable(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _judge(target: Target, board: Blackboard) -> Callable[[bytes], None]:
    """What is done with each case; leaves the process at a finding."""
    born = _resident()

    def one(data: bytes) -> None:
        data = bytes(data)
        board.begin(data)
        began, problem = time.process_time(), ""
        try:
            target.parse(data)
        except target.refuses as error:
            problem = told(str(error), data, target.binary)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:200]}"
        spent, peak = time.process_time() - began, _resident() - born
        if spent > CPU_SECONDS:
            problem = problem or f"takes {spent:.1f} s"
        if peak > target.megabytes << 20:
            problem = problem or f"takes {peak >> 20} MB; at most {target.megabytes}"
        if problem:
            board.report(problem)
            os._exit(FOUND)
        board.end(peak)

    return one


def told(text: str, data: bytes, binary: bool) -> str:
    """What an error's text says that it must not; empty: nothing."""
    if "MemoryError" in text:
        return "wants more memory than there is"
    if len(text) > LONGEST_TEXT + 2 * len(data):
        return f"an error's text of {len(text)} characters"
    if binary:
        raw = data.decode("latin-1")
        return next((f"quotes {text[n : n + 12]!r}" for n in range(len(text) - 11) if text[n : n + 12] in raw), "")
    return f"quotes a value: {text[:200]}" if CANARY in text and not names_field(data) else ""


def names_field(data: bytes) -> bool:
    """Whether the canary has become a field's name: those are quoted."""
    before = data.decode(errors="replace").split(CANARY)[1:]
    return any(after.lstrip(" \t\"'\\").startswith((":", "=", "]", ".", "/", ">")) for after in before)


def _resident() -> int:
    """The most that this process had in memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def targets(only: str) -> Iterator[tuple[str, Target]]:
    """The registry, its modules instrumented where they are parsers of ours."""
    if "atheris" in sys.modules:
        ours = ["sfumato", "joserfc", "defusedxml"]
        with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=ours):
            import fuzz_targets
    else:
        import fuzz_targets
    names = only.split(",") if only else list(fuzz_targets.TARGETS)
    return ((name, fuzz_targets.TARGETS[name]) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="in all, shared among the targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets, comma-separated")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs of findings")
    options = parser.parse_args()
    chosen = list(targets(options.only))
    results: dict[str, Result] = {}
    for name, target in chosen:
        results[name] = fuzz(name, target, -(-options.cases // len(chosen)), options.seed)
        print(
            f"{name}: {results[name].cases} cases, {len(results[name].findings)} findings", file=sys.stderr, flush=True
        )
    findings = [finding for result in results.values() for finding in result.findings]
    if options.keep is not None:
        for number, finding in enumerate(findings):
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{finding['target']}-{number}").write_bytes(bytes.fromhex(finding["input"]))
    figures = {
        "cases": sum(result.cases for result in results.values()),
        "guided": "atheris" in sys.modules,
        "targets": {name: result.cases for name, result in results.items()},
        "peak_megabytes": {name: result.peak_megabytes for name, result in results.items()},
        "findings": findings,
    }
    print(json.dumps(figures), flush=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
