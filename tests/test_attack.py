"""The masks under attack, in short; ``make attack`` has the rest. Needs labelled pictures beside the repository."""

from __future__ import annotations

import attacked
import pytest

pytestmark = pytest.mark.skipif(
    not (attacked.EVAL / "identities").is_dir(),
    reason=f"no labelled pictures of people and plates in {attacked.EVAL}: nothing to attack",
)


@pytest.fixture(scope="module")
def faces():
    import attack_faces

    return attack_faces.FaceAttack(), {row.name: row for row in attack_faces.rows()}


def test_faces_are_recognised_unmasked_and_at_chance_under_the_default(faces):
    attack, rows = faces
    seen = attack.run(rows["none"])
    assert min(seen["against masked"].low, seen["against plain"].low) > 0.95
    hidden = attack.run(rows["default"])
    for column, figure in hidden.items():
        assert figure.low <= 0.5, f"{column}: {figure}"
        assert figure.value <= 0.6, f"{column}: {figure}"


def test_the_attack_sees_through_a_blur(faces):
    attack, rows = faces
    assert attack.run(rows["blur 0.03"])["undone"].low > 0.9


def test_plates_are_read_unmasked_and_at_chance_under_the_default():
    import attack_plates

    attack = attack_plates.PlateAttack(limit=10)
    none, default, *_ = attack_plates.rows()
    assert (none.name, default.name) == ("none", "default")
    assert attack.read(none.mask) > 0.9
    assert attack.read(default.mask) <= 0.1
    assert attack.match(none.mask, drawn=True).nearer.low > 0.95
    for drawn in (False, True):
        match = attack.match(default.mask, drawn=drawn)
        assert match.nearer.low <= 0.5 <= match.nearer.high
        assert match.found <= 0.1
