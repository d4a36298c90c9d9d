"""``python -m drills`` (with ``ops`` in ``PYTHONPATH``), which ``make drills`` runs.

The last line on stdout is one JSON object, which is also written to a file. Exit status 0 only if in no drill anything
was lost, unaccounted for, leaked or out of order, and each held what it says.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from stack import StackError

from drills import report
from drills.plan import Plan
from drills.registry import DRILLS, KAFKA_ONLY
from drills.report import Row
from drills.site import DrillError
from sfumato.schemas.fault import Fault

LONGEST = 1800
"""Seconds after which a drill is given up."""


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, _give_up)
    wanted = options.drills.split(",") if options.drills else list(DRILLS)
    if unknown := [name for name in wanted if name not in DRILLS]:
        sys.exit(f"unknown drill {', '.join(unknown)}; one of: {', '.join(DRILLS)}")
    rows: list[dict[str, Any]] = []
    passed = True
    for name in wanted:
        if options.broker == "embedded" and name in KAFKA_ONLY:
            say(f"{name}: only with BROKER=kafka")
            continue
        row = run(name, Plan(options.broker, options.times))
        passed = passed and row.passed
        rows.append(row.json())
        line = report.write(options.out, rows)
        say(f"{name}: {'held' if row.passed else 'FAILED'} {row.json()}")
    print(report.table(rows), file=sys.stderr, flush=True)
    if rows:
        print(line, flush=True)
    return 0 if passed and rows else 1


def run(name: str, plan: Plan) -> Row:
    """The drill's row; one that could not be run to its end says why in ``failed``."""
    began = time.monotonic()
    signal.alarm(LONGEST)
    try:
        row = DRILLS[name](plan)
    except (DrillError, StackError, Fault, OSError) as error:
        row = Row(failed=str(error))
    except Exception as error:  # noqa: BLE001 - of one drill; the others are run all the same
        traceback.print_exception(error)
        row = Row(failed=repr(error))
    finally:
        signal.alarm(0)
    row.name, row.broker, row.seconds = name, plan.kind, round(time.monotonic() - began, 1)
    return row


def _give_up(*_: object) -> None:
    raise DrillError(f"took longer than {LONGEST} s")


def say(text: str) -> None:
    print(f"drills: {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="drills", description=__doc__)
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--drills", default="", help="comma-separated; default: all that the broker can do")
    parser.add_argument("--times", type=int, default=20, help="faults per drill, at most")
    parser.add_argument("--out", type=Path, default=Path("build/drills.json"), help="the file of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
