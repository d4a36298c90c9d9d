"""Attack the masks with a face recogniser, a plate reader and a matcher; print what they find. ``make attack`` runs it.

Prints the tables of docs/masks.md on stdout. Needs the extra ``attack`` and labelled pictures of known people and
plates beside the repository; without them it says so and ends well. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping

import attacked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["faces", "plates"])
    only = parser.parse_args().only
    if not (attacked.EVAL / "identities").is_dir():
        print(f"attack: no pictures of known people in {attacked.EVAL}; nothing was attacked", file=sys.stderr)
        return 0
    if only != "plates":
        import attack_faces

        faces = attack_faces.FaceAttack()
        table("face", faces.columns, ((row.name, faces.run(row)) for row in attack_faces.rows()))
    if only != "faces":
        import attack_plates

        plates = attack_plates.PlateAttack()
        table("plate", plates.columns, ((row.name, plates.run(row)) for row in attack_plates.rows()))
    return 0


def table(what: str, columns: tuple[str, ...], rows: Iterable[tuple[str, Mapping[str, object]]]) -> None:
    """As Markdown, row by row, since each takes a while."""
    print(f"| {what} | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, figures in rows:
        print(f"| {name} | {' | '.join(str(figures.get(column, '')) for column in columns)} |", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
