"""The site's floor: what is weaker in any respect is refused with the field, what is as strong is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.policy_files import FloorError, PolicyError, read_file, read_floor
from sfumato.agents.settings import Settings
from sfumato.schemas.floor import Floor
from sfumato.schemas.policy import Policy
from tests.test_anonymize import POLICY

FLOOR = """
targets = ["face"]
masks = ["solid", "mosaic"]
cells = 6
threshold = 0.3
smallest = 24
dilation = 0.1
hold = 0.5
lookahead = 0.2
never_mask = false
"""
FACE = {"mask": "mosaic", "cells": 6, "threshold": 0.3, "smallest": 24, "dilation": 0.1}
AT_FLOOR = {**json.loads(POLICY.model_dump_json()), "targets": {"face": FACE}, "hold": 0.5, "lookahead": 0.2}


def floor(tmp_path, text=FLOOR):
    (tmp_path / "floor.toml").write_text(text)
    return read_floor(Settings(policy_floor=tmp_path / "floor.toml"))


def problems(found, **fields):
    return found.problems(Policy.model_validate({**AT_FLOOR, **fields}))


def test_what_is_at_the_floor_is_allowed(tmp_path):
    assert problems(floor(tmp_path)) == ()
    assert problems(Floor()) == problems(read_floor(Settings())) == ()


NIGHT = {"name": "night", "daily": {"begins": "22:00", "ends": "06:00", "time_zone": "UTC"}}
SPARED = {"name": "road", "polygon": [[0, 0], [1, 0], [1, 1]], "rule": "never_mask"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targets": {"person": FACE}}, "targets.face: missing; the site's floor wants it masked"),
        (
            {"targets": {"face": {**FACE, "cells": 7}}},
            "targets.face.cells: more than the site's floor allows; at most 6",
        ),
        (
            {"targets": {"face": {**FACE, "threshold": 0.31}}},
            "targets.face.threshold: higher than the site's floor allows",
        ),
        (
            {"targets": {"face": {**FACE, "threshold": None}}},
            "targets.face.threshold: left to the worker; state at most 0.3",
        ),
        ({"targets": {"face": {**FACE, "smallest": 25}}}, "targets.face.smallest: higher than"),
        (
            {"targets": {"face": {**FACE, "smallest": None}}},
            "targets.face.smallest: left to the worker; state at most 24",
        ),
        (
            {"targets": {"face": {**FACE, "dilation": 0}}},
            "targets.face.dilation: less than the site's floor; at least 0.1",
        ),
        ({"targets": {"face": FACE, "text": {}}}, "targets.text.threshold: left to the worker"),
        (
            {"targets": {"face": FACE, "motion": {**FACE, "threshold": None, "smallest": 30}}},
            "targets.motion.smallest: higher",
        ),
        ({"hold": 0.4}, "hold: less than the site's floor; at least 0.5"),
        ({"lookahead": 0}, "lookahead: less than"),
        ({"zones": [SPARED]}, "zones.0.rule: never_mask is not allowed by the site's floor; take the zone out"),
        ({"schedules": [{**NIGHT, "targets": {"person": FACE}}]}, "schedules.0.targets.face: missing"),
        ({"schedules": [{**NIGHT, "zones": [SPARED]}]}, "schedules.0.zones.0.rule: never_mask"),
    ],
)
def test_what_is_weaker_is_refused_with_field_and_remedy(tmp_path, fields, said):
    (problem,) = [line for line in problems(floor(tmp_path), **fields) if line.startswith(said.partition(":")[0])]
    assert problem.startswith(said)


def test_masks_that_are_not_allowed(tmp_path):
    solid = floor(tmp_path, 'masks = ["solid"]')
    zone = {**SPARED, "rule": "always_mask", "mask": "mosaic"}
    assert problems(solid, zones=[zone]) == (
        "targets.face.mask: mosaic is not allowed by the site's floor; one of solid",
        "zones.0.mask: mosaic is not allowed by the site's floor; one of solid",
    )


def test_a_blur_where_it_is_allowed_is_bounded():
    blurred = {"face": {"mask": "blur", "sigma": 0.1}}
    assert problems(Floor(sigma=0.1), targets=blurred) == ()
    assert problems(Floor(sigma=0.2), targets=blurred) == (
        "targets.face.sigma: less than the site's floor; at least 0.2",
    )
    assert problems(Floor(sigma=0.2)) == ()


def test_a_schedule_that_masks_all_is_never_below(tmp_path):
    assert problems(floor(tmp_path), schedules=[{**NIGHT, "full_mask": True}]) == ()


def test_a_problem_of_the_policy_is_not_told_again_for_each_schedule(tmp_path):
    found = problems(floor(tmp_path), targets={"person": FACE}, schedules=[{**NIGHT, "zones": []}])
    assert found == ("targets.face: missing; the site's floor wants it masked",)


@given(st.data())
def test_any_bound_crossed_is_named_and_only_that(data):
    strict = Floor(cells=4, threshold=0.4, smallest=20, dilation=0.2, hold=0.5, lookahead=0.1)
    draw = data.draw
    masking = {
        "mask": draw(st.sampled_from(["mosaic", "solid"])),
        "cells": draw(st.integers(1, 8)),
        "threshold": draw(st.floats(0, 1)),
        "smallest": draw(st.integers(4, 40)),
        "dilation": draw(st.floats(0, 1)),
    }
    hold, lookahead = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    expected = {
        "targets.face.cells": masking["mask"] == "mosaic" and masking["cells"] > 4,
        "targets.face.threshold": masking["threshold"] > 0.4,
        "targets.face.smallest": masking["smallest"] > 20,
        "targets.face.dilation": masking["dilation"] < 0.2,
        "hold": hold < 0.5,
        "lookahead": lookahead < 0.1,
    }
    found = problems(strict, targets={"face": masking}, hold=hold, lookahead=lookahead)
    assert {line.partition(":")[0] for line in found} == {name for name, crossed in expected.items() if crossed}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "colour: unknown key"),
        ('targets = ["aura"]', "targets.0: unknown name; one of 'face'"),
        ("masks = []", "masks: "),
        ("threshold = 2", "threshold: "),
        ("threshold", "Expected '='"),
    ],
)
def test_a_floor_that_cannot_be_read_is_an_error(tmp_path, text, said):
    with pytest.raises(FloorError, match=said) as caught:
        floor(tmp_path, text)
    assert f"SFUMATO_POLICY_FLOOR {tmp_path / 'floor.toml'}: " in str(caught.value)


@pytest.mark.parametrize("path", ["none.toml", "."])
def test_a_floor_that_is_not_there_is_an_error(tmp_path, path):
    with pytest.raises(FloorError, match=r"SFUMATO_POLICY_FLOOR .*: (No such file|Is a directory)"):
        read_floor(Settings(policy_floor=tmp_path / path))


def test_files_are_held_against_it(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(AT_FLOOR))
    assert len(read_file(path, floor(tmp_path))) == 1
    path.write_text(json.dumps({**AT_FLOOR, "hold": 0.1}))
    assert len(read_file(path)) == 1
    with pytest.raises(PolicyError, match=r"policy of 'north': hold: less than the site's floor; at least 0\.5"):
        read_file(path, floor(tmp_path))
