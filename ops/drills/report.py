"""What a drill came to: a row of the table, and the JSON that everything ends with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """``recovery_s``: the worst of its ``faults``, from the fault's end until outputs flow again; None: there is none.
    ``searched``: published pictures in which the marker was looked for, ``units`` of them of H.264; ``unsearchable``:
    messages without a picture in which it could be. ``reasons``: audit events by reason. ``more``:
    what is the drill's own. ``failed``: what did not hold besides the counts."""

    lost: int = 0
    unaccounted: int = 0
    duplicates: int = 0
    leaked: int = 0
    recovery_s: float | None = None
    faults: int = 0
    frames: int = 0
    searched: int = 0
    units: int = 0
    unsearchable: int = 0
    disordered: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    name: str = ""
    broker: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        counted = (self.lost, self.unaccounted, self.leaked, self.disordered, self.unsearchable)
        return not (any(counted) or self.failed)

    def json(self) -> dict[str, Any]:
        """As it is published: the name first."""
        fields = asdict(self)
        first = ("name", "lost", "unaccounted", "duplicates", "leaked", "recovery_s")
        stamped = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "version": version("sfumato")}
        return {**{key: fields.pop(key) for key in first}, **fields.pop("more"), **fields, **stamped}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write the results where others read them; returns the one line of JSON."""
    line = json.dumps({"drills": list(rows)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    return line


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The same for people, as Markdown."""
    lines = [
        "| drill | faults | frames | lost | unaccounted | leaked | duplicates | recovery, worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        took = "" if row["recovery_s"] is None else f"{row['recovery_s']:.1f} s"
        failed = f" **{row['failed']}**" if row["failed"] else ""
        failed += f" **{row['unsearchable']} unsearchable**" if row["unsearchable"] else ""
        counts = " | ".join(
            str(row[key]) for key in ("faults", "frames", "lost", "unaccounted", "leaked", "duplicates")
        )
        lines.append(f"| `{row['name']}`{failed} | {counts} | {took} |")
    return "\n".join(lines)
